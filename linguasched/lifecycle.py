"""When an instance starts and how it ends: by lifespan where the server has it, by Twisted's reactor under daphne.

Two things are missing from both. daphne speaks no lifespan protocol at all; and every server closes its sockets at the
first SIGTERM, before the application hears of it, so that nothing could be drained. Hence the signals come here first:
drain, then let the server stop (DESIGN 6).
"""

import asyncio
import contextlib
import enum
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any, Protocol, TypeAlias

import structlog

from dispatch.servers import daphne
from dispatch.servers.base import port_of

log = structlog.get_logger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SERVICE_RESTART = 1012  #: close code: come back, another instance or a new process will take you
TRY_AGAIN_LATER = 1013  #: close code: come back a little later


class Phase(enum.StrEnum):
    """What this process does for those who come."""

    STARTING = "starting"  #: start() has not answered: HTTP gets 503, a WebSocket 1013
    SERVING = "serving"  #: everybody is let through
    DRAINING = "draining"  #: drain() runs: HTTP is let through, open sockets live on, a new one gets 1012
    STOPPED = "stopped"  #: drained, or never started: HTTP gets 503, a new socket 1012


class Lifecycle:
    """Calls `start` once before anybody is served and `drain` once before the server closes its sockets.

    `start` undoes its own half work when it raises or is cancelled (a signal during the start); an exception ends the
    process, and its text is what people read on stderr. `drain` runs only after a `start` that succeeded. It is bounded
    by itself, and returns when its sockets are closed or aborted: daphne throws away what is still buffered then, and
    uvicorn waits for it without end. A second signal cancels `drain` and stops at once.

    Under a server that is neither daphne nor uvicorn, or outside the main thread, no signal is taken: `drain` runs at
    lifespan's shutdown.
    """

    def __init__(self, start: Callable[[], Awaitable[None]], drain: Callable[[], Awaitable[None]]) -> None:
        self.phase = Phase.STARTING
        self._start = start
        self._drain = drain
        self._host: _Host | None = None
        self._starting: asyncio.Task[bool] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._signals: set[int] = set()

    def wrap(self, application: Application) -> Application:
        """The application behind this life cycle, for the server to import."""
        reactor: Any = sys.modules.get("twisted.internet.reactor")
        if reactor is not None:
            # It may be loaded under another server as well; then it never runs, and this is never called.
            reactor.callWhenRunning(self._live_under_daphne, reactor)

        async def gate(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
            match scope["type"]:
                case "lifespan":
                    await self._live_by_lifespan(receive, send)
                case "http" if self.phase in (Phase.STARTING, Phase.STOPPED):
                    await _answer_503(send, self.phase)
                case "websocket" if self.phase is not Phase.SERVING:
                    code = TRY_AGAIN_LATER if self.phase is Phase.STARTING else SERVICE_RESTART
                    await _turn_away(receive, send, code, self.phase)
                case _:
                    await application(scope, receive, send)

        return gate

    # The two ways in

    def _live_under_daphne(self, reactor: Any) -> None:
        # The reactor has put in its own signal handlers by now, and runs daphne's asyncio loop in a moment.
        loop = asyncio.get_event_loop()
        self._host = _Daphne(reactor)
        self._take_signals(loop)
        self._starting = loop.create_task(self._begin())
        self._starting.add_done_callback(self._give_up_unless_started)

    def _give_up_unless_started(self, starting: asyncio.Task[bool]) -> None:
        if not starting.result():
            for server in daphne.servers():
                server.abort_start = True  # daphne's command exits with 1 when it finds this
            self._stop_host()

    async def _live_by_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self._starting is None:  # a second server in this process shares the first one's start
            self._host = _Uvicorn.of_this_process()
            if self._host is not None:
                self._take_signals(asyncio.get_running_loop())
            self._starting = asyncio.create_task(self._begin())
        await asyncio.wait({self._starting})
        if not self._starting.result():
            await send({"type": "lifespan.startup.failed"})  # without a message: it stands on stderr already
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._drain_once()
        await send({"type": "lifespan.shutdown.complete"})

    # Start and end

    async def _begin(self) -> bool:
        """False when `start` failed; stderr says why."""
        try:
            await self._start()
        except (Exception, asyncio.CancelledError) as error:
            self.phase = Phase.STOPPED
            if isinstance(error, asyncio.CancelledError) and self._ending is not None:
                return True  # interrupted by a signal, as it should be
            log.debug("start_failed", exc_info=True)
            sys.stderr.write(f"linguasched cannot start: {str(error) or type(error).__name__}\n")
            sys.stderr.flush()
            return False
        self.phase = Phase.SERVING
        return True

    async def _end(self) -> None:
        if self._starting is not None:
            self._starting.cancel()  # changes nothing when it is done
            await asyncio.wait({self._starting})
        await self._drain_once()
        self._stop_host()

    async def _drain_once(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._run_drain())
        await asyncio.wait({self._draining})

    async def _run_drain(self) -> None:
        try:
            if self.phase is Phase.SERVING:
                self.phase = Phase.DRAINING
                await self._drain()
        except Exception:
            log.exception("drain_failed")
        finally:
            self.phase = Phase.STOPPED

    def _stop_host(self, *, at_once: bool = False) -> None:
        if self._host is not None:
            self._leave_signals()
            self._host.stop(at_once=at_once)
            self._host = None

    # Signals

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def take(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._on_signal, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs ignore Ctrl-C
                signal.signal(number, take)

    def _leave_signals(self) -> None:
        """Whoever sends one more while the server stops means it."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)

    def _on_signal(self, number: int) -> None:
        if self._ending is None:
            log.info("stopping", signal=signal.Signals(number).name, phase=self.phase)
            self._ending = asyncio.create_task(self._end())
        elif number == signal.SIGINT or number in self._signals:
            log.warning("stopping_at_once", signal=signal.Signals(number).name, phase=self.phase)
            if self._draining is not None:
                self._draining.cancel()
            self._stop_host(at_once=True)
        # What is left is one SIGTERM after SIGINT: a process manager passes on the Ctrl-C that the terminal sent us.
        self._signals.add(number)


class _Host(Protocol):
    """The server that runs this process."""

    def stop(self, *, at_once: bool) -> None:
        """Make the server return, so that the process exits with 0."""


class _Daphne:
    """daphne, which ends with Twisted's reactor, and never waits for a socket."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def stop(self, *, at_once: bool) -> None:
        self._reactor.stop()


class _Uvicorn:
    """uvicorn's Server, asked to exit by its flags: its own handler would end the process by the signal, not with 0."""

    def __init__(self, server: Any) -> None:
        self._server = server

    @classmethod
    def of_this_process(cls) -> "_Uvicorn | None":
        """The server whose method handles SIGTERM at the moment."""
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        known = hasattr(server, "should_exit") and hasattr(server, "force_exit")
        return cls(server) if known else None

    def stop(self, *, at_once: bool) -> None:
        self._server.should_exit = True
        if at_once:
            self._server.force_exit = True


# Nobody is served


async def _answer_503(send: Send, phase: Phase) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": f"This instance is {phase}.\n".encode()})


async def _turn_away(receive: Receive, send: Send, code: int, phase: Phase) -> None:
    """Accept and close: a refused handshake could tell neither the code nor that the peer should come back."""
    await receive()  # websocket.connect
    port = port_of(send)
    with contextlib.suppress(OSError):  # the peer has gone already
        await send({"type": "websocket.accept"})
        port.close(code, f"this instance is {phase}")
    while (await receive())["type"] != "websocket.disconnect":
        pass
