"""What a socket can tell and do beyond ASGI: the bytes it still holds, pings, silence, closing (DESIGN 6)."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

#: The ASGI `send` of one connection, as the server made it; middleware that wraps it hides the server.
Send: TypeAlias = Callable[[Any], Awaitable[None]]

#: A close frame has room for 125 bytes, two of which are the code (RFC 6455, 5.5).
REASON_BYTES = 123


class SocketPort(Protocol):
    """One accepted WebSocket, as its server sees it. Every method may be called at any time, also on a dead socket."""

    def buffered_bytes(self) -> int | None:
        """Bytes accepted by `send` and not yet taken by the kernel; None when this server does not tell."""

    def ping(self) -> bool:
        """Send a WebSocket ping behind what is buffered. False: this server cannot, so silence proves nothing."""

    def last_heard(self) -> float | None:
        """`time.monotonic()` of the last bytes read from the peer, pongs included; None when unknown.

        It starts with the moment in which the port was made. A socket whose application does not `receive` is not read
        by uvicorn either, and then hears nothing.
        """

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind what is buffered; any code, also 1012 and 1013, which daphne's ASGI refuses.

        Afterwards send nothing, and `receive` until `websocket.disconnect`. A peer that does not answer the frame is
        dropped by the server (daphne after 1 s, uvicorn after 10 s); one that reads nothing needs `abort`.
        """

    def abort(self) -> None:
        """Drop the connection now; what the peer has not read is discarded."""


class UnknownPort:
    """A server that we do not know: it can close by ASGI, and tells nothing."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._closing: asyncio.Task[None] | None = None

    def buffered_bytes(self) -> int | None:
        return None

    def ping(self) -> bool:
        return False

    def last_heard(self) -> float | None:
        return None

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            message = {"type": "websocket.close", "code": code, "reason": fitting(reason)}
            self._closing = asyncio.get_running_loop().create_task(self._deliver(message))

    def abort(self) -> None:
        self.close(1011, "connection dropped")

    async def _deliver(self, message: dict[str, Any]) -> None:
        # Either side may have closed by now; servers say so with OSError (ASGI 2.4) or RuntimeError.
        with contextlib.suppress(OSError, RuntimeError):
            await self._send(message)


def fitting(reason: str) -> str:
    """The reason, cut to what a close frame holds."""
    return reason.encode()[:REASON_BYTES].decode(errors="ignore")


def port_of(send: Send) -> SocketPort:
    """The port of the connection that this raw ASGI `send` belongs to. Ask once per socket, before accepting it."""
    from dispatch.servers import daphne, uvicorn  # here, since both build on this module

    return daphne.port_of(send) or uvicorn.port_of(send) or UnknownPort(send)


def raise_limits(max_frame_bytes: int) -> None:
    """Let sockets carry messages of this many bytes, both ways; call it before the server runs, or while it starts.

    daphne stops at 1 MiB unless it is told otherwise, and the socket dies of the first longer message; a higher limit
    given on its command line stays. uvicorn's limit is its option `--ws-max-size` (16 MiB) and cannot be raised here.
    """
    from dispatch.servers import daphne

    daphne.raise_limits(max_frame_bytes)
