"""What waits to go out over one socket, in order, with an eye on a peer that does not read.

`await send` never blocks under daphne, so the bytes that the transport still holds are asked for before each frame; a
peer that leaves too many unread is cut, and whatever was meant for it takes its way through the lease or the resume.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from dispatch import metrics
from dispatch.servers.base import SocketPort

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.05  #: between two looks at a full transport
_STALLED_LOOKS = 20  #: looks without progress after which the peer counts as not reading


class Outbox:
    """Sends text frames one by one; `kind` is node or session, `limit` the unread bytes that cut the socket."""

    def __init__(self, send: Callable[[str], Awaitable[None]], port: SocketPort, *, kind: str, limit: int) -> None:
        self._send = send
        self.port = port
        self._kind = kind
        self._limit = limit
        self._frames: deque[str] = deque()
        self._waiting = 0  # characters in `_frames`
        self._sending = False  # a server may block in `send` as long as its peer does not read (uvicorn)
        self._full = False  # the transport holds too much, so frames wait here
        self._pump: asyncio.Task[None] | None = None
        self._closing: tuple[int, str] | None = None
        self.closed = False

    def put(self, frame: str) -> None:
        """Send this frame after those before it. Nothing happens once the socket is closed."""
        if self.closed or self._closing:
            return
        if self._waiting > self._limit and (self._sending or self._full):
            self._cut()
            return
        self._frames.append(frame)
        self._waiting += len(frame)
        self._start()

    def close(self, code: int, reason: str) -> None:
        """Close the socket after what waits has gone out."""
        if not self.closed and not self._closing:
            self._closing = (code, reason)
            self._start()

    def abort(self, reason: str) -> None:
        """Drop the connection now; the server then reports the disconnect."""
        if not self.closed:
            self.gone()
            metrics.sockets_cut.labels(self._kind, reason).inc()
            self.port.abort()

    def gone(self) -> None:
        """The socket is closed: nothing waits any more."""
        self.closed = True
        self._frames.clear()
        self._waiting = 0

    async def _room(self) -> bool:
        """Wait while the transport holds too much; False when the peer takes nothing of it for a while.

        A burst may fill it before the event loop has had a chance to write: only a peer that does not read is cut.
        """
        least = self.port.buffered_bytes() or 0
        patience = _STALLED_LOOKS
        while (unread := self.port.buffered_bytes() or 0) > self._limit:
            patience = _STALLED_LOOKS if unread < least else patience - 1
            least = min(least, unread)
            if patience == 0:
                return False
            self._full = True
            await asyncio.sleep(_LOOK_SECONDS)
        self._full = False
        return True

    def _cut(self) -> None:
        unread = (self.port.buffered_bytes() or 0) + self._waiting
        log.warning("slow_reader_cut", kind=self._kind, unread=unread, limit=self._limit)
        self.abort("unread_bytes")

    def _start(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._frames:
                if not await self._room():
                    self._cut()
                if self.closed:  # now, or while it waited for room
                    return
                frame = self._frames.popleft()
                self._waiting -= len(frame)
                self._sending = True
                await self._send(frame)
                self._sending = False
            if self._closing and not self.closed:
                self.port.close(*self._closing)
        except (OSError, RuntimeError) as error:
            # The server raises for a socket that has closed meanwhile; its disconnect event does the clean-up.
            log.debug("send_failed", kind=self._kind, error=str(error))
            self.gone()
