"""A crowd of no-op nodes and sessions in one process, and how long each stage of an utterance takes.

Both ends of every job are here, so all times come from one clock: the session submits, the node gets job_assign, the
node has sent job_result, the session gets the terminal event.
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import msgspec

from ops.peers import audio
from ops.peers.node import Frame, heartbeat, registration
from ops.peers.wire import Wire, WireError, text_frame

READY_SECONDS = 20.0  #: for each peer to be connected and acknowledged
LATE_SECONDS = 65.0  #: after the last submit: the utterance's deadline and some
NODE_HEARTBEAT_SECONDS, SESSION_HEARTBEAT_SECONDS = 15.0, 30.0
BEHIND_SECONDS = 0.005  #: an open loop that is later than this waits for the servers, not for the timer
STAGES = ("submit_to_node", "in_node", "node_to_session", "total")
NO_OP = {
    "success": True,
    "text_asr": "no operation",
    "text_translated": "no operation",
    "tts_audio": audio.fabricate(0.02),
    "tts_format": "opus",
    "processing_time_ms": 0,
}
LOST = "LOST"  #: counts what got no terminal event at all


class Stage(msgspec.Struct, frozen=True):
    """Milliseconds that one stage took."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    nodes: int
    sessions: int
    cross: bool
    inflight: int | None  #: closed loop: utterances under way at any time
    rate: float | None  #: open loop: submits a second
    submitted: int
    completed: int  #: with a translation_result
    wall_s: float  #: from the first submit to the last terminal event
    per_second: float  #: completed in that time
    stages: dict[str, Stage]  #: keys in the order of STAGES; empty when nothing was completed
    errors: dict[str, int]  #: the other endings, by code; an error that names no utterance counts too
    notices: dict[str, int]  #: ui_event by name


class Race(msgspec.Struct, frozen=True):
    """The course of the peers' benchmark: one at a time, then many in flight."""

    sequential: Report
    throughput: Report

    def as_result(self, peer: str) -> dict[str, Any]:
        """The figures under the names that the other peers' result lines use."""
        one, many = self.sequential, self.throughput
        return {
            "peer": peer,
            "n_seq": one.completed,
            "p50_ms": one.stages["total"].p50_ms,
            "p99_ms": one.stages["total"].p99_ms,
            "max_ms": one.stages["total"].max_ms,
            "thr_jobs": many.completed,
            "thr_wall_s": many.wall_s,
            "thr_per_s": many.per_second,
            "thr_p50_ms": many.stages["total"].p50_ms,
            "thr_p99_ms": many.stages["total"].p99_ms,
            "errors": one.errors | many.errors,
        }


async def measure(
    urls: Sequence[str],
    *,
    nodes: int = 4,
    sessions: int = 64,
    seconds: float | None = None,
    jobs: int | None = None,
    inflight: int = 64,
    rate: float | None = None,
    cross: bool = False,
    warm_up: int = 50,
    **crowd: Any,
) -> Report:
    """One run after a warm-up: a closed loop with `inflight`, or an open one at `rate` for `seconds`.

    It ends after `seconds` or `jobs`, whichever comes first. Further keywords are Crowd's.
    """
    if seconds is None and jobs is None:
        raise ValueError("measure needs seconds, jobs, or both")
    async with Crowd(urls, nodes=nodes, sessions=sessions, cross=cross, **crowd) as peers:
        await peers.closed(inflight=1, jobs=warm_up)
        if rate is None:
            return await peers.closed(inflight=inflight, jobs=jobs, seconds=seconds)
        return await peers.open(rate=rate, jobs=round(min(jobs or math.inf, (seconds or math.inf) * rate)))


async def race(urls: Sequence[str], *, nodes: int = 4, sessions: int = 64, cross: bool = False, **crowd: Any) -> Race:
    """50 to warm up, 1000 one at a time, then 3000 (at most 10 s) with 64 in flight."""
    async with Crowd(urls, nodes=nodes, sessions=sessions, cross=cross, **crowd) as peers:
        await peers.closed(inflight=1, jobs=50)
        one = await peers.closed(inflight=1, jobs=1000)
        return Race(one, await peers.closed(inflight=64, jobs=3000, seconds=10))


