"""The reference session against a scheduler that plays PROTOCOL 2 from the page."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ops.peers import audio, session
from ops.peers.node import Node, echo
from ops.peers.session import Session, SessionError
from tests.ops.peers.scheduler import Frame, Scheduler, running


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    """A scheduler with one echo node."""
    async with running() as scheduler:
        node = Node(f"{scheduler.url}/ws/node", echo)
        task = asyncio.create_task(node.run())
        await scheduler.frame("node_heartbeat")
        yield scheduler
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def speaker(scheduler: Scheduler, **options: Any) -> Session:
    return Session(f"{scheduler.url}/ws/session", "en", "es", **options)


def chunks(scheduler: Scheduler) -> list[Frame]:
    return [frame for frame in scheduler.heard if frame["type"] == "audio_chunk"]


async def test_nothing_is_sent_before_session_init_and_its_answer_is_awaited(scheduler: Scheduler) -> None:
    async with speaker(scheduler, mode="two_way_auto", lang_a="en", lang_b="es") as said:
        assert (said.session_id, said.trace_id) == (next(iter(scheduler.sessions)), "t-1")
    init = await scheduler.frame("session_init")
    assert (init["src_lang"], init["tgt_lang"], init["mode"], init["lang_b"]) == ("en", "es", "two_way_auto", "es")


async def test_audio_goes_out_as_the_real_client_sends_it_and_the_result_comes_back(scheduler: Scheduler) -> None:
    stream = audio.fabricate(6)
    frames: list[Frame] = []
    async with speaker(scheduler, on_frame=frames.append) as said:
        assert await said.say(stream) == [0]
        result = await said.result(0)
    assert result["text_asr"] == "echo 6.00s"
    assert b64decode(result["tts_audio"]) == stream
    sent = chunks(scheduler)
    assert [chunk["seq"] for chunk in sent] == [0, 1, 2, 3]
    assert [chunk["is_final"] for chunk in sent] == [False, False, False, True]
    assert sent[-1]["payload"] == ""
    assert [frame["type"] for frame in frames] == ["session_init_ack", "translation_result"]


async def test_long_audio_becomes_utterances_below_the_limit_of_the_scheduler(scheduler: Scheduler) -> None:
    async with speaker(scheduler) as said:
        assert await said.say(audio.fabricate(40)) == [0, 1, 2]
        texts = [(await said.result(index))["text_asr"] for index in (0, 1, 2)]
    assert texts == ["echo 17.92s", "echo 17.92s", "echo 4.16s"]


async def test_after_a_silence_an_empty_chunk_comes_first(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with speaker(scheduler) as said:
        await said.say(audio.fabricate(1))
        monkeypatch.setattr(session, "PAUSE_SECONDS", 0.0)
        assert await said.say(audio.fabricate(1)) == [1]
        assert (await said.result(1))["text_asr"] == "echo 1.00s"
    assert [bool(chunk["payload"]) for chunk in chunks(scheduler)] == [True, False, False, True, False]


async def test_an_utterance_goes_out_whole_under_the_next_index(scheduler: Scheduler) -> None:
    async with speaker(scheduler) as said:
        indices = [await said.utter(audio.fabricate(seconds)) for seconds in (1, 2)]
        texts = [(await said.result(index))["text_asr"] for index in reversed(indices)]
    assert (indices, texts) == ([0, 1], ["echo 2.00s", "echo 1.00s"])


async def test_an_error_about_one_utterance_ends_that_one_only(scheduler: Scheduler) -> None:
    broken = {"type": "error", "code": "JOB_TIMEOUT", "message": "too late", "details": {"utterance_index": 0}}
    first = True

    def answer(role: str, frame: Frame) -> list[Frame] | None:
        nonlocal first
        if frame["type"] != "utterance" or not first:
            return None
        first = False
        return [broken]

    scheduler.answer = answer
    async with speaker(scheduler) as said:
        failing, working = await said.utter(audio.fabricate(1)), await said.utter(audio.fabricate(2))
        assert (await said.result(working))["text_asr"] == "echo 2.00s"
        with pytest.raises(SessionError, match="JOB_TIMEOUT: too late"):
            await said.result(failing)


async def test_an_error_about_nothing_in_particular_ends_every_wait(scheduler: Scheduler) -> None:
    error = {"type": "error", "code": "INVALID_MESSAGE", "message": "Invalid message format: ?"}
    scheduler.answer = lambda role, frame: [error] if frame["type"] == "utterance" else None
    async with speaker(scheduler) as said:
        index = await said.utter(b"")
        with pytest.raises(SessionError, match="INVALID_MESSAGE"):
            await said.result(index)


async def test_a_missing_result_is_a_result(scheduler: Scheduler) -> None:
    missing = {"type": "missing_result", "utterance_index": 0, "reason": "silence_detected"}
    scheduler.answer = lambda role, frame: [missing] if frame["type"] == "utterance" else None
    async with speaker(scheduler) as said:
        assert (await said.result(await said.utter(b"")))["reason"] == "silence_detected"


async def test_waiting_ends_readably_when_nothing_comes(scheduler: Scheduler) -> None:
    async with speaker(scheduler) as said:
        with pytest.raises(SessionError, match="TIMED_OUT: no result of utterance 7 within"):
            await said.result(7, seconds=0.01)


async def test_a_scheduler_that_leaves_ends_every_wait(scheduler: Scheduler) -> None:
    async with speaker(scheduler) as said:
        wait = asyncio.create_task(said.result(0))
        await scheduler.sessions[said.session_id].close()
        with pytest.raises(SessionError, match="CONNECTION_LOST"):
            await wait


async def test_an_unreachable_scheduler_is_named() -> None:
    with pytest.raises(SessionError, match=r"UNREACHABLE: no session at ws://127\.0\.0\.1:1/ws/session"):
        async with Session("ws://127.0.0.1:1/ws/session", "en", "es"):
            pass


async def test_heartbeats_carry_the_session(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_SECONDS", 0.01)
    async with speaker(scheduler) as said:
        beat = await scheduler.frame("client_heartbeat", 2)
        assert beat["session_id"] == said.session_id
