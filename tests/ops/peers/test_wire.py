"""The load tool's own WebSocket client, against a server that follows RFC 6455 to the letter."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from ops.peers.wire import Wire, WireError, text_frame


async def _say(socket: ServerConnection) -> None:
    """Echo; `pieces` comes back as a message in three frames, `ping` only after a pong, `bye` closes."""
    async for message in socket:
        if message == "pieces":
            await socket.send(["pie", "c", "es"])
        elif message == "ping":
            await (await socket.ping())
            await socket.send("pong came")
        elif message == "bye":
            await socket.close()
        else:
            await socket.send(message)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve(_say, "127.0.0.1", 0, max_size=None) as server:
        yield server


class Listener:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def connect(self, server: Server) -> Wire:
        port = server.sockets[0].getsockname()[1]
        return await Wire.connect(f"ws://127.0.0.1:{port}/ws", self.heard.put_nowait, self.closed.set)

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.heard.get(), 5)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
async def test_a_message_of_any_length_goes_and_comes_whole(server: Server, size: int) -> None:
    listener = Listener()
    wire = await listener.connect(server)
    wire.send(text_frame(b"x" * size), text_frame(b"next"))
    assert [await listener.next(), await listener.next()] == [b"x" * size, b"next"]
    wire.close()


async def test_a_message_in_several_frames_is_put_together(server: Server) -> None:
    listener = Listener()
    wire = await listener.connect(server)
    wire.send(text_frame(b"pieces"))
    assert await listener.next() == b"pieces"
    wire.close()


async def test_a_ping_is_answered(server: Server) -> None:
    listener = Listener()
    wire = await listener.connect(server)
    wire.send(text_frame(b"ping"))
    assert await listener.next() == b"pong came"
    wire.close()


async def test_the_end_is_told_whoever_closes(server: Server) -> None:
    for message in (b"bye", None):
        listener = Listener()
        wire = await listener.connect(server)
        wire.send(text_frame(message)) if message else wire.close()
        await asyncio.wait_for(listener.closed.wait(), 5)


async def test_who_declines_or_is_not_there_is_named() -> None:
    async def decline(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    web = await asyncio.start_server(decline, "127.0.0.1", 0)
    port = web.sockets[0].getsockname()[1]
    with pytest.raises(WireError, match=r"the server answers HTTP/1\.1 403 Forbidden"):
        await Wire.connect(f"ws://127.0.0.1:{port}/ws", lambda _: None)
    web.close()
    await web.wait_closed()
    with pytest.raises(WireError, match=f"no WebSocket at ws://127.0.0.1:{port}/ws"):
        await Wire.connect(f"ws://127.0.0.1:{port}/ws", lambda _: None)
