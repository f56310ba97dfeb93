"""Reads this instance's inbox: in order for each target, at the same time for all of them (DESIGN 5, P6)."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import structlog

from dispatch import metrics
from dispatch.clock import Clock
from dispatch.conf import Phase2
from dispatch.errors import DependencyDown
from dispatch.messages.envelope import Envelope, InvalidEnvelope, decode
from dispatch.roles.base import Backoff, Role
from dispatch.store.client import RedisClient
from dispatch.store.deadletters import DeadLetter, DeadLetters
from dispatch.store.inbox import FROM_THE_START, Delivery, Entry, Failed, Inbox
from dispatch.store.script import Call

log = structlog.get_logger(__name__)

IN_HAND = 1024  #: entries read and not yet dealt with; more stay in the inbox, whose senders are told when it is full
REMEMBERED = 10_000  #: events that are known again when they come twice
_ACKS = 256  #: entries acknowledged by one call
_MEASURE_SECONDS = 1.0  #: how often the inbox is measured
_ERROR_CHARACTERS = 400

Target = tuple[str, str]  #: kind and id of a peer
Event = tuple[str, int]  #: id and hops: one that was re-sent and came back here is another delivery


class Held(NamedTuple):
    """An entry on its way to its target."""

    entry: Entry
    envelope: Envelope

    @property
    def event(self) -> Event:
        return self.envelope.event_id, self.envelope.hops


class InboxReader(Role):
    """Decodes, delivers, acknowledges; retries what failed, and buries what keeps failing.

    Each target has a *lane*: its envelopes are delivered one after the other, a slow or failing one delays only those
    behind it. What is not acknowledged when this process dies lies in the inbox still.

    `deliver` is called with one envelope and says what became of it. It may be called again after `Failed`, after an
    exception (counted like `Failed`), and after `DependencyDown` (not counted: Redis was silent, until the deadline).
    """

    name = "inbox_reader"

    def __init__(
        self,
        client: RedisClient,
        inbox: Inbox,
        instance: str,
        deliver: Callable[[Envelope], Awaitable[Delivery]],
        *,
        letters: DeadLetters,
        settings: Phase2,
        clock: Clock,
    ) -> None:
        super().__init__(clock, 0.0)
        self.instance = instance
        self._client = client
        self._inbox = inbox
        self._deliver = deliver
        self._letters = letters
        self._settings = settings
        self._in_hand: dict[str, Entry] = {}  # by entry id, in the order of their coming
        self._lanes: dict[Target, deque[Held]] = {}
        self._seen: dict[Event, None] = {}  # oldest first
        self._acks: list[str] = []
        self._acking = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._fewer = asyncio.Event()  # something left our hand, or went wrong
        # At the start, and when the answer to a read got lost, everything unacknowledged is taken up at once.
        self._take_idle_ms = 0
        self._take_at = clock.monotonic()
        self._measure_at = clock.monotonic()

    async def turn(self) -> None:
        await self.read_once()

    async def read_once(self) -> None:
        """Take what is new, waiting for it up to `stream_block_ms`; what it leads to goes on after this returns."""
        self._raise_failure()
        self._start_acks()  # again, if they failed
        now = self.clock.monotonic()
        if now >= self._take_at:
            await self._take_up()
        if now >= self._measure_at:
            await self._measure()
        count = min(self._settings.stream_count, await self._room())
        try:
            entries = await self._inbox.read(
                self._client, self.instance, count=count, block_ms=self._settings.stream_block_ms
            )
        except DependencyDown:
            self._take_idle_ms, self._take_at = 0, self.clock.monotonic()
            raise
        self._accept(entries)

    async def drained(self) -> None:
        """Return when nothing is in hand: every entry read so far is delivered, dropped or buried, and acknowledged."""
        while self._in_hand:
            self._fewer.clear()
            await self._fewer.wait()

    async def aclose(self) -> None:
        """Let go of what is in hand; it stays in the inbox."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Taking entries

    async def _take_up(self) -> None:
        """All entries that were read and never acknowledged, but those in hand; page after page."""
        cursor = FROM_THE_START
        while True:
            await self._room()
            page = await self._client.run(
                self._inbox.take(
                    self.instance,
                    idle_ms=self._take_idle_ms,
                    count=self._settings.dlq_scan_count,
                    cursor=cursor,
                )
            )
            self._accept(page.entries)
            cursor = page.cursor
            if cursor == FROM_THE_START:
                break
        self._take_idle_ms = self._settings.dlq_min_idle_ms
        self._take_at = self.clock.monotonic() + self._settings.dlq_scan_interval_ms / 1000

    async def _room(self) -> int:
        """How many more entries may be taken in hand; waits until it is at least one."""
        while len(self._in_hand) >= IN_HAND:
            self._raise_failure()
            self._fewer.clear()
            await self._fewer.wait()
        return IN_HAND - len(self._in_hand)

    def _accept(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.id in self._in_hand:
                continue
            self._in_hand[entry.id] = entry
            try:
                envelope = decode(entry.payload)
            except InvalidEnvelope as error:
                self._spawn(self._bury_unread(entry, str(error)))
                continue
            self._queue(Held(entry, envelope))

    def _queue(self, held: Held) -> None:
        envelope = held.envelope
        if held.event in self._seen:
            self._over(held.entry, envelope.kind, "duplicate")
            return
        self._seen[held.event] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        target = (envelope.target_kind, envelope.target)
        lane = self._lanes.get(target)
        if lane is None:
            self._lanes[target] = deque([held])
            self._spawn(self._work(target))
        else:
            lane.append(held)

    # Dealing with them

    async def _work(self, target: Target) -> None:
        lane = self._lanes[target]
        try:
            while lane:
                await self._handle(lane[0])
                lane.popleft()
        finally:
            del self._lanes[target]
            for held in lane:  # only when cancelled or broken: they are taken up again as if never seen
                self._in_hand.pop(held.entry.id, None)
                self._seen.pop(held.event, None)

    async def _handle(self, held: Held) -> None:
        """Until it is delivered, dropped or buried."""
        envelope = held.envelope
        backoff = Backoff(0.05, 2.0)
        errors: list[str] = []
        silent = False  # Redis did not answer the last delivery
        while True:
            left = (envelope.deadline_ms - self.clock.wall_ms()) / 1000
            if left <= 0 and not errors and not silent:
                self._over(held.entry, envelope.kind, "dropped:expired")
                return
            if left <= 0 or len(errors) >= self._settings.dlq_max_deliveries:
                await self._bury(held, "expired" if left <= 0 else "failed", errors)
                return
            try:
                delivery = await self._deliver(envelope)
                silent = False
            except DependencyDown as error:
                silent = True
                delivery = Failed(str(error))
            except Exception as error:
                log.exception("delivery_broke", kind=envelope.kind, event_id=envelope.event_id)
                delivery = Failed(f"{type(error).__name__}: {error}")
            if not isinstance(delivery, Failed):
                self._over(held.entry, envelope.kind, delivery)
                return
            if not silent:
                errors.append(delivery.error[:_ERROR_CHARACTERS])
            metrics.inbox_retries.labels(envelope.kind).inc()
            if len(errors) < self._settings.dlq_max_deliveries:
                await asyncio.sleep(min(backoff.next(), max(left, 0.01)))

    def _over(self, entry: Entry, kind: str, outcome: str) -> None:
        """Nothing more is to be done but to say so to Redis."""
        metrics.inbox_events.labels(kind, outcome).inc()
        self._acks.append(entry.id)
        self._start_acks()

    def _start_acks(self) -> None:
        if self._acks and not self._acking:
            self._acking = True
            self._spawn(self._acknowledge())

    async def _acknowledge(self) -> None:
        try:
            while self._acks:
                ids = self._acks[:_ACKS]
                await self._insist(self._inbox.ack(self.instance, ids))
                del self._acks[: len(ids)]
                self._let_go(ids)
        finally:
            self._acking = False

    async def _bury(self, held: Held, reason: str, errors: list[str]) -> None:
        envelope = held.envelope
        await self._to_the_dead(
            held.entry,
            envelope.kind,
            DeadLetter(
                id=envelope.event_id,
                kind=envelope.kind,
                target=f"{envelope.target_kind} {envelope.target}",
                job_id=envelope.job,
                session_id=envelope.target if envelope.target_kind == "session" else "",
                lease=envelope.lease,
                reason=reason,
                first_error=errors[0] if errors else "",
                last_error=errors[-1] if errors else "",
                deliveries=len(errors),
                source_instance=envelope.source,
                created_at=held.entry.created_ms,
                trace_id=envelope.trace_id,
            ),
        )
        self._seen.pop(held.event, None)  # a letter that is replayed is no duplicate

    async def _bury_unread(self, entry: Entry, problem: str) -> None:
        problem = problem[:_ERROR_CHARACTERS]
        letter = DeadLetter(
            reason="parse_error",
            first_error=problem,
            last_error=problem,
            created_at=entry.created_ms,
        )
        try:
            await self._to_the_dead(entry, "unknown", letter)
        finally:
            self._in_hand.pop(entry.id, None)

    async def _to_the_dead(self, entry: Entry, kind: str, letter: DeadLetter) -> None:
        metrics.dlq.labels(letter.reason).inc()
        log.warning(
            "envelope_undeliverable", kind=kind, entry=entry.id, reason=letter.reason, problem=letter.last_error
        )
        if not self._settings.dlq_enabled:
            self._over(entry, kind, letter.reason)
            return
        buried = await self._insist(self._letters.bury(self.instance, entry.id, letter))
        metrics.inbox_events.labels(kind, "buried").inc()
        if buried is not None:
            metrics.dlq_moved.inc()
            metrics.dlq_displaced.inc(buried.displaced)
        self._let_go([entry.id])

    async def _insist(self, call: Call[Any]) -> Any:
        """The answer, however long Redis is silent: what is over must not be delivered again."""
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                return await self._client.run(call)
            except DependencyDown:
                await asyncio.sleep(backoff.next())

    # What is in hand

    def _let_go(self, ids: Iterable[str]) -> None:
        for entry in ids:
            self._in_hand.pop(entry, None)
        self._fewer.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._take_idle_ms, self._take_at = 0, self.clock.monotonic()
        self._fewer.set()

    def _raise_failure(self) -> None:
        """An error that nobody expected ends the turn, so that the role is started again and people hear of it."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _measure(self) -> None:
        self._measure_at = self.clock.monotonic() + _MEASURE_SECONDS
        length = await self._client.run(self._inbox.length(self.instance))
        oldest = next(iter(self._in_hand.values()), None)
        metrics.inbox_pending.set(len(self._in_hand))
        metrics.inbox_oldest.set(0 if oldest is None else max(0.0, self.clock.wall_ms() - oldest.created_ms) / 1000)
        metrics.inbox_lag.set(max(0, length - len(self._in_hand)))
