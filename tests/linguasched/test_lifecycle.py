"""Start and end of real server processes, told by the events that the tiny application writes into a pipe."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from linguasched.lifecycle import Lifecycle, Phase
from tests.dispatch.servers.harness import Server

SERVERS = ["daphne", "uvicorn"]
both = pytest.mark.parametrize("kind", SERVERS)


@both
def test_start_runs_before_anybody_is_served(kind: str):
    with Server(kind) as server:
        assert server.listens().get() == (200, b"served")
        assert [server.event(), server.event()] == ["starting", "started"]


def test_daphne_turns_everybody_away_until_start_has_answered():
    with Server("daphne", gated=True) as server:
        server.listens()
        assert server.event() == "starting"
        assert server.get() == (503, b"This instance is starting.\n")
        assert closing_code(server) == 1013
        server.open_gate()
        assert server.event() == "started"
        assert server.get() == (200, b"served")


@both
def test_sigterm_drains_before_the_sockets_close(kind: str):
    with Server(kind, gated=True) as server:
        server.open_gate()
        with server.listens().websocket("/peer/a") as peer, server.control() as control:
            assert [server.event(), server.event()] == ["starting", "started"]
            assert control("which", "a").endswith("Port")
            server.signal(signal.SIGTERM)
            assert server.event() == "draining"
            peer.send("still here")
            assert control.until("received", "a", lambda size: size == len("still here"))
            assert server.get() == (200, b"served")
            assert closing_code(server) == 1012
            server.open_gate()
            assert close_code(peer) == 1012
        assert server.event() == "drained"
        status, stderr = server.exit()
        assert (status, server.events()) == (0, [])
        assert "Traceback" not in stderr


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_process_ends_with_0(kind: str, number: int):
    with Server(kind) as server:
        server.listens().get()
        server.signal(number)
        assert server.exit()[0] == 0
        assert server.events() == ["starting", "started", "draining", "drained"]


@both
def test_a_failing_start_ends_the_process_and_says_why_once(kind: str):
    with Server(kind, environment={"TINY_START": "fail"}) as server:
        status, stderr = server.exit()
        assert status not in (0, None)
        assert stderr.count("the lamp is out: buy oil") == 1
        assert "linguasched cannot start: the lamp is out: buy oil\n" in stderr
        assert "Traceback" not in stderr
        assert server.events() == ["starting"]


@both
@pytest.mark.parametrize(("first", "second"), [(15, 15), (2, 2), (15, 2)])
def test_a_second_signal_ends_the_process_at_once(kind: str, first: int, second: int):
    with Server(kind, gated=True) as server:
        server.open_gate()
        with server.listens().websocket("/peer/a"):
            assert [server.event(), server.event()] == ["starting", "started"]
            server.signal(first)
            assert server.event() == "draining"
            server.signal(second)
            assert server.exit()[0] == 0
        assert server.events() == ["drain cancelled"]


@both
def test_sigterm_passed_on_after_ctrl_c_does_not_cut_the_drain_short(kind: str):
    with Server(kind, gated=True) as server:
        server.open_gate()
        server.listens().get()
        assert [server.event(), server.event()] == ["starting", "started"]
        server.signal(signal.SIGINT)
        assert server.event() == "draining"
        server.signal(signal.SIGTERM)
        assert server.get() == (200, b"served")
        server.open_gate()
        assert server.exit()[0] == 0
        assert server.events() == ["drained"]


@both
def test_a_signal_during_start_cancels_it_and_drains_nothing(kind: str):
    with Server(kind, gated=True) as server:
        assert server.event() == "starting"
        server.signal(signal.SIGTERM)
        assert server.exit()[0] == 0
        assert server.events() == ["start cancelled"]


async def test_without_signals_lifespan_starts_and_drains():
    life = Lifespan()
    async with life.running():
        assert life.phase() == Phase.SERVING
        assert life.sent == ["lifespan.startup.complete"]
    assert life.phase() == Phase.STOPPED
    assert life.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert life.calls == ["start", "drain"]


async def test_two_servers_of_one_process_share_start_and_drain():
    life = Lifespan()
    async with life.running(), life.running():
        assert life.calls == ["start"]
    assert life.calls == ["start", "drain"]


async def test_a_drain_that_breaks_is_logged_and_the_process_ends_all_the_same(caplog: pytest.LogCaptureFixture):
    life = Lifespan(drain_error=OSError("the well is dry"))
    async with life.running():
        pass
    assert life.phase() == Phase.STOPPED
    assert life.sent[-1] == "lifespan.shutdown.complete"
    assert "drain_failed" in caplog.text


async def test_a_start_that_is_cancelled_from_inside_is_a_failure(capsys: pytest.CaptureFixture[str]):
    life = Lifespan(start_error=asyncio.CancelledError())
    async with life.running():
        assert life.sent == ["lifespan.startup.failed"]
    assert "linguasched cannot start: CancelledError" in capsys.readouterr().err


class Lifespan:
    """Plays a server's part of the lifespan protocol, any number of times at once."""

    def __init__(self, *, start_error: BaseException | None = None, drain_error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.sent: list[str] = []
        self.lifecycle = Lifecycle(self._call("start", start_error), self._call("drain", drain_error))
        self._application = self.lifecycle.wrap(self._nobody)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        answered = asyncio.Event()

        async def send(message: Any) -> None:
            self.sent.append(message["type"])
            answered.set()

        served = asyncio.ensure_future(self._application({"type": "lifespan"}, told.get, send))
        await told.put({"type": "lifespan.startup"})
        await answered.wait()
        yield
        await told.put({"type": "lifespan.shutdown"})
        await served

    def phase(self) -> Phase:
        return self.lifecycle.phase

    def _call(self, name: str, error: BaseException | None) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            self.calls.append(name)
            if error is not None:
                raise error

        return call

    async def _nobody(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("lifespan is not the application's")


def closing_code(server: Server) -> int:
    """With which code a new socket is turned away."""
    with server.websocket("/peer/late") as late:
        return close_code(late)


def close_code(connection: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code
