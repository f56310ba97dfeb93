"""The cheapest WebSocket client that will do: whole text messages, handed on in the moment they arrive.

For the load tool only, which shares its cores with the servers that it measures. It has no task and no queue for each
connection, sends frames that were encoded before, and spends nothing on masking: its mask is zero. (RFC 6455 wants one
that cannot be guessed, against hostile pages behind a proxy; here is neither.) Everybody else takes `websockets`.
"""

import asyncio
import base64
import os
import struct
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FINAL, MASKED, ZERO_MASK = 0x80, 0x80, bytes(4)
CONNECT_SECONDS = 10.0


class WireError(ConnectionError):
    """The server cannot be reached, declines the WebSocket, or speaks something else."""


def text_frame(payload: bytes) -> bytes:
    """The client's frame around one text message."""
    return _header(TEXT, len(payload)) + payload


class Wire(asyncio.Protocol):
    """One connection: `send` frames, `on_text` hears messages, `on_close` hears that it is over."""

    def __init__(self, request: bytes, on_text: Callable[[bytes], None], on_close: Callable[[], None]) -> None:
        self._request, self._on_text, self._on_close = request, on_text, on_close
        self._upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unread = bytearray()
        self._message = bytearray()  # the beginning of a message in several frames
        self._transport: asyncio.Transport

    @classmethod
    async def connect(
        cls, url: str, on_text: Callable[[bytes], None], on_close: Callable[[], None] = lambda: None
    ) -> Self:
        """Open the socket at a ws:// or wss:// URL."""
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        request = (
            f"GET {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1\r\n"
            f"Host: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, wire = await asyncio.get_running_loop().create_connection(
                    lambda: cls(request, on_text, on_close), host, port, ssl=secure or None
                )
                await wire._upgraded
        except OSError as error:
            raise WireError(f"no WebSocket at {url}: {error or 'no answer'}") from error
        return wire

    def send(self, *frames: bytes) -> None:
        """Send frames made by `text_frame`, together."""
        self._transport.write(b"".join(frames))

    def close(self) -> None:
        """Say goodbye and close."""
        if not self._transport.is_closing():
            self._transport.write(_header(CLOSE, 2) + struct.pack("!H", 1000))
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- what create_connection makes
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._upgraded.done():
            self._upgraded.set_exception(error or WireError("the server closed the connection"))
        self._on_close()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._upgraded.done() and not self._read_answer():
            return
        at = 0
        while (end := self._read_frame(at)) is not None:
            at = end
        del self._unread[:at]

    def _read_answer(self) -> bool:
        head, found, rest = bytes(self._unread).partition(b"\r\n\r\n")
        if not found:
            return False
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if status.split(" ")[1:2] != ["101"]:
            self._upgraded.set_exception(WireError(f"the server answers {status}"))
            self._transport.abort()
            return False
        self._unread = bytearray(rest)
        self._upgraded.set_result(None)
        return True

    def _read_frame(self, at: int) -> int | None:
        """Handle the frame that begins at this byte; where it ends, or None when it is not whole yet."""
        unread = self._unread
        if len(unread) < at + 2:
            return None
        first, length, begin = unread[at], unread[at + 1], at + 2
        if length == 126:
            begin, length = at + 4, int.from_bytes(unread[at + 2 : at + 4])
        elif length == 127:
            begin, length = at + 10, int.from_bytes(unread[at + 2 : at + 10])
        end = begin + length
        if len(unread) < max(begin, end):
            return None
        self._hear(first & 0x0F, bool(first & FINAL), bytes(memoryview(unread)[begin:end]))
        return end

    def _hear(self, opcode: int, final: bool, payload: bytes) -> None:
        if opcode == PING:
            self._transport.write(_header(PONG, len(payload)) + payload)
        elif opcode == CLOSE:
            self.close()
        elif opcode != PONG:
            if final and not self._message:
                self._on_text(payload)
                return
            self._message += payload
            if final:
                whole, self._message = bytes(self._message), bytearray()
                self._on_text(whole)


def _header(opcode: int, length: int) -> bytes:
    if length < 126:
        return bytes((FINAL | opcode, MASKED | length)) + ZERO_MASK
    if length < 1 << 16:
        return struct.pack("!BBH", FINAL | opcode, MASKED | 126, length) + ZERO_MASK
    return struct.pack("!BBQ", FINAL | opcode, MASKED | 127, length) + ZERO_MASK
