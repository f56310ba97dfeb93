"""Nodes whose sockets are open here: registration, heartbeats, assignments out, answers in.

A `NodeLink` is the only one that sends assignments to its node; its lease table is the second gate (DESIGN 3). Reports
to the cell are gathered for a moment, since a fast node's answer makes them needless; an answer goes at once.
"""

import asyncio
import heapq
import itertools
import secrets
from typing import Any

import structlog

from dispatch import languages, metrics
from dispatch.connections.health import CORE, Health, is_healthy
from dispatch.connections.node import Entry, Gate, LeaseTable, lease_of
from dispatch.errors import BrokenScript, DependencyDown
from dispatch.messages.base import ErrorFrame, encode
from dispatch.messages.capabilities import Capabilities, refusal
from dispatch.messages.codes import RETRYABLE_ELSEWHERE, ErrorCode
from dispatch.messages.node import (
    JobAck,
    JobCancel,
    JobResult,
    JobStarted,
    NodeHeartbeat,
    NodePartial,
    NodeRegister,
    NodeRegisterAck,
    NodeStatus,
    assign_frame,
)
from dispatch.messages.results import is_duplicate_answer
from dispatch.placement import DEFAULT_CELL
from dispatch.service.core import Core
from dispatch.service.courier import Courier
from dispatch.service.outbox import Outbox
from dispatch.service.tasks import Tasks
from dispatch.store.cells import Answer, Grant
from dispatch.store.outcome import Refused
from dispatch.store.script import Call
from dispatch.switchboard import Exchange

log = structlog.get_logger(__name__)

_REPORT_SECONDS = 0.1  #: how long reports wait for the answer that makes them needless; well within `unsent_ms`
_GAP_SECONDS = 0.1  #: how long an assignment waits for the one before it (DESIGN 3)
_AGAIN_SECONDS = 0.2  #: between two tries while Redis does not answer

TAKEN_OVER = 4001  #: close code: another connection of this peer has taken over; do not come back by yourself


