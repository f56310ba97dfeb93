"""The real speech engine where its parts are installed, else its refusal that names the missing ones."""

import asyncio
import importlib.util
import multiprocessing
import shutil
from base64 import b64decode
from collections.abc import AsyncIterator

import pytest

from ops.peers import audio, speech
from ops.peers.node import EngineError, Job, Node
from ops.peers.session import Session
from tests.ops.peers.scheduler import Scheduler, running

SENTENCE = "the meeting starts at three"


def job(stream: bytes, *, src: str = "en", tgt: str = "es") -> Job:
    return Job("job-1", 1, "s-1", 0, "t-1", src, tgt, stream)


def installed() -> bool:
    """Whether the engine can run; where it cannot, that it says so."""
    if not speech.missing():
        return True
    with pytest.raises(EngineError, match="The speech engine needs"):
        speech.Speech()
    return False


async def silent(text: str) -> None:
    """No partials."""


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with running() as scheduler:
        yield scheduler


def test_every_missing_part_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lacks = speech.missing()
    assert [("apt-get install" in lack) or ("pip install -r" in lack) for lack in lacks] == [True] * 4
    with pytest.raises(EngineError, match=r"speech engine needs .*av .*pocketsphinx .*apertium .*espeak-ng"):
        speech.Speech()


async def test_speech_is_recognised_translated_and_spoken_or_the_engine_says_why_not(scheduler: Scheduler) -> None:
    if not installed():
        return
    said = audio.encode(speech.synthesise(SENTENCE, "en"))
    with speech.Speech(workers=1) as engine:
        node = Node(f"{scheduler.url}/ws/node", engine, languages=speech.PAIRS)
        task = asyncio.create_task(node.run())
        await scheduler.frame("node_heartbeat")
        async with Session(f"{scheduler.url}/ws/session", "en", "es") as session:
            (index,) = await session.say(said)
            result = await session.result(index)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert result["text_asr"] == SENTENCE
    assert "reunión" in result["text_translated"]
    sent = await scheduler.frame("job_result")
    assert set(sent["extra"]["service_timings"]) == {"asr_ms", "nmt_ms", "tts_ms", "total_ms"}
    assert audio.decode(b64decode(result["tts_audio"])).seconds > 0.5


async def test_silence_gives_three_empty_parts_and_other_pairs_and_noise_an_error() -> None:
    if not installed():
        return
    with speech.Speech(workers=1) as engine:
        quiet = audio.encode(audio.Sound(bytes(32_000), 16_000))
        answer = await engine(job(quiet), silent)
        assert (answer.text_asr, answer.text_translated, answer.tts_audio) == ("", "", b"")
        with pytest.raises(EngineError, match="only en to es"):
            await engine(job(quiet, tgt="zh"), silent)
        with pytest.raises(EngineError, match="not a Plan A stream"):
            await engine(job(b"\xff\xff\0"), silent)


async def test_a_dead_worker_costs_its_job_and_the_next_one_gets_a_new_worker() -> None:
    if not installed():
        return
    quiet = audio.encode(audio.Sound(bytes(32_000), 16_000))
    with speech.Speech(workers=1) as engine:
        await engine(job(quiet), silent)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(EngineError, match="a worker of the speech engine died"):
            await engine(job(quiet), silent)
        await engine(job(quiet), silent)
