"""Carries news to the connection it concerns: straight over when the socket is here, else through the owner's inbox.

Local peers never touch a stream. A full inbox is told to the sender and counted; what the envelope would have said is
then found by the next beat, the utterance watch or the due keeper, since an envelope is only a doorbell (DESIGN 5).
"""

import secrets
from typing import Protocol

import msgspec
import structlog

from dispatch import metrics
from dispatch.errors import DependencyDown
from dispatch.messages.envelope import INLINE_BYTES, Envelope, Kind, encode
from dispatch.messages.node import JobResult, NodePartial
from dispatch.service.core import Core
from dispatch.service.tasks import Tasks
from dispatch.store.cells import Cancel, Ending, Grant, News
from dispatch.store.inbox import Inbox
from dispatch.store.outcome import Refused
from dispatch.switchboard import Lookup

log = structlog.get_logger(__name__)
_PARTIAL_SECONDS = 5.0  #: older partials are of no use
_ASSIGN_SECONDS = 5.0  #: above any difference of two machines' clocks; the cell itself waits only `unsent_ms`
_grant_encoder = msgspec.msgpack.Encoder().encode
_grant_decoder = msgspec.msgpack.Decoder(Grant).decode


class NodeEnd(Protocol):
    """A node's link, as the courier sees it."""

    def take(self, grant: Grant, body: str | None) -> None: ...
    def stop(self, lease: str, job: str, reason: str) -> None: ...


class SessionEnd(Protocol):
    """A session's link, as the courier sees it."""

    def body_of(self, index: int, job: str) -> str | None: ...
    def tried_again(self, job: str, attempt: int) -> None: ...
    def answered(self, job: str, lease: str, result: JobResult) -> None: ...
    def ended(self, job: str, outcome: str, reason: str) -> None: ...
    def heard(self, job: str, text: str, is_final: bool) -> None: ...


class Courier:
    """Passes on what a script's answer or a node's frame means for others."""

    def __init__(self, core: Core, nodes: Lookup[NodeEnd], sessions: Lookup[SessionEnd], inbox: Inbox) -> None:
        self._core = core
        self._nodes = nodes
        self._sessions = sessions
        self._inbox = inbox
        self._limit = core.config.scheduler.phase2.stream_maxlen
        self._sending = Tasks("courier")

    def pass_on(self, news: News) -> None:
        """Grants to the nodes' owners, attempts to stop likewise, endings to the sessions' owners."""
        for grant in news.grants:
            self._grant(grant)
        for cancel in news.cancels:
            self._cancel(cancel)
        for ending in news.endings:
            self._ending(ending)

    def _grant(self, grant: Grant) -> None:
        session = self._sessions.get(grant.session)
        body = session.body_of(grant.index, grant.job) if session else None
        if session and grant.attempt > 1:
            session.tried_again(grant.job, grant.attempt)
        if grant.owner == self._core.instance:
            node = self._nodes.get(grant.node)
            if node is not None:
                node.take(grant, body)
            return
        self._post(
            "assign",
            grant.owner,
            grant.node,
            job=grant.job,
            lease=grant.lease,
            epoch=grant.epoch,
            payload=pack_grant(grant, body),
            seconds=_ASSIGN_SECONDS,
        )

    def _cancel(self, cancel: Cancel) -> None:
        if cancel.owner == self._core.instance:
            if node := self._nodes.get(cancel.node):
                node.stop(cancel.lease, cancel.job, cancel.reason)
            return
        self._post(
            "cancel",
            cancel.owner,
            cancel.node,
            job=cancel.job,
            lease=cancel.lease,
            epoch=cancel.epoch,
            payload=cancel.reason.encode(),
        )

    def _ending(self, ending: Ending) -> None:
        if session := self._sessions.get(ending.session):
            session.ended(ending.job, ending.outcome, ending.reason)
            return
        payload = f"{ending.outcome} {ending.reason}".encode()
        self._post("ending", ending.origin, ending.session, job=ending.job, payload=payload)

    def is_local(self, session: str) -> bool:
        """Whether this session's socket is here."""
        return self._sessions.get(session) is not None

    def answer(
        self, *, job: str, lease: str, session: str, origin: str, result: JobResult, raw: bytes, ref: str
    ) -> None:
        """A node's accepted answer, to the session; `ref` is where it lies when it is too large to ride along."""
        if link := self._sessions.get(session):
            link.answered(job, lease, result)
        elif len(raw) <= INLINE_BYTES:
            self._post("verdict", origin, session, job=job, lease=lease, payload=raw)
        else:
            self._post("verdict", origin, session, job=job, lease=lease, ref=ref)

    def partial(self, *, job: str, session: str, origin: str, partial: NodePartial) -> None:
        """Recognised text so far; may be lost."""
        if link := self._sessions.get(session):
            link.heard(job, partial.text, partial.is_final)
        else:
            flag = b"1" if partial.is_final else b"0"
            text = partial.text.encode()[: INLINE_BYTES - 1]
            self._post("partial", origin, session, job=job, payload=flag + text, seconds=_PARTIAL_SECONDS)

    def _post(
        self,
        kind: Kind,
        instance: str,
        target: str,
        *,
        job: str = "",
        lease: str = "",
        epoch: int = 0,
        payload: bytes = b"",
        ref: str = "",
        seconds: float | None = None,
    ) -> None:
        if not instance or instance == self._core.instance:
            metrics.envelopes.labels(kind, "target_gone").inc()
            return
        patience = seconds if seconds is not None else self._core.config.scheduler.utterance_deadline_seconds
        envelope = Envelope(
            event_id=secrets.token_hex(12),
            kind=kind,
            target_kind="node" if kind in ("assign", "cancel") else "session",
            target=target,
            epoch=epoch,
            job=job,
            lease=lease,
            deadline_ms=self._core.clock.wall_ms() + round(patience * 1000),
            trace_id="",
            source=self._core.instance,
            body=payload,
            ref=ref,
        )
        self.post(instance, envelope)

    def post(self, instance: str, envelope: Envelope) -> None:
        """Put an envelope into that instance's inbox, soon."""
        self._sending.spawn(self._put(instance, envelope))

    async def _put(self, instance: str, envelope: Envelope) -> None:
        try:
            answer = await self._core.client.run(self._inbox.put(instance, encode(envelope), limit=self._limit))
        except DependencyDown:
            metrics.envelopes.labels(envelope.kind, "unknown").inc()
            return
        if isinstance(answer, Refused):
            metrics.envelopes.labels(envelope.kind, "inbox_full").inc()
            log.warning("inbox_full", instance=instance, kind=envelope.kind, length=answer.detail)
        else:
            metrics.envelopes.labels(envelope.kind, "posted").inc()

    async def quiet(self) -> None:
        """Waits until everything posted so far lies in an inbox."""
        await self._sending.quiet()


def pack_grant(grant: Grant, body: str | None) -> bytes:
    """A grant as an envelope's content, with the assignment's body when both fit."""
    head = _grant_encoder(grant)
    text = body.encode() if body is not None else b""
    if len(head) + len(text) + 4 > INLINE_BYTES:
        text = b""
    return len(head).to_bytes(4, "big") + head + text


def unpack_grant(content: bytes) -> tuple[Grant, str | None]:
    """What `pack_grant` packed. Raises `ValueError` for anything else."""
    size = int.from_bytes(content[:4], "big")
    grant = _grant_decoder(content[4 : 4 + size])
    return grant, content[4 + size :].decode() or None
