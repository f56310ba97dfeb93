"""The reference node against a scheduler that plays PROTOCOL 3 from the page."""

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ops.peers import audio, node
from ops.peers.node import Answer, EngineError, Job, Node, NodeRefused, Partial, echo
from tests.ops.peers.scheduler import Frame, Scheduler, running


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with running() as scheduler:
        yield scheduler


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "FIRST_BACKOFF_SECONDS", 0.0)


@asynccontextmanager
async def serving(scheduler: Scheduler, engine: node.Engine = echo, **options: Any) -> AsyncIterator[Node]:
    """A registered node that ends with the block."""
    peer = Node(f"{scheduler.url}/ws/node", engine, **options)
    task = asyncio.create_task(peer.run())
    try:
        async with asyncio.timeout(5):
            await peer.registered.wait()
        yield peer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Gate:
    """An engine whose jobs end when the test says so."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, job: Job, partial: Partial) -> Answer:
        await self.open.wait()
        return Answer(text_asr="a", text_translated="b", tts_audio=b"")


def test_the_registration_has_what_the_real_agent_sends_and_the_limit() -> None:
    frame = node.registration(None, capacity=3, languages=[("en", "es"), ("de", "es")])
    assert frame["capability_schema_version"] == "2.0"
    assert frame["hardware"]["gpus"]
    assert [cap["type"] for cap in frame["capability_by_type"]] == ["asr", "nmt", "tts", "tone", "semantic"]
    assert [cap["ready"] for cap in frame["capability_by_type"]] == [True, True, True, False, False]
    assert {service["status"] for service in frame["installed_services"]} == {"running"}
    assert len(frame["features_supported"]) == 6
    assert frame["accept_public_jobs"] is True
    assert frame["max_concurrent_jobs"] == 3
    languages = frame["language_capabilities"]
    assert (languages["asr_languages"], languages["tts_languages"]) == (["en", "de"], ["es"])
    assert languages["supported_language_pairs"] == [{"src": "en", "tgt": "es"}, {"src": "de", "tgt": "es"}]


async def test_a_heartbeat_follows_the_ack_at_once_and_not_before(scheduler: Scheduler) -> None:
    async with serving(scheduler) as peer:
        beat = await scheduler.frame("node_heartbeat")
        assert [frame["type"] for frame in scheduler.heard[:2]] == ["node_register", "node_heartbeat"]
        assert beat["node_id"] == peer.node_id
        assert beat["resource_usage"]["running_jobs"] == 0
        assert "assign_seq" not in beat


async def test_echo_answers_with_the_length_and_the_same_audio_and_echoes_every_id(scheduler: Scheduler) -> None:
    stream = audio.fabricate(1.5)
    async with serving(scheduler, node_id="node-x"):
        sent = await scheduler.assign("node-x", audio=b64encode(stream).decode(), attempt_id=2)
        result = await scheduler.frame("job_result")
    ids = ("job_id", "attempt_id", "session_id", "utterance_index", "trace_id")
    assert {name: result[name] for name in ids} == {name: sent[name] for name in ids}
    assert result["node_id"] == "node-x"
    assert result["success"] is True
    assert result["text_asr"] == "echo 1.50s"
    assert (b64decode(result["tts_audio"]), result["tts_format"]) == (stream, "opus")
    told = [frame["type"] for frame in scheduler.heard if frame["type"] not in ("node_register", "node_heartbeat")]
    assert told == ["job_ack", "job_started", "asr_partial", "job_result"]


async def test_a_node_without_acks_sends_only_results(scheduler: Scheduler) -> None:
    async with serving(scheduler, acks=False) as peer:
        await scheduler.assign(str(peer.node_id))
        await scheduler.frame("job_result")
    assert not {frame["type"] for frame in scheduler.heard} & {"job_ack", "job_started"}


async def test_jobs_run_side_by_side_and_the_heartbeat_counts_them(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "HEARTBEAT_SECONDS", 0.01)
    gate = Gate()
    async with serving(scheduler, gate, node_id="n", capacity=2) as peer:
        jobs = [await scheduler.assign("n") for _ in range(2)]
        await scheduler.frame("job_started", 2)

        def truth() -> Frame | None:
            last = [frame for frame in scheduler.heard if frame["type"] == "node_heartbeat"][-1]
            return last if last.get("assign_seq") == jobs[-1]["assign_seq"] else None

        beat = await scheduler.until(truth)
        assert beat["resource_usage"]["running_jobs"] == 2
        assert beat["running_job_ids"] == [job["job_id"] for job in jobs]
        gate.open.set()
        await scheduler.frame("job_result", 2)
        assert peer.running_jobs == 0


async def test_a_job_above_the_limit_is_refused_and_the_others_go_on(scheduler: Scheduler) -> None:
    gate = Gate()
    async with serving(scheduler, gate, node_id="n", capacity=1):
        await scheduler.assign("n")
        second = await scheduler.assign("n")
        refusal = await scheduler.frame("job_result")
        assert (refusal["job_id"], refusal["success"]) == (second["job_id"], False)
        assert refusal["error"]["code"] == "NODE_OVERLOADED"
        gate.open.set()
        assert (await scheduler.frame("job_result", 2))["success"] is True


async def test_the_next_job_is_taken_while_a_big_result_still_flushes(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, second = asyncio.Event(), asyncio.Event()

    async def engine(job: Job, partial: Partial) -> Answer:
        if job.utterance_index == 2:
            second.set()
        return Answer(text_asr="a", text_translated="b", tts_audio=b"")

    async with serving(scheduler, engine, node_id="n", capacity=1, acks=False) as peer:
        await scheduler.frame("node_heartbeat")
        send = peer._socket.send

        async def slow(frame: Any, **options: Any) -> None:
            await send(frame, **options)
            await flushed.wait()  # arrived there, and not yet over here

        monkeypatch.setattr(peer._socket, "send", slow)
        await scheduler.assign("n", utterance_index=1)
        await scheduler.frame("job_result")
        await scheduler.assign("n", utterance_index=2)
        async with asyncio.timeout(5):
            await second.wait()
        flushed.set()
        assert (await scheduler.frame("job_result", 2))["success"] is True


async def test_the_same_assignment_twice_is_one_job(scheduler: Scheduler) -> None:
    gate = Gate()
    async with serving(scheduler, gate, node_id="n"):
        first = await scheduler.assign("n")
        await scheduler.assign("n", **first)
        other = await scheduler.assign("n")
        gate.open.set()
        answered = {(await scheduler.frame("job_result", nth))["job_id"] for nth in (1, 2)}
        assert answered == {first["job_id"], other["job_id"]}


async def test_a_cancelled_job_ends_and_says_so(scheduler: Scheduler) -> None:
    states: list[str] = []
    async with serving(scheduler, Gate(), node_id="n", watch=lambda job, state: states.append(state)) as peer:
        job = await scheduler.assign("n")
        await scheduler.frame("job_started")
        await scheduler.send("n", {"type": "job_cancel", "job_id": job["job_id"], "reason": "job_timeout"})
        result = await scheduler.frame("job_result")
        assert result["error"]["code"] == "JOB_CANCELLED"
        assert peer.running_jobs == 0
    assert states == ["started", "cancelled"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (EngineError("no such voice", "MODEL_NOT_AVAILABLE"), "MODEL_NOT_AVAILABLE"),
        (EngineError("no words"), "PROCESSING_ERROR"),
        (ZeroDivisionError("by zero"), "PROCESSING_ERROR"),
    ],
)
async def test_a_failing_engine_fails_its_job_and_nothing_else(
    scheduler: Scheduler, failure: Exception, code: str
) -> None:
    async def engine(job: Job, partial: Partial) -> Answer:
        raise failure

    async with serving(scheduler, engine, node_id="n"):
        for nth in (1, 2):
            await scheduler.assign("n")
            result = await scheduler.frame("job_result", nth)
            assert (result["success"], result["error"]["code"]) == (False, code)
            assert str(failure) in result["error"]["message"]


async def test_an_unreadable_assignment_is_complained_about_and_survived(scheduler: Scheduler) -> None:
    async with serving(scheduler, node_id="n"):
        await scheduler.assign("n", audio="%%%")
        assert (await scheduler.frame("node_error"))["code"] == "INVALID_MESSAGE"
        await scheduler.assign("n")
        assert (await scheduler.frame("job_result"))["success"] is True


async def test_after_a_lost_connection_the_node_comes_back_under_its_id_and_delivers(scheduler: Scheduler) -> None:
    gate = Gate()
    async with serving(scheduler, gate) as peer:
        node_id = str(peer.node_id)
        job = await scheduler.assign(node_id)
        await scheduler.frame("job_started")
        await scheduler.nodes[node_id].close(1012)
        again = await scheduler.frame("node_register", 2)
        assert (again["node_id"], again["running_job_ids"]) == (node_id, [job["job_id"]])
        gate.open.set()
        assert (await scheduler.frame("job_result"))["job_id"] == job["job_id"]
        beat = await scheduler.frame("node_heartbeat", 2)
        assert "assign_seq" not in beat, "numbers of another connection mean nothing on this one"


async def test_a_hint_makes_the_node_register_again_on_the_same_socket(scheduler: Scheduler) -> None:
    async with serving(scheduler, node_id="n"):
        socket = scheduler.nodes["n"]
        await scheduler.send("n", {"type": "error", "code": "INVALID_MESSAGE", "message": "send node_register first"})
        await scheduler.frame("node_heartbeat", 2)
        assert (await scheduler.frame("node_register", 2))["node_id"] == "n"
        assert scheduler.nodes["n"] is socket


async def test_other_errors_and_unknown_frames_change_nothing(scheduler: Scheduler) -> None:
    async with serving(scheduler, node_id="n"):
        await scheduler.send("n", {"type": "error", "code": "INVALID_MESSAGE", "message": "?"})
        await scheduler.send("n", {"type": "node_status", "node_id": "n", "status": "ready"})
        await scheduler.assign("n")
        await scheduler.frame("job_result")
    assert [frame["type"] for frame in scheduler.heard].count("node_register") == 1


async def test_a_refusal_that_cannot_change_ends_the_node(scheduler: Scheduler) -> None:
    error = {"type": "error", "code": "NO_GPU_AVAILABLE", "message": "a node needs at least one GPU"}
    scheduler.answer = lambda role, frame: [error]
    with pytest.raises(NodeRefused, match="NO_GPU_AVAILABLE: a node needs"):
        await Node(f"{scheduler.url}/ws/node", echo).run()


@pytest.mark.parametrize(("code", "words"), [(4001, "another node with this id"), (4404, "no such path")])
async def test_a_close_that_is_meant_for_good_ends_the_node(scheduler: Scheduler, code: int, words: str) -> None:
    peer = Node(f"{scheduler.url}/ws/node", echo, node_id="n")
    ended = asyncio.create_task(peer.run())
    async with asyncio.timeout(5):
        await peer.registered.wait()
        await scheduler.nodes["n"].close(code)
        with pytest.raises(NodeRefused, match=words):
            await ended


async def test_a_url_that_is_none_ends_the_node() -> None:
    with pytest.raises(NodeRefused, match=r"http://127\.0\.0\.1/ws/node isn't a valid URI"):
        await Node("http://127.0.0.1/ws/node", echo).run()


async def test_a_passing_refusal_is_tried_again(scheduler: Scheduler) -> None:
    error = {"type": "error", "code": "SCHEDULER_DEPENDENCY_DOWN", "message": "Redis does not answer"}
    scheduler.answer = lambda role, frame: [error] if len(scheduler.heard) == 1 else None
    async with serving(scheduler):
        assert [frame["type"] for frame in scheduler.heard][:2] == ["node_register", "node_register"]


async def test_the_wait_before_a_reconnect_doubles_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(node, "FIRST_BACKOFF_SECONDS", 0.5)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    monkeypatch.setattr(node, "connect", _unreachable)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    task = asyncio.create_task(Node("ws://nowhere/ws/node", echo).run())
    await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


def _unreachable(*_: object, **__: object) -> None:
    raise OSError("nobody there")