class Crowd:
    """Connected no-op peers, ready for one run after another."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        nodes: int = 4,
        sessions: int = 64,
        cross: bool = False,
        capacity: int = 16,
        acks: bool = False,
        audio_ms: int = 1000,
        pair: tuple[str, str] = ("en", "es"),
    ) -> None:
        """`urls` are instances (ws://host:port); with `cross`, nodes go to the last and sessions to the first.

        `capacity` is what each node declares, `audio_ms` how much (fabricated) audio an utterance carries.
        """
        roots = [url.rstrip("/") for url in urls]
        node_roots, session_roots = (roots[-1:], roots[:1]) if cross else (roots, roots)
        self.run = _Run()
        self._lost: WireError | None = None
        self._cross = cross
        self._nodes = [
            _Node(self, f"{node_roots[at % len(node_roots)]}/ws/node", capacity=capacity, acks=acks, pair=pair)
            for at in range(nodes)
        ]
        self._sessions = [
            _Session(self, f"{session_roots[at % len(session_roots)]}/ws/session", audio_ms=audio_ms, pair=pair)
            for at in range(sessions)
        ]

    async def __aenter__(self) -> Self:
        try:
            for peer in (*self._nodes, *self._sessions):
                await peer.connect()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up all peers."""
        for peer in (*self._sessions, *self._nodes):
            peer.close()

    def lose(self, reason: str) -> None:
        """A peer's socket is gone: figures of what is left would be about something else."""
        self._lost = WireError(reason)
        self.run.fail(self._lost)

    async def closed(self, *, inflight: int, jobs: int | None = None, seconds: float | None = None) -> Report:
        """Keep `inflight` utterances under way over all sessions, until `jobs` are submitted or `seconds` are over."""
        run = self._begin()
        end = run.begun + (math.inf if seconds is None else seconds)

        def submit(session: _Session) -> None:
            if run.submitted != jobs and time.perf_counter() < end:
                run.submit(session, time.perf_counter())
            elif not run.flights:
                run.finish()

        run.then = submit
        for at in range(inflight):
            submit(self._sessions[at % len(self._sessions)])
        await run.drain()
        return self._report(run, inflight=inflight)

    async def open(self, *, rate: float, jobs: int) -> Report:
        """Submit `rate` utterances a second, whatever comes back, and wait for the last of them."""
        run = self._begin()
        for at in range(jobs):
            due = run.begun + at / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            # If this process cannot keep pace, the wait counts too: else the worst times would be left out.
            run.submit(self._sessions[at % len(self._sessions)], due if now - due > BEHIND_SECONDS else now)
        run.then = lambda session: None if run.flights else run.finish()
        if not run.flights:
            run.finish()
        await run.drain()
        return self._report(run, rate=rate)

    def _begin(self) -> "_Run":
        if self._lost:
            raise self._lost
        self.run = _Run()
        return self.run

    def _report(self, run: "_Run", *, inflight: int | None = None, rate: float | None = None) -> Report:
        wall = run.moved - run.begun
        return Report(
            nodes=len(self._nodes),
            sessions=len(self._sessions),
            cross=self._cross,
            inflight=inflight,
            rate=rate,
            submitted=run.submitted,
            completed=len(run.times),
            wall_s=round(wall, 3),
            per_second=round(len(run.times) / wall, 1) if wall else 0.0,
            stages={name: _stage(times) for name, times in zip(STAGES, zip(*run.times, strict=True), strict=False)},
            errors=dict(run.errors),
            notices=dict(run.notices),
        )


class _Flight:
    """One utterance under way; perf_counter seconds."""

    __slots__ = ("answered", "at_node", "submitted")

    def __init__(self, submitted: float) -> None:
        self.submitted = self.at_node = self.answered = submitted


class _Run:
    """What is under way, and what has come of the rest."""

    def __init__(self) -> None:
        self.begun = self.moved = time.perf_counter()  # moved: the last submit or landing
        self.submitted = 0
        self.flights: dict[tuple[str, int], _Flight] = {}
        self.times: list[tuple[float, float, float, float]] = []  # in the order of STAGES
        self.errors: Counter[str] = Counter()
        self.notices: Counter[str] = Counter()
        self.then: Callable[[_Session], None] = lambda session: None  # what a landed utterance sets going
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def submit(self, session: "_Session", at: float) -> None:
        self.flights[session.submit()] = _Flight(at)
        self.submitted += 1
        self.moved = at

    def land(self, session: "_Session", index: int, error: str | None) -> None:
        """The session has the terminal event of that utterance."""
        flight = self.flights.pop((session.session_id, index), None)
        if flight is None:
            return  # of an earlier run, which has counted it as lost
        self.moved = now = time.perf_counter()
        if error:
            self.errors[error] += 1
        else:
            stamps = (flight.submitted, flight.at_node, flight.answered, now)
            to_node, in_node, to_session = (after - before for before, after in pairwise(stamps))
            self.times.append((to_node, in_node, to_session, now - flight.submitted))
        self.then(session)

    def finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def fail(self, error: WireError) -> None:
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # seen: nobody waits for a run that is only being prepared

    async def drain(self) -> None:
        """Wait for the last utterance; what is silent for LATE_SECONDS is lost."""
        while not self._over.done():
            patience = self.moved + LATE_SECONDS - time.perf_counter()
            if patience < 0:
                self.errors[LOST] += len(self.flights)
                self.flights.clear()
                self.finish()
            else:
                await asyncio.wait([self._over], timeout=patience)
        self._over.result()


class _Peer(ABC):
    """What nodes and sessions have in common: a socket, a first frame, and a heartbeat."""

    heartbeat_seconds: float

    def __init__(self, crowd: Crowd, url: str) -> None:
        self.crowd, self._url = crowd, url
        self._acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.wire: Wire | None = None

    async def connect(self) -> None:
        self.wire = await Wire.connect(self._url, self.hear, self._hung_up)
        self.wire.send(_frame(self.hello()))
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._acknowledged
        except TimeoutError:
            raise WireError(f"{self._url} did not acknowledge a peer within {READY_SECONDS:g} s") from None

    def close(self) -> None:
        self._closing = True
        self._acknowledged.cancel()
        if self._timer:
            self._timer.cancel()
        if self.wire:
            self.wire.close()

    def acknowledged(self) -> None:
        if not self._acknowledged.done():
            self._acknowledged.set_result(None)
            self._beat()

    def refused(self, code: str, message: str) -> None:
        if not self._acknowledged.done():
            self._acknowledged.set_exception(WireError(f"{self._url} refuses a peer: {code}: {message}"))

    @abstractmethod
    def hello(self) -> Frame: ...

    @abstractmethod
    def beat(self) -> Frame: ...

    @abstractmethod
    def hear(self, message: bytes) -> None: ...

    def _beat(self) -> None:
        if self.wire:
            self.wire.send(_frame(self.beat()))
        self._timer = asyncio.get_running_loop().call_later(self.heartbeat_seconds, self._beat)

    def _hung_up(self) -> None:
        if not self._closing:
            self.refused("CLOSED", "the connection was closed")
            self.crowd.lose(f"{self._url} closed a peer's connection")


class _Assignment(msgspec.Struct):
    """What a no-op node reads; what it only echoes stays as it is written, quotes included."""

    type: str
    session_id: str = ""
    utterance_index: int = -1
    job_id: msgspec.Raw = msgspec.Raw()
    attempt_id: msgspec.Raw = msgspec.Raw()
    trace_id: msgspec.Raw = msgspec.Raw()
    assign_seq: int | None = None
    node_id: str = ""
    code: str = ""
    message: str = ""


_read_assignment = msgspec.json.Decoder(_Assignment).decode


class _Node(_Peer):
    """Answers every job at once with the same words."""

    heartbeat_seconds = NODE_HEARTBEAT_SECONDS

    def __init__(self, crowd: Crowd, url: str, *, capacity: int, acks: bool, pair: tuple[str, str]) -> None:
        super().__init__(crowd, url)
        self._capacity, self._acks, self._languages = capacity, acks, (pair,)
        self._node_id = ""
        self._assign_seq: int | None = None
        self._acked = self._answered = b""  # how job_ack and job_started, and how job_result go on after the ids

    def hello(self) -> Frame:
        return registration(None, capacity=self._capacity, languages=self._languages)

    def beat(self) -> Frame:
        return heartbeat(self._node_id, languages=self._languages, assign_seq=self._assign_seq)

    def hear(self, message: bytes) -> None:
        frame = _read_assignment(message)
        if frame.type == "job_assign":
            self._answer(frame)
        elif frame.type == "node_register_ack":
            self._node_id = frame.node_id
            self._acked = b"," + msgspec.json.encode({"node_id": frame.node_id})[1:]
            self._answered = b"," + msgspec.json.encode({"node_id": frame.node_id, **NO_OP})[1:]
            self.acknowledged()
        elif frame.type == "error":
            self.crowd.run.errors[f"node: {frame.code}"] += 1
            self.refused(frame.code, frame.message)

    def _answer(self, job: _Assignment) -> None:
        flight = self.crowd.run.flights.get((job.session_id, job.utterance_index))
        if flight:
            flight.at_node = time.perf_counter()
        self._assign_seq = job.assign_seq
        ids = b'","job_id":%b,"attempt_id":%b,"session_id":"%b","utterance_index":%d,"trace_id":%b' % (
            job.job_id,
            job.attempt_id,
            job.session_id.encode(),
            job.utterance_index,
            job.trace_id,
        )
        frames = [text_frame(b'{"type":"job_result' + ids + self._answered)]
        if self._acks:
            frames[:0] = (text_frame(b'{"type":"' + kind + ids + self._acked) for kind in (b"job_ack", b"job_started"))
        assert self.wire  # noqa: S101 -- what brought the frame
        self.wire.send(*frames)
        if flight:
            flight.answered = time.perf_counter()


class _Event(msgspec.Struct):
    """What a session reads."""

    type: str
    session_id: str = ""
    utterance_index: int = -1
    code: str = ""
    message: str = ""
    reason: str = ""
    event: str = ""
    details: Any = None


_read_event = msgspec.json.Decoder(_Event).decode


class _Session(_Peer):
    """Submits the same audio again and again, each time under the next index."""

    heartbeat_seconds = SESSION_HEARTBEAT_SECONDS

    def __init__(self, crowd: Crowd, url: str, *, audio_ms: int, pair: tuple[str, str]) -> None:
        super().__init__(crowd, url)
        self.session_id = ""
        self._pair, self._audio_ms = pair, audio_ms
        self._next_index = 0
        self._utterance = b""

    def hello(self) -> Frame:
        source, target = self._pair
        return {
            "type": "session_init",
            "client_version": "linguasched-load",
            "platform": "web",
            "src_lang": source,
            "tgt_lang": target,
        }

    def beat(self) -> Frame:
        return {"type": "client_heartbeat", "session_id": self.session_id, "timestamp": time.time_ns() // 1_000_000}

    def submit(self) -> tuple[str, int]:
        """Send the next utterance; its session id and index."""
        index = self._next_index
        self._next_index += 1
        assert self.wire  # noqa: S101 -- sessions submit when they are connected
        self.wire.send(text_frame(self._utterance % index))
        return self.session_id, index

    def hear(self, message: bytes) -> None:
        frame = _read_event(message)
        run = self.crowd.run
        match frame.type:
            case "translation_result":
                run.land(self, frame.utterance_index, None)
            case "missing_result":
                run.land(self, frame.utterance_index, f"missing_result: {frame.reason}")
            case "ui_event":
                run.notices[frame.event] += 1
            case "error":
                self._hear_error(frame)
            case "session_init_ack":
                self._begin(frame.session_id)

    def _hear_error(self, frame: _Event) -> None:
        self.refused(frame.code, frame.message)
        match frame.details:
            case {"utterance_index": int(index)}:
                self.crowd.run.land(self, index, frame.code)
            case _:
                self.crowd.run.errors[frame.code] += 1

    def _begin(self, session_id: str) -> None:
        source, target = self._pair
        frame = {
            "type": "utterance",
            "session_id": session_id,
            "manual_cut": True,
            "src_lang": source,
            "tgt_lang": target,
            "audio_format": "opus",
            "sample_rate": audio.RATE,
            "audio": b64encode(audio.fabricate(self._audio_ms / 1000)).decode(),
        }
        self.session_id = session_id
        # A template for %: encoded once, only the index changes.
        self._utterance = msgspec.json.encode(frame)[:-1].replace(b"%", b"%%") + b',"utterance_index":%d}'
        self.acknowledged()


def _frame(message: Frame) -> bytes:
    return text_frame(msgspec.json.encode(message))


def _stage(seconds: Sequence[float]) -> Stage:
    ranked = sorted(seconds)

    def percentile(share: int) -> float:
        # The same rank as in the other peers' measuring code.
        return round(1000 * ranked[min(len(ranked) - 1, round(share / 100 * (len(ranked) - 1)))], 3)

    return Stage(percentile(50), percentile(95), percentile(99), percentile(100))