class NodeLink:
    """One node's connection."""

    def __init__(
        self,
        core: Core,
        courier: Courier,
        outbox: Outbox,
        *,
        node: str,
        epoch: int,
        limit: int,
        capabilities: Capabilities,
    ) -> None:
        now = core.clock.monotonic()
        self.node = node
        self.owner_key = core.keys.node_owner(node)
        self.cell = DEFAULT_CELL
        self.capabilities = capabilities
        self.health = Health(core.config.scheduler.node_health, now=now)
        self.table = LeaseTable(
            epoch=epoch, limit=limit, ceiling=core.config.scheduler.job_timeout.lease_ceiling_seconds
        )
        self.outbox = outbox
        self._core = core
        self._courier = courier
        self._declared = capabilities.installed_types & CORE
        self._acks = False
        self._usage_running = 0
        self._known: tuple[str, ...] | None = None
        self._assign_seq = 0
        self._beat_wanted = False
        self._beating: asyncio.Task[None] | None = None
        self._tokens = languages.class_tokens(capabilities, ready=False)
        self._pushed = False
        self._early: list[tuple[JobResult, bytes]] = []  # answers that came before the first push was answered
        self._gone = False
        self._claiming = False
        self._draining = False
        self.empty = asyncio.Event()  #: set while the node owes no answer
        self.empty.set()
        self._queue: list[tuple[int, int, Grant, str | None, float]] = []
        self._at_gate: Grant | None = None  # out of the queue, while its body is fetched
        self._order = itertools.count()
        self._more = asyncio.Event()
        self._pumping: asyncio.Task[None] | None = None
        self._sent: list[str] = []
        self._events: list[tuple[str, str, str, str]] = []
        self._reporting = False
        self._tasks = Tasks("node")

    @property
    def epoch(self) -> int:
        return self.table.epoch

    @property
    def status(self) -> str:
        return self.health.status

    # --- the cell's side of this node -----------------------------------------------------------------------------

    async def push(self) -> None:
        """Put the node with its table into its cell, and take in what the cell holds for it.

        Tried until Redis answers; nothing is sent before it has answered once.
        """
        while not self._gone:
            spec = self._spec()
            try:
                answer = await self._ask(self._core.cells.upsert(self.cell, self.node, spec), *self._lists())
            except DependencyDown:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if answer.word == "stale_epoch":
                if self._gone or not await self._claim_above(answer.body[0]):
                    return
                continue
            view = answer.body
            self.table.adopt(
                view.leases, view.over, seq=view.seq, first=not self._pushed, now=self._core.clock.monotonic()
            )
            self._pushed = True
            self._more.set()
            self._courier.pass_on(answer.news)
            early, self._early = self._early, []
            for frame, raw in early:
                self.result(frame, raw)
            if self._beat_wanted:
                self._tell_beat()
            held = {lease.lease for lease in view.leases}
            if not any(told[0] in held and self.table.get(told[0]) is None for told in spec["table"]):
                return
            # A lease that we told of has ended meanwhile, perhaps before the cell heard of it: tell again.

    def _lists(self) -> tuple[Call[int], Call[int]]:
        """Keep the node on the lists that operators look at."""
        keys = self._core.keys
        return (
            Call(("SADD", keys.nodes_all, self.node), int),
            Call(("ZADD", keys.nodes_last_seen, self._core.clock.wall_ms(), self.node), int),
        )

    async def _claim_above(self, epoch: int) -> bool:
        """The cell knows a higher epoch: who still owns the key claims again above it, else another has taken over."""
        core = self._core
        self._claiming = True
        try:
            renewed = await core.client.run(
                core.owners.renew(self.owner_key, instance=core.instance, epoch=self.table.epoch)
            )
            if isinstance(renewed, Refused):
                self._claiming = False
                self.fenced()
                return False
            claimed = await core.client.run(core.owners.claim(self.owner_key, instance=core.instance, above=epoch))
        except DependencyDown:
            await asyncio.sleep(_AGAIN_SECONDS)
            return True
        finally:
            self._claiming = False
        self.table.epoch = claimed.epoch
        return True

    def _spec(self) -> dict[str, Any]:
        return {
            "epoch": self.table.epoch,
            "owner": self._core.instance,
            "boot": self._core.boot,
            "limit": self.table.limit,
            **self._class(),
            "acks": self._acks,
            "seq": self.table.seq,
            "table": self.table.table(self._core.clock.monotonic()),
            "known": self._named(),
        }

    def _named(self) -> list[str] | bool:
        """The leases that the node has named since its registration, for the first push: all are older than this
        connection. Later pushes tell nothing; only a beat says up to which lease its node knew of them."""
        if self._pushed or self._known is None:
            return False
        return [lease_of(name) for name in (*self._known, *(frame.job_id for frame, _ in self._early))]

    def drain(self) -> None:
        """Take no new lease any more; what runs may end."""
        self._draining = True
        self._tasks.spawn(self.push())

    def _class(self) -> dict[str, str]:
        tokens = languages.NOTHING if self._draining else self._tokens
        return {"class": "" if tokens == languages.NOTHING else languages.class_id(tokens), "tokens": tokens}

    def report_running(self, names: tuple[str, ...] | None) -> None:
        """The node-facing job ids that the node says it works on; None when it does not say."""
        self._known = names

    async def _ask(self, call: Call[Answer[Any]], *before: Call[Any]) -> Answer[Any]:
        return await self._core.ask(self.cell, call, *before)

    # --- heartbeats -----------------------------------------------------------------------------------------------

    def heartbeat(self, frame: NodeHeartbeat) -> None:
        """Judge the node's health and tell the cell."""
        if frame.node_id != self.node:
            metrics.frames_refused.labels("node", "foreign_id").inc()
        changed = self.capabilities.updated(frame)
        healthy = is_healthy(changed, frame.resource_usage, declared=self._declared)
        was_ready = self.health.status == "ready"
        if self.health.beat(healthy, now=self._core.clock.monotonic()):
            self._tell_status()
        if changed is not self.capabilities or was_ready != (self.health.status == "ready"):
            self.capabilities = changed
            self._tokens = languages.class_tokens(changed, ready=self.health.status == "ready")
        self._usage_running = frame.resource_usage.running_jobs
        self._known = frame.running_job_ids
        self._assign_seq = frame.assign_seq or 0
        self._tell_beat()

    def _tell_beat(self) -> None:
        """Tell the cell; while a beat is being told, once more afterwards, with what is true by then.

        Before the cell has answered the first push it is not told: a beat that overtook the push would be lost.
        """
        self._beat_wanted = True
        if self._pushed and (self._beating is None or self._beating.done()):
            self._beating = self._tasks.spawn(self._beats())

    async def _beats(self) -> None:
        while self._beat_wanted and not self._gone:
            self._beat_wanted = False
            try:
                await self._beat()
            except DependencyDown:
                # The class of a node must not stay behind its health.
                self._beat_wanted = True
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _beat(self) -> None:
        core = self._core
        epoch = self.table.epoch
        beat = {
            "epoch": epoch,
            **self._class(),
            # What the cell does not know to be sent, it would take for work of somebody else.
            "running": max(0, self._usage_running - len(self._sent)),
            "seq": self._assign_seq,
            "known": self.table.leases_of(self._known),
        }
        seen = core.keys.nodes_last_seen
        answer = await self._ask(
            core.cells.beat(self.cell, self.node, beat), Call(("ZADD", seen, core.clock.wall_ms(), self.node), int)
        )
        if answer.word == "missing":
            await self.push()
        elif answer.word == "fenced":
            await self._stands_above(answer.body, epoch)
        else:
            self._courier.pass_on(answer.news)
            for zombie in answer.body or ():
                self.stop(zombie.lease, zombie.job, "superseded")

    def look(self, now: float) -> None:
        """Once in a while: is the node silent, and are there slots whose ceiling has passed?"""
        if self.health.look(now=now):
            self._tell_status()
            self._tokens = languages.class_tokens(self.capabilities, ready=self.health.status == "ready")
            self._tasks.spawn(self.push())
        for entry in self.table.past_ceiling(now):
            log.warning("lease_ceiling_passed", node=self.node, job=entry.job, lease=entry.lease)
        self._note_work()

    def _tell_status(self) -> None:
        log.info("node_status", node=self.node, status=self.health.status, reason=self.health.reason)
        self.outbox.put(
            encode(
                NodeStatus(
                    node_id=self.node,
                    status=self.health.status,
                    reason=self.health.reason,
                    timestamp=self._core.clock.wall_ms() // 1000,
                )
            )
        )

    # --- assignments out ------------------------------------------------------------------------------------------

    def take(self, grant: Grant, body: str | None) -> None:
        """A lease for this node, with the assignment's members when they are at hand. Sent in the order of `seq`."""
        if self._gone:
            return
        now = self._core.clock.monotonic()
        if body is not None and self._pushed and not self._queue and self.table.offer(grant) is Gate.SEND:
            self._assign(grant, body, now)
            return
        heapq.heappush(self._queue, (grant.seq, next(self._order), grant, body, now))
        self._more.set()
        if self._pumping is None or self._pumping.done():
            self._pumping = self._tasks.spawn(self._pump())

    async def _pump(self) -> None:
        while self._queue and not self._gone:
            _, _, grant, body, came = self._queue[0]
            waited = self._core.clock.monotonic() - came
            gate = self.table.offer(grant, patient=waited < _GAP_SECONDS)
            if gate is Gate.HOLD or not self._pushed:
                self._more.clear()
                await self._wait_for_more(_GAP_SECONDS - waited if self._pushed else _GAP_SECONDS)
                continue
            heapq.heappop(self._queue)
            if gate is Gate.SEND and body is None:
                self._at_gate = grant
                try:
                    body, missing = await self._stored_body(grant), "payload"
                except DependencyDown:
                    missing = "unreadable"  # which is no evidence that it is gone (P7)
                self._at_gate = None
                gate = self.table.offer(grant, patient=False)  # stopped meanwhile, or closed?
            if gate is Gate.SEND:
                if body is None:
                    self._refuse(grant, missing)
                else:
                    self._assign(grant, body, came)
            elif gate is Gate.OTHER_EPOCH:
                metrics.assignments.labels("other_epoch").inc()
            elif gate is Gate.KNOWN:
                self.table.decline(grant)  # the sequence moves past it, also when it was stopped before it came
            else:
                self._refuse(grant, gate.value)

    async def _wait_for_more(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.001, seconds)):
                await self._more.wait()
        except TimeoutError:
            return

    async def _stored_body(self, grant: Grant) -> str | None:
        """The assignment's members from Redis; None when they are gone.

        Raises:
            DependencyDown: not known now.
        """
        stored = await self._core.client.run(self._core.payloads.get_payload(grant.job))
        return None if stored is None else stored.decode()

    def _assign(self, grant: Grant, body: str, came: float) -> None:
        core = self._core
        # After this time another instance may have given the job away; before it, only a sure presence may send.
        late = core.clock.monotonic() - came > core.config.scheduler.job_timeout.unsent_ms / 1000
        if late or not core.fresh():
            self._refuse(grant, "late")
            return
        entry = self.table.sent(grant, now=core.clock.monotonic())
        self.empty.clear()
        self.outbox.put(assign_frame(body, job_id=entry.name, attempt_id=grant.attempt, assign_seq=grant.seq))
        metrics.assignments.labels("sent").inc()
        self._sent.append(grant.lease)
        self._report_soon()

    def _refuse(self, grant: Grant, reason: str) -> None:
        """The second gate says no: the lease ends unsent, and the job goes elsewhere."""
        self.table.decline(grant)
        metrics.assignments.labels(reason).inc()
        if reason == "full":
            # The cell knows less than we do: hand it the table back first, so that it does not grant this slot again.
            self._tasks.spawn(self._hand_back(grant))
        else:
            self._events.append((grant.job, grant.lease, "not_sent", reason))
            self._report_soon()

    async def _hand_back(self, grant: Grant) -> None:
        await self.push()
        self._events.append((grant.job, grant.lease, "not_sent", "full"))
        self._report_soon()

    def stop(self, lease: str, job: str, reason: str) -> None:
        """Tell the node to give this attempt up; its slot stays held until it answers."""
        self.table.bury(lease)
        self._note_work()
        entry = self.table.get(lease)
        if entry is None:
            waiting = any(queued[2].lease == lease for queued in self._queue)
            if waiting or self._pushed:
                # Never sent by this connection, which alone may say so, and keeps its word when the grant comes later.
                self.table.forbid(lease)
                self._events.append((job, lease, "not_sent", "cancelled"))
                self._report_soon()
        elif not entry.told_to_stop and self._core.config.scheduler.job_timeout.send_cancel:
            entry.told_to_stop = True
            self.outbox.put(encode(JobCancel(job_id=entry.name, reason=reason.lower())))

    def _note_work(self) -> None:
        """Keep `empty` true to the table."""
        if not self.table.working:
            self.empty.set()

    # --- answers in -----------------------------------------------------------------------------------------------

    def acknowledged(self, frame: JobAck | JobStarted) -> None:
        """The node has the job, or works on it."""
        entry = self.table.named(frame.job_id)
        if entry is None:
            metrics.node_answers.labels("unknown").inc()
            return
        self._acks = entry.acked = True
        self._events.append((entry.job, entry.lease, "acked" if isinstance(frame, JobAck) else "started", ""))
        self._report_soon()

    def partial(self, frame: NodePartial) -> None:
        """Text recognised so far, for the session."""
        entry = self.table.named(frame.job_id)
        if entry is None or entry.state != "sent":
            metrics.node_answers.labels("unknown").inc()
            return
        self._courier.partial(job=entry.job, session=entry.session, origin=entry.origin, partial=frame)
        progress = (entry.job, entry.lease, "progress", "")
        if progress not in self._events:
            self._events.append(progress)
            self._report_soon()

    def result(self, frame: JobResult, raw: bytes) -> None:
        """The end of an attempt, by the lease that the job id names; whose it is, this table knows, not the frame."""
        entry = self.table.named(frame.job_id)
        if entry is None and not self._pushed and len(self._early) < self.table.limit:
            # A node that has come back may answer at once, before the cell has told what it holds from earlier.
            self._early.append((frame, raw))
            return
        if entry is None:
            metrics.node_answers.labels("unknown").inc()
            return
        # A second answer to the same lease finds no entry. The slot itself stays counted until the cell has freed it.
        self.table.answered(entry)
        if entry.lease in self._sent:
            self._sent.remove(entry.lease)
        if self._events:
            self._events = [event for event in self._events if event[1] != entry.lease]
        self._tasks.spawn(self._finish(entry, frame, raw))

    async def _finish(self, entry: Entry, frame: JobResult, raw: bytes) -> None:
        core = self._core
        code = "" if frame.success else (frame.error.code if frame.error else ErrorCode.PROCESSING_ERROR)
        duplicate = frame.success and is_duplicate_answer(frame)
        ending = {
            "outcome": "failed" if duplicate or not frame.success else "ok",
            "reason": "DUPLICATE_JOB_ID" if duplicate else code,
            "retry": duplicate or code in RETRYABLE_ELSEWHERE,
            "acked": entry.acked,
        }
        ref = ""
        before: tuple[Call[Any], ...] = ()
        if not self._courier.is_local(entry.session):
            ref = core.keys.result(entry.job, entry.lease)
            before = (core.payloads.put_result(entry.job, entry.lease, raw, ttl_ms=core.payload_ttl_ms),)
        pushed = False
        while True:
            epoch = self.table.epoch
            finish = core.cells.finish(
                self.cell, entry.job, node=self.node, epoch=epoch, lease=entry.lease, ending=ending
            )
            try:
                answer = await self._ask(finish, *before)
            except DependencyDown:
                if self._gone and core.clock.monotonic() > entry.ceiling_at:
                    return
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if answer.word == "missing" and not pushed:
                # Redis has lost the job, and perhaps this node is pushed just now with a slot held for it: once the
                # cell surely holds it, it can be freed.
                await self.push()
                pushed = True
            elif answer.word != "fenced" or not await self._stands_above(answer.body, epoch):
                break
        self.table.end(entry.lease)
        self._note_work()
        metrics.node_answers.labels(answer.word).inc()
        self._courier.pass_on(answer.news)
        if answer.word in ("applied", "already"):
            _, _, session, origin = answer.body
            self._courier.answer(
                job=entry.job, lease=entry.lease, session=session, origin=origin, result=frame, raw=raw, ref=ref
            )
        elif answer.word == "missing" and entry.session and ending["outcome"] == "ok":
            # Its session's connection decides, and need not wait until the work is done a second time.
            self._courier.answer(
                job=entry.job,
                lease=entry.lease,
                session=entry.session,
                origin=entry.origin,
                result=frame,
                raw=raw,
                ref=ref,
            )

    # --- reports to the cell --------------------------------------------------------------------------------------

    def _report_soon(self) -> None:
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(_REPORT_SECONDS, lambda: self._tasks.spawn(self._report()))

    async def _report(self) -> None:
        """Tell the cell what was sent and what the node said, in one go each; whatever got no answer is told again."""
        sent, told = list(self._sent), set[str]()
        events, self._events = self._events, []
        cells, epoch = self._core.cells, self.table.epoch
        try:
            if sent:
                await self._told(cells.sent(self.cell, self.node, epoch=epoch, leases=sent), epoch)
                told.update(sent)
            if events:
                await self._told(cells.event(self.cell, self.node, epoch=epoch, events=events), epoch)
                events = []
        except DependencyDown:
            await asyncio.sleep(_AGAIN_SECONDS)
        except BrokenScript as error:
            # Told again it would break again, and with it whatever else this link has to say. Due steps make up for it.
            log.error("report_not_taken", node=self.node, sent=len(sent), events=len(events), problem=str(error))
            told.update(sent)
            events = []
        self._sent = [lease for lease in self._sent if lease not in told and self.table.get(lease)]
        self._events[:0] = events
        self._reporting = False
        if (self._sent or self._events) and not self._gone:
            self._report_soon()

    async def _told(self, call: Call[Answer[Any]], epoch: int) -> None:
        answer = await self._ask(call)
        self._courier.pass_on(answer.news)
        if answer.word == "missing":
            await self.push()
        elif answer.word == "fenced":
            await self._stands_above(answer.body, epoch)

    # --- the end --------------------------------------------------------------------------------------------------

    async def _stands_above(self, body: Any, epoch: int) -> bool:
        """A cell that refuses our `epoch` tells its own; who still owns the key claims above it, else the link ends.

        True when this connection goes on under a higher epoch than it has asked with.
        """
        if body and body[0] > self.table.epoch and not self._gone and await self._claim_above(body[0]):
            await self.push()
        return self.table.epoch > epoch

    def fenced(self) -> None:
        """Another connection of this node has taken over: change nothing any more, and close.

        Not while this one claims again: the higher epoch that somebody saw may be its own.
        """
        if not self._gone and not self._claiming:
            metrics.fenced.labels("node").inc()
            log.warning("node_taken_over", node=self.node, epoch=self.table.epoch)
            self._gone = True
            self.outbox.close(TAKEN_OVER, "another connection of this node has taken over")

    async def closed(self) -> None:
        """The socket is gone: the node leaves its cell, and its jobs go on elsewhere. Tried until it is told."""
        fenced, self._gone = self._gone, True
        self.empty.set()
        if fenced:
            return
        core = self._core
        # A grant that is told again may lie here though it was sent.
        unsent = [queued[2].lease for queued in self._queue if self.table.get(queued[2].lease) is None]
        if self._at_gate is not None:
            self.table.forbid(self._at_gate.lease)
            unsent.append(self._at_gate.lease)
        while True:
            epoch, sent = self.table.epoch, list(self._sent)
            # What was sent is told first: speech that kills nodes at once must not look as if it had never been there.
            before = (core.cells.sent(self.cell, self.node, epoch=epoch, leases=sent),) if sent else ()
            try:
                answer = await self._ask(core.cells.remove(self.cell, self.node, epoch=epoch, unsent=unsent), *before)
                await core.client.run(core.owners.release(self.owner_key, epoch=self.table.epoch))
                if answer.word == "ok":
                    await core.client.flush(
                        Call(("SREM", core.keys.nodes_all, self.node), int),
                        Call(("ZREM", core.keys.nodes_last_seen, self.node), int),
                    )
                self._courier.pass_on(answer.news)
                return
            except DependencyDown:
                await asyncio.sleep(_AGAIN_SECONDS)


