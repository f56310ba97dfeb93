"""`manage.py node`, `speak`, `simulate` and `demo`, against a scheduler that plays the protocol from the page."""

import asyncio
import io
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from rich.console import Console

from ops.management.commands import demo
from ops.peers import audio, speech
from ops.peers.load import Report
from ops.peers.node import Node, echo
from tests.ops.peers.scheduler import Scheduler, running


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with running() as scheduler:
        yield scheduler


@pytest.fixture
async def node(scheduler: Scheduler) -> AsyncIterator[Node]:
    """An echo node."""
    node = Node(f"{scheduler.url}/ws/node", echo)
    task = asyncio.create_task(node.run())
    await scheduler.frame("node_heartbeat")
    yield node
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """Two seconds of silence."""
    path = tmp_path / "said.wav"
    audio.write_wav(path, audio.Sound(bytes(64_000), 16_000))
    return path


async def run(*command: str, **options: Any) -> str:
    """What the command prints; the commands have event loops of their own, hence the thread."""
    out = io.StringIO()
    await asyncio.to_thread(call_command, *command, stdout=out, stderr=out, **options)
    return out.getvalue()


async def test_speak_prints_what_was_heard_and_how_long_it_took(scheduler: Scheduler, node: Node, wav: Path) -> None:
    url = f"{scheduler.url}/ws/session"
    printed = await run("speak", str(wav), "--src", "en", "--tgt", "es", "--url", url)
    assert "recognised  echo 2.0" in printed
    assert "translated  echo 2.0" in printed
    assert "s in all" in printed
    whole = await run("speak", str(wav), "--whole", "--src", "en", "--tgt", "es", "--url", url)
    assert "recognised  echo 2.0" in whole
    assert (await scheduler.frame("utterance"))["src_lang"] == "en"


async def test_speak_saves_the_audio_that_came_back(
    scheduler: Scheduler, node: Node, wav: Path, tmp_path: Path
) -> None:
    out = tmp_path / "result.wav"
    command = run(
        "speak", str(wav), "--src", "en", "--tgt", "es", "--url", f"{scheduler.url}/ws/session", "--out", str(out)
    )
    if not audio.can_encode():
        with pytest.raises(CommandError, match="Opus packets need the Python package av"):
            await command
        return
    assert "saved" in await command
    assert audio.read_wav(out).seconds == pytest.approx(2.0, abs=0.05)


async def test_speak_says_text_through_espeak_or_what_it_needs(scheduler: Scheduler, node: Node) -> None:
    command = run("speak", "--say", "hello there", "--src", "en", "--tgt", "es", "--url", f"{scheduler.url}/ws/session")
    if not speech.can_speak():
        with pytest.raises(CommandError, match="espeak-ng is not installed"):
            await command
        return
    assert "recognised  echo" in await command


async def test_speak_fails_readably(scheduler: Scheduler, wav: Path) -> None:
    languages = ("--src", "en", "--tgt", "es")
    url = ("--url", f"{scheduler.url}/ws/session")
    with pytest.raises(CommandError, match=r"give a FILE\.wav, or --say"):
        await run("speak", *languages)
    with pytest.raises(CommandError, match="cannot be read"):
        await run("speak", f"{wav}.not", *languages)
    with pytest.raises(CommandError, match="UNREACHABLE: no session at"):
        await run("speak", str(wav), *languages, "--url", "ws://127.0.0.1:1/ws/session")
    scheduler.answer = lambda role, frame: [] if frame["type"] == "audio_chunk" else None
    with pytest.raises(CommandError, match="TIMED_OUT: no result of utterance 0"):
        await run("speak", str(wav), *languages, *url, "--timeout", "0.05")
    error = {"type": "error", "code": "NO_AVAILABLE_NODE", "message": "nobody", "details": {"utterance_index": 0}}
    scheduler.answer = lambda role, frame: [error] if frame["type"] == "audio_chunk" else None
    with pytest.raises(CommandError, match="NO_AVAILABLE_NODE: nobody"):
        await run("speak", str(wav), *languages, *url)


async def test_simulate_prints_a_table_or_json(scheduler: Scheduler) -> None:
    size = ("--nodes", "1", "--sessions", "2", "--seconds", "0.1", "--inflight", "2", "--url", scheduler.url)
    table = await run("simulate", *size)
    assert "1 nodes, 2 sessions, 2 in flight" in table
    assert all(name in table for name in ("submit -> at the node", "result -> at the session", "total"))
    report = msgspec.json.decode(await run("simulate", *size, "--rate", "100", "--json"), type=Report)
    assert (report.submitted, report.completed, report.rate) == (10, 10, 100)


async def test_simulate_refuses_what_makes_no_sense() -> None:
    with pytest.raises(CommandError, match="--nodes 0 must be greater than 0"):
        await run("simulate", "--nodes", "0")
    with pytest.raises(CommandError, match="--cross needs --url twice"):
        await run("simulate", "--cross")
    with pytest.raises(CommandError, match="no WebSocket at ws://127"):
        await run("simulate", "--url", "ws://127.0.0.1:1")


async def test_node_serves_until_it_is_told_to_stop(scheduler: Scheduler) -> None:
    command = ("manage.py", "node", "--url", f"{scheduler.url}/ws/node", "--id", "mine", "--capacity", "3")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=settings.BASE_DIR, stderr=asyncio.subprocess.PIPE
    )
    register = await scheduler.frame("node_register")
    assert (register["node_id"], register["max_concurrent_jobs"]) == ("mine", 3)
    await scheduler.frame("node_heartbeat")
    await scheduler.assign("mine")
    assert (await scheduler.frame("job_result"))["success"] is True
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    assert (process.returncode, b"Traceback" in errors) == (0, False)


async def test_the_demo_tells_why_an_instance_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "APPLICATION", "no_such_module:application")
    with pytest.raises(CommandError, match=r"(?s)Instance a ended with code 1\..*No module named 'no_such_module'"):
        async with demo.instances(Console(file=io.StringIO())):
            pytest.fail("an instance without an application cannot be ready")
