"""`/ws/node`: frames of a node to calls of the node service."""

from typing import assert_never

import structlog

from dispatch import metrics
from dispatch.consumers.base import SocketConsumer
from dispatch.messages.base import ErrorFrame, InvalidFrame, encode
from dispatch.messages.node import (
    JobAck,
    JobResult,
    JobStarted,
    NodeError,
    NodeHeartbeat,
    NodePartial,
    NodeRegister,
    RequestPairingCode,
    decode_node,
)
from dispatch.service.nodes import NodeLink

log = structlog.get_logger(__name__)


class NodeConsumer(SocketConsumer):
    """One node's socket; who it is, its registration decides, never a later frame (PHASE3 13.A2)."""

    kind = "node"
    link: NodeLink | None = None

    async def frame(self, data: str | bytes) -> None:
        match frame := decode_node(data):
            case NodeRegister():
                await self._register(frame)
            case NodeHeartbeat() if self.link is None:
                # On a reconnect real nodes beat before they register (PROTOCOL 9.2 no. 10).
                metrics.frames_refused.labels("node", "early_heartbeat").inc()
            case _ if self.link is None:
                raise InvalidFrame("send node_register first")
            case JobResult():
                self.link.result(frame, data if isinstance(data, bytes) else data.encode())
            case NodeHeartbeat():
                self.link.heartbeat(frame)
            case JobAck() | JobStarted():
                self.link.acknowledged(frame)
            case NodePartial():
                self.link.partial(frame)
            case NodeError():
                log.warning("node_error", node=self.link.node, code=frame.code)
            case RequestPairingCode():
                raise InvalidFrame("pairing codes are not given out here")
            case _:
                assert_never(frame)

    async def _register(self, frame: NodeRegister) -> None:
        if self.link is not None:
            self.instance.nodes.leave(self.link)
            self.link = None
        link = await self.instance.nodes.register(frame, self.outbox)
        if isinstance(link, ErrorFrame):
            metrics.registrations.labels(link.code).inc()
            self.outbox.put(encode(link))
            return
        metrics.registrations.labels("registered").inc()
        self.link = link
        self.instance.nodes.welcome(link)

    def left(self) -> None:
        if self.link is not None:
            self.instance.nodes.leave(self.link)

    def buffer_limit(self) -> int:
        return self.instance.config.scheduler.limits.node_buffer_bytes

    def frame_limit(self) -> int:
        return self.instance.config.scheduler.limits.node_frame_bytes
