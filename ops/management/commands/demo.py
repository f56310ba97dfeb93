"""Shows the main job end to end: two instances, a node on each, four sessions, and every utterance live."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ops.peers import audio, speech
from ops.peers.node import EVERY_PAIR, Engine, EngineError, Job, Languages, Node, echo
from ops.peers.session import Frame, Session, SessionError

APPLICATION = "linguasched.asgi:application"
INSTANCES = ("a", "b")
SESSIONS = 4
# Sentences that pocketsphinx understands when espeak-ng says them.
SENTENCES = (
    "good morning everyone",
    "where is the train station",
    "the meeting starts at three",
    "i would like a cup of coffee",
    "can you help me please",
    "tomorrow we will go to the beach",
    "my brother lives in the city",
    "thank you very much",
)
DONE = "done"
STAND_IN_SECONDS = 2.0  #: length of an utterance when nothing here can speak
LOG_LINES = 15
START_SECONDS, TALK_SECONDS, STOP_SECONDS = 25.0, 45.0, 10.0


class Command(BaseCommand):
    help = "Start two instances, two nodes and four sessions, and watch utterances go through. Needs nothing running."
    requires_system_checks = ()

    def handle(self, **options: Any) -> None:
        # The nodes' own log lines would run through the table; what matters of them is in it.
        logging.getLogger("ops.peers").setLevel(logging.ERROR)
        asyncio.run(_unless_stopped(Demo(Console()).run()))


async def _unless_stopped(demo: Coroutine[Any, Any, None]) -> None:
    """Run the demo; at a signal let it put everything away, however often the signal is repeated."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work, stopped = asyncio.create_task(demo), asyncio.create_task(stop.wait())
    await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        await asyncio.wait([work])
        raise CommandError("stopped; its processes are gone", returncode=130)
    stopped.cancel()
    work.result()


def say(console: Console, line: str) -> None:
    """Print a line as it is: no colours guessed into it, no breaks."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


class Utterance:
    """One row of the table."""

    def __init__(self, speaker: str, instance: str, said: str) -> None:
        self.speaker, self.instance, self.said = speaker, instance, said
        self.node = self.state = self.recognised = self.translated = ""
        self.index: int | None = None
        self.begun = self.ended = 0.0

    @property
    def seconds(self) -> float | None:
        """From the first frame sent to the result, or until now."""
        return (self.ended or time.monotonic()) - self.begun if self.begun else None

    @property
    def came_back(self) -> bool:
        return self.state == DONE


class Board:
    """All utterances: a live table on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self.utterances: list[Utterance] = []
        self.by_key: dict[tuple[str, int], Utterance] = {}
        self._console = console

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self.table, console=self._console, refresh_per_second=8, transient=True):
            yield

    def change(self, utterance: Utterance, state: str) -> None:
        """Note a step on the way; what has ended stays as it is."""
        if utterance.ended:
            return
        utterance.state = state
        if not self._console.is_terminal:
            cells = [f"session {utterance.speaker}", *(cell for cell in _cells(utterance)[1:] if cell)]
            say(self._console, "  ".join(cells))

    def end(self, utterance: Utterance, state: str) -> None:
        """Note the end, and when it was."""
        self.change(utterance, state)
        utterance.ended = utterance.ended or time.monotonic()

    def at_node(self, node: str, job: Job, state: str) -> None:
        """A node tells of a job."""
        if utterance := self.by_key.get((job.session_id, job.utterance_index)):
            utterance.node = node
            self.change(utterance, "at work" if state == "started" else f"{state} at node")

    def heard(self, frame: Frame) -> None:
        """The scheduler tells a session of an utterance that is under way."""
        utterance = self.by_key.get((frame.get("session_id", ""), frame.get("utterance_index", -1)))
        match frame:
            case {"type": "asr_partial", "text": str(text)} if utterance:
                utterance.recognised = f"{text} …"
            case {"type": "ui_event", "event": "QUEUED"} if utterance:
                self.change(utterance, "waiting")

    def table(self, title: str | None = None) -> Table:
        table = Table(title=title)
        for name in ("session", "instance", "node", "said", "recognised", "translated", "state", "s"):
            table.add_column(name, no_wrap=name in ("session", "instance", "node", "s"))
        for utterance in self.utterances:
            table.add_row(*_cells(utterance))
        return table


def _cells(utterance: Utterance) -> tuple[str, ...]:
    seconds = "" if utterance.seconds is None else f"{utterance.seconds:.2f}"
    heard = (utterance.recognised, utterance.translated)
    return (utterance.speaker, utterance.instance, utterance.node, utterance.said, *heard, utterance.state, seconds)


