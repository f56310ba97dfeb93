"""daphne's sockets: autobahn's WebSocket protocol on a Twisted transport.

Nothing here imports daphne or Twisted: importing them installs Twisted's reactor, and under another server nobody
wants it. Where daphne runs, both are loaded already.
"""

import asyncio
import functools
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from dispatch.servers.base import Send, fitting

_UNHANDLED = 64  #: messages of one socket that wait for their handling; daphne's own queue has no limit
_LOOK_SECONDS = 0.01


class DaphnePort:
    """One socket of daphne."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._aborted = False
        self._held = False  # its peer sends faster than its frames are handled: nothing is read meanwhile
        self._heard = time.monotonic()
        read = protocol.dataReceived

        def hear(data: bytes) -> None:
            self._heard = time.monotonic()
            read(data)
            if not self._held and self._unhandled() > _UNHANDLED:
                self._held = True
                protocol.transport.pauseProducing()
                self._hold()

        protocol.dataReceived = hear

    def buffered_bytes(self) -> int | None:
        """daphne's `send` never waits, so this is the only sign of a peer that does not read."""
        return buffered(self._protocol.transport)

    def _unhandled(self) -> int:
        queue = self._protocol.application_queue
        return 0 if queue is None else int(queue.qsize())

    def _hold(self) -> None:
        """Go on reading when half of what waits is handled; looks every 10 ms."""
        self._heard = time.monotonic()  # it is we who do not listen
        transport = self._protocol.transport
        if transport.disconnected:
            return
        if self._unhandled() > _UNHANDLED // 2:
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._hold)
            return
        self._held = False
        transport.resumeProducing()

    def ping(self) -> bool:
        # Without a payload, so that autobahn does not take the pong for the answer to a ping of its own.
        self._protocol.sendPing()
        return True

    def last_heard(self) -> float | None:
        return self._heard

    def close(self, code: int, reason: str) -> None:
        # `sendClose`, to which ASGI's message leads, refuses every code below 3000 but 1000.
        if self._protocol.state == self._protocol.STATE_OPEN:
            self._protocol.sendCloseFrame(code=code, reasonUtf8=fitting(reason).encode())

    def abort(self) -> None:
        transport = self._protocol.transport
        # Twisted's TLS can be aborted only once.
        if not self._aborted and not transport.disconnected:
            self._aborted = True
            transport.abortConnection()
        discard(transport)


def port_of(send: Send) -> DaphnePort | None:
    """The port, when `send` is daphne's: a `functools.partial` whose first argument is the protocol."""
    module = sys.modules.get("daphne.ws_protocol")
    if module is None or not isinstance(send, functools.partial) or not send.args:
        return None
    protocol = send.args[0]
    return DaphnePort(protocol) if isinstance(protocol, module.WebSocketProtocol) else None


def buffered(transport: Any) -> int:
    """Bytes that a Twisted transport holds: TCP and unix sockets, with or without TLS around them."""
    if transport.disconnected:
        return 0
    if _is_tls(transport):
        aggregated = getattr(transport._aggregator, "_buffer", ())
        return sum(map(len, (*transport._appSendBuffer, *aggregated))) + buffered(transport.transport)
    waiting: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return waiting


def discard(transport: Any) -> None:
    """Free what a dead Twisted transport holds: it is part of reference cycles, which live until the next full GC."""
    if _is_tls(transport):
        transport._appSendBuffer = []
        transport = transport.transport
    transport.dataBuffer = b""
    transport.offset = 0
    transport._tempDataBuffer = []
    transport._tempDataLen = 0


def _is_tls(transport: Any) -> bool:
    """Whether this is TLS around the transport that has the socket."""
    return "transport" in vars(transport)


def raise_limits(max_frame_bytes: int) -> None:
    """Raise the limits of every daphne server of this process as soon as the reactor runs, before it accepts anybody.

    There is nothing to patch: a listening port knows its server, and the server's WebSocket factory has the limits.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is not None:
        reactor.callWhenRunning(_raise_limits, max_frame_bytes)


def _raise_limits(max_frame_bytes: int) -> None:
    for server in servers():
        # daphne's own pings all fall into one moment; the role `pulse` spreads them.
        server.ping_interval = math.inf
        factory = server.ws_factory
        factory.setProtocolOptions(
            maxFramePayloadSize=_higher(factory.maxFramePayloadSize, max_frame_bytes),
            maxMessagePayloadSize=_higher(factory.maxMessagePayloadSize, max_frame_bytes),
        )


def _higher(present: int, wanted: int) -> int:
    """The higher limit; 0 is autobahn's "no limit"."""
    return max(present, wanted) if present else 0


def servers() -> Iterator[Any]:
    """The `daphne.server.Server` of each listening port; none before the reactor runs."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    module = sys.modules.get("daphne.http_protocol")
    if reactor is None or module is None:
        return
    for reader in reactor.getReaders():
        factory = getattr(reader, "factory", None)
        factory = getattr(factory, "wrappedFactory", factory)  # TLS wraps the factory
        if isinstance(factory, module.HTTPFactory):
            yield factory.server
