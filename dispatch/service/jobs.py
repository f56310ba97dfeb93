"""Jobs as the session's side handles them: submitted, watched, cancelled, released.

Submitting takes two round trips: the request is bound to a job id while speech goes to its own key, then the cell
takes the job in. Every step may be repeated, from any instance, with the same effect (P3).
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from dispatch import metrics
from dispatch.connections.session import Utterance
from dispatch.errors import DependencyDown
from dispatch.placement import Directory
from dispatch.service.core import Core
from dispatch.service.courier import Courier
from dispatch.service.tasks import Tasks
from dispatch.store.cells import Answer, JobView
from dispatch.store.script import Call

log = structlog.get_logger(__name__)

_RELEASE_SECONDS = 0.05  #: releases of this long travel together
_RELEASE_BATCH = 256
_AGAIN_SECONDS = 0.5
_ORPHAN_MS = 60_000  #: how long after its deadline a waiting job is dropped by the cell itself


class _Released(msgspec.Struct, frozen=True):
    """What has to be told about an utterance that is over; not its speech, since Redis may be silent for long."""

    session: str
    index: int
    target: str
    job: str
    cell: str
    lease: str


class Jobs:
    """What dispatch can do with jobs."""

    def __init__(self, core: Core, courier: Courier, directory: Directory) -> None:
        self._core = core
        self._courier = courier
        self._directory = directory
        self._released: list[_Released] = []
        self._releasing: asyncio.Task[None] | None = None
        self._tasks = Tasks("jobs")

    async def submit(self, session: str, utterance: Utterance) -> Answer[JobView]:
        """Bind the request and hand the job to a cell; the utterance learns its job, cell and generation.

        A request that only its own connection can name needs no answer about its binding: both steps travel together,
        where the order is kept.

        Raises:
            DependencyDown: unknown whether it was taken in; submit again.
        """
        core, began = self._core, self._core.clock.monotonic()
        if not core.fresh():
            raise DependencyDown("our own presence is in doubt, so no lease is taken now")
        choice = self._directory.choose(utterance.kind)
        utterance.cell = utterance.cell or choice.cell
        bind = self._bind(session, utterance)
        if utterance.shared or not core.client.ordered:
            binding = (await core.client.flush(*bind))[0]
            bind = ()
            if binding.job != utterance.job:
                # The same request came in elsewhere first: its job is ours, and so is its payload.
                metrics.duplicate_requests.inc()
                await core.client.run(core.payloads.drop(utterance.job))
            utterance.job, utterance.cell, utterance.gen = binding.job, binding.cell, binding.gen
        spec = {
            "kind": utterance.kind,
            "session": session,
            "index": utterance.index,
            "origin": core.instance,
            "boot": core.boot,
            "exec_ms": core.config.scheduler.job_timeout_seconds * 1000,
            "orphan_ms": core.config.scheduler.utterance_deadline_seconds * 1000 + _ORPHAN_MS,
            "hints": choice.hints,
            "life": core.incarnations.get(utterance.cell, ""),
        }
        submit = core.cells.submit(utterance.cell, utterance.job, gen=utterance.gen, spec=spec)
        answer = await core.ask(utterance.cell, submit, *bind)
        self._courier.pass_on(answer.news)
        metrics.submissions.labels(answer.word).inc()
        metrics.dispatch_latency.observe(core.clock.monotonic() - began)
        return answer

    def _bind(self, session: str, utterance: Utterance) -> tuple[Call[Any], ...]:
        """Bind the request to its job (first), store the speech, and note the job in the session record."""
        core = self._core
        return (
            core.requests.bind(
                f"{session} {utterance.key} {utterance.target}",
                job=utterance.job,
                cell=utterance.cell,
                ttl_ms=core.config.scheduler.task_binding.lease_seconds * 1000,
                gen=utterance.gen,
            ),
            core.payloads.put_payload(utterance.job, utterance.body, ttl_ms=core.payload_ttl_ms),
            core.sessions.enter(session, utterance.index, utterance.target, job=utterance.job, cell=utterance.cell),
        )

    async def states(self, cell: str, jobs: list[str]) -> list[JobView | None]:
        """What became of these jobs of one cell; None for one that is not there (or whose cell is not).

        Raises:
            DependencyDown: not known now.
        """
        answer = await self._core.client.run(self._core.cells.states(cell, jobs))
        if answer.word == "unopened":
            return [None] * len(jobs)
        self._core.note(cell, answer.incarnation)
        return [JobView(*state) if state else None for state in answer.body or ()]

    async def result(self, job: str, lease: str) -> bytes | None:
        """The stored answer of this lease's node, while it lies there.

        Raises:
            DependencyDown: not known now.
        """
        frame: bytes | None = await self._core.client.run(self._core.payloads.get_result(job, lease))
        return frame

    def cancel(self, utterance: Utterance, reason: str) -> None:
        """Nobody wants this job any more; told to the cell as soon as Redis answers."""
        self._tasks.spawn(self._cancel(utterance.cell, utterance.job, reason))

    async def _cancel(self, cell: str, job: str, reason: str) -> None:
        if not cell:
            return
        until = self._core.clock.monotonic() + self._core.config.scheduler.utterance_deadline_seconds
        while self._core.clock.monotonic() < until:
            try:
                answer = await self._core.ask(cell, self._core.cells.cancel(cell, job, reason=reason))
            except DependencyDown:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            self._courier.pass_on(answer.news)
            return
        log.warning("cancel_not_told", job=job, reason=reason)

    def release(self, session: str, utterance: Utterance, lease: str = "") -> None:
        """The session has the end of this utterance: its record shrinks, its speech and the answer of `lease` go."""
        self._released.append(
            _Released(session, utterance.index, utterance.target, utterance.job, utterance.cell, lease)
        )
        if self._releasing is None or self._releasing.done():
            self._releasing = self._tasks.spawn(self._release())

    async def _release(self) -> None:
        while self._released:
            await asyncio.sleep(_RELEASE_SECONDS)
            batch, self._released = self._released[:_RELEASE_BATCH], self._released[_RELEASE_BATCH:]
            try:
                await self._core.client.flush(*self._release_calls(batch))
            except DependencyDown:
                # Everything released has a time to live as well; telling again is cheap.
                self._released[:0] = batch
                await asyncio.sleep(_AGAIN_SECONDS)

    def _release_calls(self, batch: Iterable[_Released]) -> list[Call[Any]]:
        core = self._core
        by_cell: dict[str, list[str]] = defaultdict(list)
        by_session: dict[str, list[tuple[int, str]]] = defaultdict(list)
        calls: list[Call[Any]] = []
        for over in batch:
            if over.cell:
                by_cell[over.cell].append(over.job)
            by_session[over.session].append((over.index, over.target))
            calls.append(core.payloads.drop(over.job, over.lease))
        calls += [core.cells.release(cell, jobs) for cell, jobs in by_cell.items()]
        calls += [core.sessions.settle(session, entries) for session, entries in by_session.items()]
        return calls

    async def quiet(self) -> None:
        """Waits until everything released or cancelled so far is told."""
        await self._tasks.quiet()