class Demo:
    """The whole show; whatever it starts has ended when `run` returns."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._board = Board(console)

    async def run(self) -> None:
        """Raise CommandError unless every utterance came back."""
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            engine, languages = self._engine(stack)
            said = asyncio.create_task(asyncio.to_thread(lambda: [_sound_of(text) for text in SENTENCES]))
            urls = await stack.enter_async_context(instances(self._console))
            streams = await said
            for name, url in urls.items():
                await stack.enter_async_context(self._node(_node_on(name), url, engine, languages))
            with self._board.shown():
                await self._talk(urls, streams)
        self._summarise(time.monotonic() - begun)

    def _engine(self, stack: AsyncExitStack) -> tuple[Engine, Languages]:
        try:
            engine = stack.enter_context(speech.Speech())
        except EngineError as error:
            say(self._console, f"Engine: echo, which only returns what it gets. {error}")
            return echo, EVERY_PAIR
        say(self._console, "Engine: speech (pocketsphinx, apertium, espeak-ng on this CPU)")
        return engine, speech.PAIRS

    @asynccontextmanager
    async def _node(self, name: str, url: str, engine: Engine, languages: Languages) -> AsyncIterator[None]:
        def watch(job: Job, state: str) -> None:
            self._board.at_node(name, job, state)

        node = Node(f"{url}/ws/node", engine, node_id=name, capacity=2, languages=languages, watch=watch)
        task = asyncio.create_task(node.run())
        try:
            registered = asyncio.create_task(node.registered.wait())
            await asyncio.wait([task, registered], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            registered.cancel()
            if task.done():
                task.result()
            if not node.registered.is_set():
                raise CommandError(f"{name} was not acknowledged within {START_SECONDS:g} s")
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _talk(self, urls: dict[str, str], streams: list[bytes]) -> None:
        talks = []
        for number, (instance, url) in zip(range(SESSIONS), cycle(urls.items()), strict=False):
            mine = {
                Utterance(str(number + 1), instance, SENTENCES[at]): streams[at]
                for at in range(number, len(SENTENCES), SESSIONS)
            }
            self._board.utterances += mine
            talks.append(self._converse(f"{url}/ws/session", mine, whole=number >= SESSIONS // 2))
        await asyncio.gather(*talks)

    async def _converse(self, url: str, mine: dict[Utterance, bytes], *, whole: bool) -> None:
        """One session: `whole` sends utterance frames, else audio chunks as the web client does."""
        try:
            async with asyncio.timeout(TALK_SECONDS), Session(url, "en", "es", on_frame=self._board.heard) as session:
                for utterance, stream in mine.items():
                    await self._say(session, utterance, stream, whole=whole)
        except (SessionError, TimeoutError) as error:
            for utterance in mine:
                self._board.end(utterance, str(error) or f"not back within {TALK_SECONDS:g} s")

    async def _say(self, session: Session, utterance: Utterance, stream: bytes, *, whole: bool) -> None:
        utterance.begun = time.monotonic()
        index = session.next_index
        self._board.by_key[session.session_id, index] = utterance
        self._board.change(utterance, "sent")
        await (session.utter(stream) if whole else session.say(stream))
        try:
            result = await session.result(index)
        except SessionError as error:
            self._board.end(utterance, str(error))
            return
        utterance.recognised, utterance.translated = result.get("text_asr", ""), result.get("text_translated", "")
        self._board.end(utterance, DONE if result["type"] == "translation_result" else f"missing: {result['reason']}")

    def _summarise(self, seconds: float) -> None:
        utterances = self._board.utterances
        self._console.print(self._board.table("What became of each utterance"))
        back = [utterance for utterance in utterances if utterance.came_back]
        crossed = sum(bool(utterance.node) and utterance.node != _node_on(utterance.instance) for utterance in back)
        say(
            self._console,
            f"{len(back)} of {len(utterances)} utterances came back, {crossed} of them from the other instance's node; "
            f"{seconds:.1f} s in all",
        )
        if len(back) < len(utterances):
            raise CommandError(f"{len(utterances) - len(back)} utterances did not come back")


def _node_on(instance: str) -> str:
    return f"node-{instance}"


def _sound_of(text: str) -> bytes:
    """The sentence as Plan A; packets without sound when nothing here can speak or encode."""
    if speech.can_speak() and audio.can_encode():
        return audio.encode(speech.synthesise(text, "en"))
    return audio.fabricate(STAND_IN_SECONDS)


@asynccontextmanager
async def instances(console: Console) -> AsyncIterator[dict[str, str]]:
    """Two daphne processes, ready, sharing a data dir of their own: instance id -> ws:// root."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lingua-", ignore_cleanup_errors=True)))
        async with _process(folder, "migrate", "manage.py", "migrate", "--verbosity", "0") as migrate:
            if await migrate.wait():
                raise CommandError("\n".join(["manage.py migrate failed:", *_end_of_log(folder, "migrate")]))
        started = []
        for name, port in zip(INSTANCES, _free_ports(len(INSTANCES)), strict=True):
            command = ("-m", "daphne", "-b", "127.0.0.1", "-p", str(port), APPLICATION)
            started.append((name, port, await stack.enter_async_context(_process(folder, name, *command))))
        for name, port, process in started:
            await _ready(name, port, process, folder)
            say(console, f"Instance {name}: http://127.0.0.1:{port}")
        yield {name: f"ws://127.0.0.1:{port}" for name, port, _ in started}


@asynccontextmanager
async def _process(folder: Path, name: str, *command: str) -> AsyncIterator[Process]:
    """A Python process that writes to `<name>.log`; it is told to end with the block, and killed if it does not."""
    # What is set here must not lead the demo to another data dir or database.
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("LINGUASCHED_", "DATABASE_URL"))}
    mine |= {
        "LINGUASCHED_DATA_DIR": str(folder),
        "LINGUASCHED__SCHEDULER__PHASE2__ENABLED": "true",
        "LINGUASCHED__SCHEDULER__PHASE2__INSTANCE_ID": name,
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=settings.BASE_DIR,
            env=mine,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us alone: the instances end after their peers
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(name: str, port: int, process: Process, folder: Path) -> None:
    """Return when /readyz answers 200; CommandError with the end of the log when the process ends before or is late."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None and not await _answers(port, "/readyz"):  # noqa: ASYNC110 -- nothing to wait on
                await asyncio.sleep(0.1)
    except TimeoutError:
        problem = f"is not ready after {START_SECONDS:g} s"
    else:
        if process.returncode is None:
            return
        problem = f"ended with code {process.returncode}"
    raise CommandError("\n".join([f"Instance {name} {problem}. The end of its log:", *_end_of_log(folder, name)]))


def _end_of_log(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.log").read_text(errors="replace").splitlines()[-LOG_LINES:]


async def _answers(port: int, path: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
