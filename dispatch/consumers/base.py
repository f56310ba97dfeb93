"""What both kinds of socket share: accept, read frames one after the other, answer what cannot be read, clean up.

Channels' consumers close old database connections around every message, a thread hop per frame that halves the
throughput (DESIGN 6); nothing here touches the database, so the ASGI messages are read directly.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import structlog
from channels.consumer import AsyncConsumer

from dispatch import metrics
from dispatch.instance import Instance
from dispatch.messages.base import ErrorFrame, InvalidFrame, encode
from dispatch.messages.codes import ErrorCode
from dispatch.servers.base import port_of
from dispatch.service.outbox import Outbox

log = structlog.get_logger(__name__)

_FRAMES_IN_A_ROW = 4  #: of one socket, before everybody else has a turn

TRY_AGAIN = 1013  #: close code: this instance takes no new sockets now; another may


class SocketConsumer(AsyncConsumer, ABC):
    """One WebSocket. Subclasses turn frames into calls of a service; they decide nothing about jobs."""

    kind: ClassVar[str]

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self.instance = instance
        self.outbox: Outbox

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        port = port_of(send)
        await receive()  # websocket.connect

        async def send_text(text: str) -> None:
            await send({"type": "websocket.send", "text": text})

        if not self.instance.takes_sockets():
            metrics.sockets_refused.labels(self.kind).inc()
            await send({"type": "websocket.accept"})
            port.close(TRY_AGAIN, "this instance takes no new sockets now")
        else:
            self.outbox = Outbox(send_text, port, kind=self.kind, limit=self.buffer_limit())
            await send({"type": "websocket.accept"})
            metrics.sockets_opened.labels(self.kind).inc()
        refused = not hasattr(self, "outbox")
        handled = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    return
                if not refused:
                    await self._frame(message.get("text") or message.get("bytes") or b"")
                    # What has arrived already is received without waiting: now and then let the others have their turn.
                    handled += 1
                    if handled % _FRAMES_IN_A_ROW == 0:
                        await asyncio.sleep(0)
        finally:
            if not refused:
                self.outbox.gone()
                metrics.sockets_closed.labels(self.kind).inc()
                self.left()

    async def _frame(self, data: str | bytes) -> None:
        if len(data) > self.frame_limit():
            metrics.frames_refused.labels(self.kind, "too_large").inc()
            self.refuse(
                ErrorCode.INVALID_MESSAGE, f"Invalid message format: {len(data)} bytes, at most {self.frame_limit()}"
            )
            return
        try:
            await self.frame(data)
        except InvalidFrame as error:
            metrics.frames_refused.labels(self.kind, "invalid").inc()
            self.refuse(ErrorCode.INVALID_MESSAGE, str(error))
        except Exception:
            # One frame that we cannot handle is our fault; it must not end the socket and everybody's work on it.
            log.exception("frame_failed", kind=self.kind, size=len(data))
            metrics.frames_refused.labels(self.kind, "failed").inc()
            self.refuse(ErrorCode.INTERNAL_ERROR, "Failed to process message: internal error")

    def refuse(self, code: str, message: str) -> None:
        """Tell the peer what was wrong; the socket lives on."""
        self.outbox.put(encode(ErrorFrame(code=code, message=message, trace_id=self.trace_id())))

    def trace_id(self) -> str | None:
        """The trace under which the peer's errors go; None before there is one."""
        return None

    @abstractmethod
    def buffer_limit(self) -> int:
        """Unread outgoing bytes that cut this kind of socket."""

    @abstractmethod
    def frame_limit(self) -> int:
        """Largest frame that this kind of peer may send."""

    @abstractmethod
    async def frame(self, data: str | bytes) -> None:
        """Handle one frame; `InvalidFrame` when it cannot be understood."""

    @abstractmethod
    def left(self) -> None:
        """The socket is closed."""
