"""uvicorn's sockets: an asyncio transport under one of its three WebSocket implementations."""

import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from dispatch.servers.base import Send, UnknownPort

OP_PING = 0x9  #: RFC 6455, 5.5.2

#: SO_LINGER with a time of zero: closing sends RST and forgets what the kernel still holds.
NO_LINGER = struct.pack("ii", 1, 0)


class UvicornPort(UnknownPort):
    """One socket of uvicorn; it closes by ASGI like an unknown server, since `send` takes every code here."""

    def __init__(self, send: Send, protocol: Any, ping: Callable[[Any], None]) -> None:
        super().__init__(send)
        self._protocol = protocol
        self._ping = ping
        self._heard = time.monotonic()
        read = protocol.data_received

        def hear(data: bytes) -> None:
            self._heard = time.monotonic()
            read(data)

        protocol.data_received = hear
        # uvloop's transports keep the method that they found when the protocol was set.
        protocol.transport.set_protocol(protocol)

    def buffered_bytes(self) -> int | None:
        """uvicorn's `send` waits while more than 64 KiB lie here, but one message of any size gets past that."""
        return 0 if self._is_lost() else buffered(self._protocol.transport)

    def ping(self) -> bool:
        if not self._is_lost() and not self._protocol.transport.is_closing():
            self._ping(self._protocol)
        return True

    def last_heard(self) -> float | None:
        return self._heard

    def abort(self) -> None:
        if not self._is_lost():
            transport = self._protocol.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            transport.abort()

    def _is_lost(self) -> bool:
        # A lost TLS transport cannot even be asked.
        return self._protocol not in self._protocol.connections


def buffered(transport: Any) -> int | None:
    """Bytes that an asyncio transport holds, with or without TLS; None for uvloop's TLS, which hides most of them."""
    size: int = transport.get_write_buffer_size()
    if transport.get_extra_info("sslcontext") is None:
        return size
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return None if below is None else size + below.get_write_buffer_size()


# The pings carry no payload, so that uvicorn does not take the pong for the answer to a ping of its own.


def _ping_sansio(protocol: Any) -> None:
    if protocol.conn.state.name == "OPEN":
        protocol.conn.send_ping(b"")
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))


def _ping_legacy(protocol: Any) -> None:
    if protocol.open:
        protocol.write_frame_sync(True, OP_PING, b"")


def _ping_wsproto(protocol: Any) -> None:
    # wsproto is installed only where it is used; uvicorn's module has what we need of it.
    implementation: Any = sys.modules[type(protocol).__module__]
    if protocol.conn.state is implementation.ConnectionState.OPEN:
        protocol.transport.write(protocol.conn.send(implementation.events.Ping()))


#: How to ping, by the name of the protocol class and, before it, its module.
PINGS: dict[tuple[str, str], Callable[[Any], None]] = {
    ("uvicorn.protocols.websockets.websockets_sansio_impl", "WebSocketsSansIOProtocol"): _ping_sansio,
    ("uvicorn.protocols.websockets.websockets_impl", "WebSocketProtocol"): _ping_legacy,
    ("uvicorn.protocols.websockets.wsproto_impl", "WSProtocol"): _ping_wsproto,
}


def port_of(send: Send) -> UvicornPort | None:
    """The port, when `send` is uvicorn's: a method bound to one of its WebSocket protocols."""
    protocol = getattr(send, "__self__", None)
    ping = PINGS.get((type(protocol).__module__, type(protocol).__name__))
    return None if ping is None else UvicornPort(send, protocol, ping)
