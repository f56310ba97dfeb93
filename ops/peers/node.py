"""A reference node: connects, registers, beats, and lets an engine do the jobs that it is given.

What a node needs to know of the protocol (PROTOCOL 3) is all here. Write an engine of your own, an `async` callable
from Job to Answer, and `await Node(url, engine).run()`.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import permutations
from typing import Any

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException

from ops.peers import audio

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 15.0
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.5, 30.0
MAX_FRAME_BYTES = 16 * 1024 * 1024
EVERY_PAIR = tuple(permutations(("de", "en", "es", "fr", "ja", "ko", "pt", "zh"), 2))  #: for engines that do not listen
SERVICES = ("asr", "nmt", "tts")  #: what the core pipeline of every job needs
REFUSALS = {"NO_GPU_AVAILABLE", "INVALID_CAPABILITY_SCHEMA"}  #: trying again would not change them
LAST_CLOSES = {4001: "another node with this id has connected; give each its own", 4404: "there is no such path"}
REGISTER_HINT = "node_register"  #: an error that names it asks a connected node to register again

FEATURES = (
    "emotion_detection",
    "voice_style_detection",
    "speech_rate_detection",
    "speech_rate_control",
    "speaker_identification",
    "persona_adaptation",
)

Languages = Sequence[tuple[str, str]]  #: directed pairs: (source, target)
Frame = dict[str, Any]
Outcome = Frame  #: the members of a job_result that tell how it went
Partial = Callable[[str], Awaitable[None]]  #: tells the session what has been recognised so far


class Job(msgspec.Struct, frozen=True):
    """What an engine needs of a job_assign; the audio is decoded from base64."""

    job_id: str  #: names one attempt: to be echoed as it is
    attempt_id: int
    session_id: str
    utterance_index: int
    trace_id: str
    src_lang: str
    tgt_lang: str
    audio: bytes  #: Plan A


class Answer(msgspec.Struct, frozen=True):
    """What an engine makes of a job; all three empty means that nobody spoke."""

    text_asr: str
    text_translated: str
    tts_audio: bytes  #: Plan A
    timings: dict[str, int] = {}  #: asr_ms, nmt_ms, tts_ms, total_ms


Engine = Callable[[Job, Partial], Awaitable[Answer]]
Watch = Callable[[Job, str], None]  #: hears of each job: "started", then "done", "failed" or "cancelled"


class EngineError(Exception):
    """The engine cannot do a job: args are the message and an error code of PROTOCOL 4."""

    def __init__(self, message: str, code: str = "PROCESSING_ERROR") -> None:
        super().__init__(message, code)

    def __str__(self) -> str:
        return str(self.args[0])


class NodeRefused(Exception):
    """The scheduler does not take this node, and trying again would not change that."""


async def echo(job: Job, partial: Partial) -> Answer:
    """The engine that needs nothing: says how long the audio is and returns it as it came."""
    text = f"echo {audio.seconds(job.audio):.2f}s"
    await partial("echo")
    return Answer(text_asr=text, text_translated=text, tts_audio=job.audio)


class Node:
    """One node, which keeps its id and its unfinished jobs across reconnects."""

    def __init__(
        self,
        url: str,
        engine: Engine,
        *,
        node_id: str | None = None,
        capacity: int = 4,
        latency_ms: int = 0,
        acks: bool = True,
        languages: Languages = EVERY_PAIR,
        watch: Watch = lambda job, state: None,
    ) -> None:
        self.node_id = node_id
        self.registered = asyncio.Event()  #: set while the scheduler has acknowledged this connection
        self._url, self._engine, self._capacity = url, engine, capacity
        self._latency, self._acks, self._languages, self._watch = latency_ms / 1000, acks, languages, watch
        self._jobs: dict[str, asyncio.Task[Outcome]] = {}  # by job_id, held until the result is sent
        self._assign_seq: int | None = None  # the last one of this connection
        self._sending = asyncio.Lock()  # so that no beat contradicts a result on its way
        self._beat_now = asyncio.Event()
        self._backoff = FIRST_BACKOFF_SECONDS
        self._socket: ClientConnection
        self._tasks: asyncio.TaskGroup

    @property
    def running_jobs(self) -> int:
        """How many jobs are in work or wait for their result to be sent."""
        return len(self._jobs)

    async def run(self) -> None:
        """Serve until cancelled; raise NodeRefused when the scheduler will never take this node."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._tasks.create_task(self._beat())
                while True:
                    await self._connect_once()
                    await asyncio.sleep(random.uniform(0.5, 1) * self._backoff)  # noqa: S311 -- spreads a herd, no secret
                    self._backoff = min(2 * self._backoff, LAST_BACKOFF_SECONDS)
        except ExceptionGroup as group:
            if refused := group.subgroup(NodeRefused):
                raise refused.exceptions[0] from None
            raise

    async def _connect_once(self) -> None:
        try:
            async with connect(self._url, compression=None, max_size=MAX_FRAME_BYTES) as self._socket:
                self._assign_seq = None
                await self._register()
                async for message in self._socket:
                    await self._hear(msgspec.json.decode(message))
            log.warning("node_disconnected", url=self._url, node=self.node_id)
        except InvalidURI as error:
            raise NodeRefused(str(error)) from error
        except (OSError, WebSocketException, msgspec.DecodeError) as error:
            if isinstance(error, ConnectionClosed) and error.rcvd and (reason := LAST_CLOSES.get(error.rcvd.code)):
                raise NodeRefused(f"the scheduler at {self._url} closed the connection for good: {reason}") from error
            log.warning("node_connection_failed", url=self._url, node=self.node_id, error=str(error))
        finally:
            self.registered.clear()

    async def _hear(self, frame: Frame) -> None:
        match frame:
            case {"type": "node_register_ack", "node_id": str(node_id)}:
                self.node_id, self._backoff = node_id, FIRST_BACKOFF_SECONDS
                self.registered.set()
                self._beat_now.set()
                log.info("node_registered", url=self._url, node=node_id)
            case {"type": "job_assign"}:
                self._assign_seq = frame.get("assign_seq", self._assign_seq)
                await self._take(frame)
            case {"type": "job_cancel", "job_id": str(job_id)} if job_id in self._jobs:
                self._jobs[job_id].cancel()
            case {"type": "error", "code": str(code)}:
                await self._hear_error(code, str(frame.get("message", "")))

    async def _hear_error(self, code: str, message: str) -> None:
        log.warning("node_error_received", node=self.node_id, code=code, message=message)
        if code in REFUSALS:
            raise NodeRefused(f"the scheduler at {self._url} refuses this node: {code}: {message}")
        if not self.registered.is_set():
            await self._socket.close()  # comes back after a longer wait
        elif REGISTER_HINT in message:
            await self._register()

    async def _register(self) -> None:
        self.registered.clear()
        frame = registration(self.node_id, capacity=self._capacity, languages=self._languages, running=self._jobs)
        await self._socket.send(msgspec.json.encode(frame), text=True)

    async def _take(self, frame: Frame) -> None:
        try:
            job = msgspec.convert(frame, Job)
        except msgspec.ValidationError as error:
            complaint = {"type": "node_error", "code": "INVALID_MESSAGE", "message": f"job_assign: {error}"}
            await self._send(lambda: complaint)
            return
        if len(self._jobs) >= self._capacity and job.job_id not in self._jobs:
            overloaded = _failure("NODE_OVERLOADED", f"all {self._capacity} slots of this node are taken")
            await self._send(lambda: self._about(job, "job_result", **overloaded))
        elif job.job_id not in self._jobs:
            attempt = self._jobs[job.job_id] = self._tasks.create_task(self._attempt(job))
            self._tasks.create_task(self._finish(job, attempt))

    async def _attempt(self, job: Job) -> Outcome:
        """Do one job; the answer tells how that went."""

        async def partial(text: str) -> None:
            await self._send(lambda: self._about(job, "asr_partial", text=text, is_final=False))

        begun = time.monotonic()
        try:
            if self._acks:
                await self._send(lambda: self._about(job, "job_ack"))
                await self._send(lambda: self._about(job, "job_started"))
            self._watch(job, "started")
            await asyncio.sleep(self._latency)
            answer = await self._engine(job, partial)
        except EngineError as error:
            return _failure(error.args[1], str(error))
        except Exception as error:  # the engine is foreign code: one job must not end the node
            log.exception("node_job_failed", job=job.job_id)
            return _failure("PROCESSING_ERROR", f"{type(error).__name__}: {error}")
        elapsed = round(1000 * (time.monotonic() - begun))
        return {
            "success": True,
            "text_asr": answer.text_asr,
            "text_translated": answer.text_translated,
            "tts_audio": answer.tts_audio,
            "tts_format": "opus",
            "processing_time_ms": elapsed,
            "extra": {"service_timings": answer.timings or {"total_ms": elapsed}},
        }

    async def _finish(self, job: Job, attempt: asyncio.Task[Outcome]) -> None:
        """Send the result, on a later connection if need be; only then the slot is free."""
        await asyncio.wait([attempt])
        # A cancelled job is answered too: nothing else tells the scheduler at once that the slot is free.
        cancelled = attempt.cancelled()
        outcome = _failure("JOB_CANCELLED", "cancelled on request") if cancelled else attempt.result()
        while job.job_id in self._jobs:
            await self.registered.wait()
            await self._send(lambda: self._about(job, "job_result", **outcome), ends=job.job_id)
        self._watch(job, "cancelled" if cancelled else "done" if outcome["success"] else "failed")

    async def _beat(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._beat_now.wait()
            self._beat_now.clear()
            await self._send(self._heartbeat)

    def _heartbeat(self) -> Frame:
        return heartbeat(self.node_id, languages=self._languages, running=self._jobs, assign_seq=self._assign_seq)

    async def _send(self, build: Callable[[], Frame], *, ends: str = "") -> None:
        """Send what `build` makes at this moment, and with it end a job; without a connection do neither."""
        async with self._sending:
            if not self.registered.is_set():
                return
            frame = msgspec.json.encode(build() | {"node_id": self.node_id})
            ended = self._jobs.pop(ends, None)  # before: the next job may be here while a big result still flushes
            try:
                await self._socket.send(frame, text=True)
            except ConnectionClosed:
                self.registered.clear()
                if ended:
                    self._jobs[ends] = ended

    def _about(self, job: Job, kind: str, **more: Any) -> Frame:
        # Every frame about a job may carry all its ids; the scheduler reads those that the type has.
        return {
            "type": kind,
            "job_id": job.job_id,
            "attempt_id": job.attempt_id,
            "session_id": job.session_id,
            "utterance_index": job.utterance_index,
            "trace_id": job.trace_id,
            **more,
        }


def registration(node_id: str | None, *, capacity: int, languages: Languages, running: Iterable[str] = ()) -> Frame:
    """node_register in schema 2.0, with two optional fields: the limit, and the jobs still in work."""
    return {
        "type": "node_register",
        "node_id": node_id,
        "version": "2.0.0",
        "capability_schema_version": "2.0",
        "platform": {"win32": "windows", "darwin": "macos"}.get(sys.platform, "linux"),
        "hardware": {
            "cpu_cores": os.cpu_count() or 1,
            "memory_gb": 8,
            # The protocol takes nobody without a GPU. This node has none and says so in the name.
            "gpus": [{"name": "none (reference node on the CPU)", "memory_gb": 1}],
        },
        "installed_models": [],
        "features_supported": dict.fromkeys(FEATURES, False),
        "accept_public_jobs": True,
        "max_concurrent_jobs": capacity,
        "running_job_ids": list(running),
        **_capabilities(languages),
    }


def heartbeat(
    node_id: str | None, *, languages: Languages, running: Iterable[str] = (), assign_seq: int | None = None
) -> Frame:
    """node_heartbeat; with the last `assign_seq` of this connection the scheduler knows which jobs the node knew of."""
    jobs = list(running)
    return {
        "type": "node_heartbeat",
        "node_id": node_id,
        "timestamp": time.time_ns() // 1_000_000,
        # The load of the machine is not measured: the slots are the only limit of this node.
        "resource_usage": {
            "cpu_percent": 0.0,
            "gpu_percent": 0.0,
            "gpu_mem_percent": 0.0,
            "mem_percent": 0.0,
            "running_jobs": len(jobs),
        },
        "running_job_ids": jobs,
        **({} if assign_seq is None else {"assign_seq": assign_seq}),
        **_capabilities(languages),
    }


def _capabilities(languages: Languages) -> Frame:
    sources, targets = ([*dict.fromkeys(side)] for side in zip(*languages, strict=True))
    pairs = [{"src": source, "tgt": target} for source, target in languages]
    return {
        "installed_services": [
            {"service_id": f"reference-{kind}", "type": kind, "device": "gpu", "status": "running"} for kind in SERVICES
        ],
        "capability_by_type": [
            *({"type": kind, "ready": True, "ready_impl_ids": [f"reference-{kind}"]} for kind in SERVICES),
            *({"type": kind, "ready": False, "reason": "no_impl"} for kind in ("tone", "semantic")),
        ],
        "language_capabilities": {
            "asr_languages": sources,
            "tts_languages": targets,
            "nmt_capabilities": [
                {
                    "model_id": "reference-nmt",
                    "languages": [*dict.fromkeys((*sources, *targets))],
                    "rule": "specific_pairs",
                    "supported_pairs": pairs,
                }
            ],
            "semantic_languages": [],
            "supported_language_pairs": pairs,
        },
    }


def _failure(code: str, message: str) -> Frame:
    return {"success": False, "error": {"code": code, "message": message}}