class Nodes:
    """All node links of this instance."""

    def __init__(self, core: Core, courier: Courier, exchange: "Exchange[NodeLink]") -> None:
        self._core = core
        self._courier = courier
        self._exchange = exchange
        self._tasks = Tasks("nodes")
        core.on_data_loss.append(self.push_all)

    async def register(self, frame: NodeRegister, outbox: Outbox) -> NodeLink | ErrorFrame:
        """Check a registration, take the node's ownership, and put it into its cell.

        The link has not been acknowledged yet when this returns: the caller does so with `welcome` first.
        """
        if refused := refusal(frame):
            return refused
        core, scheduler = self._core, self._core.config.scheduler
        node = frame.node_id or f"node-{secrets.token_hex(12)}"
        limit = min(
            frame.max_concurrent_jobs or scheduler.max_concurrent_jobs_per_node, scheduler.max_jobs_cap_per_node
        )
        key = core.keys.node_owner(node)
        try:
            epoch = (await core.client.run(core.owners.claim(key, instance=core.instance))).epoch
        except DependencyDown:
            # Epochs are times; the owner keeper writes this one down, unless a higher one is there.
            epoch = core.clock.wall_ms() * 1000
        link = NodeLink(
            core, self._courier, outbox, node=node, epoch=epoch, limit=limit, capabilities=Capabilities.of(frame)
        )
        link.report_running(frame.running_job_ids)
        present = self._exchange.get(node)
        if present is not None and present.epoch > link.epoch:
            # Two registrations raced, and the later one was faster here.
            link.fenced()
        elif replaced := self._exchange.plug(node, link):
            replaced.fenced()
        return link

    def welcome(self, link: NodeLink) -> None:
        """Acknowledge the registration; only then may assignments go out (PROTOCOL 9.2 no. 9)."""
        link.outbox.put(encode(NodeRegisterAck(node_id=link.node, message="registered", status=link.health.status)))
        self._tasks.spawn(link.push())

    def leave(self, link: NodeLink) -> None:
        """The link's socket is closed, or registers anew. The cell is told by a task of our own: servers end a
        connection's task soon after its disconnect, and Redis may be silent for longer."""
        self._exchange.unplug(link.node, link)
        self._tasks.spawn(link.closed())

    async def quiet(self) -> None:
        """Waits until every link that left is told to its cell."""
        await self._tasks.quiet()

    def push_all(self) -> None:
        """Redis has lost its data: every node here is put in again, at once."""
        for link in self._exchange:
            self._tasks.spawn(link.push())
