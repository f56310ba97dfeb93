"""Hands an envelope to the connection it is meant for, or sends it on to where its session is now (DESIGN 5).

Assignments are never sent on: they name a connection, and another one must not send them. A session's event is sent on
once; what nobody waits for is dropped with a reason.
"""

import msgspec

from dispatch.messages.base import InvalidFrame
from dispatch.messages.envelope import Envelope
from dispatch.messages.node import JobResult, decode_node
from dispatch.service.core import Core
from dispatch.service.courier import Courier, unpack_grant
from dispatch.service.nodes import NodeLink
from dispatch.service.sessions import SessionLink
from dispatch.store.client import command
from dispatch.store.inbox import DONE, Delivery, Failed
from dispatch.switchboard import Exchange

_HOPS = 1


class Deliverer:
    """What the inbox reader calls with every envelope."""

    def __init__(
        self, core: Core, courier: Courier, nodes: "Exchange[NodeLink]", sessions: "Exchange[SessionLink]"
    ) -> None:
        self._core = core
        self._courier = courier
        self._nodes = nodes
        self._sessions = sessions

    async def deliver(self, envelope: Envelope) -> Delivery:
        """Raises `DependencyDown` when Redis has to be asked and does not answer."""
        if envelope.target_kind == "node":
            return self._to_node(envelope)
        link = self._sessions.get(envelope.target)
        if link is None:
            return await self._send_on(envelope)
        match envelope.kind:
            case "verdict":
                return await self._verdict(link, envelope)
            case "ending":
                outcome, _, reason = envelope.body.decode().partition(" ")
                link.ended(envelope.job, outcome, reason)
            case "partial":
                link.heard(envelope.job, envelope.body[1:].decode(errors="replace"), envelope.body[:1] == b"1")
            case _:
                return Failed(f"no session is told about {envelope.kind}")
        return DONE

    def _to_node(self, envelope: Envelope) -> Delivery:
        link = self._nodes.get(envelope.target)
        if link is None:
            return "dropped:target_gone"
        if link.epoch != envelope.epoch:
            return "dropped:other_epoch"
        if envelope.kind == "cancel":
            link.stop(envelope.lease, envelope.job, envelope.body.decode())
            return DONE
        try:
            link.take(*unpack_grant(envelope.body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Failed(f"the assignment cannot be read: {error}")
        return DONE

    async def _verdict(self, link: SessionLink, envelope: Envelope) -> Delivery:
        raw = envelope.body
        if envelope.ref:
            stored: bytes | None = await self._core.client.run(command("GET", envelope.ref))
            if stored is None:
                return "dropped:content_gone"
            raw = stored
        try:
            result = decode_node(raw)
        except InvalidFrame as error:
            return Failed(str(error))
        if not isinstance(result, JobResult):
            return Failed("the content is not a job_result")
        link.answered(envelope.job, envelope.lease, result)
        return DONE

    async def _send_on(self, envelope: Envelope) -> Delivery:
        if envelope.hops >= _HOPS:
            return "dropped:target_gone"
        owner = await self._core.client.run(self._core.owners.owner(self._core.keys.session_owner(envelope.target)))
        if owner is None or owner == self._core.instance:
            return "dropped:target_gone"
        self._courier.post(owner, msgspec.structs.replace(envelope, hops=envelope.hops + 1))
        return "dropped:sent_on"
