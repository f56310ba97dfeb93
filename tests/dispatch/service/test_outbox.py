"""What goes out over one socket: in order, after it the close, and never more in memory than allowed."""

import asyncio

import pytest

from dispatch import metrics
from dispatch.service.outbox import Outbox
from tests.dispatch.service.stand import FakePort, until


class Wire:
    """A server's `send`, which blocks, fails or takes what comes."""

    def __init__(self, *, limit: int = 100) -> None:
        self.port = FakePort()
        self.sent: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.outbox = Outbox(self._send, self.port, kind="session", limit=limit)

    async def _send(self, text: str) -> None:
        await self.open.wait()
        if self.error:
            raise self.error
        self.sent.append(text)


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def test_frames_go_out_in_order(wire):
    for number in range(5):
        wire.outbox.put(str(number))
    await until(lambda: len(wire.sent) == 5)
    assert wire.sent == list("01234")


async def test_the_close_comes_after_what_waits_and_nothing_after_it(wire):
    wire.open.clear()
    wire.outbox.put("last words")
    wire.outbox.close(1012, "restart")
    wire.outbox.put("too late")
    wire.outbox.close(4001, "another reason")
    assert wire.port.closed is None
    wire.open.set()
    await until(lambda: wire.port.closed is not None)
    assert wire.sent == ["last words"]
    assert wire.port.closed == (1012, "restart")


async def test_a_close_without_frames_closes(wire):
    wire.outbox.close(1012, "restart")
    await until(lambda: wire.port.closed is not None)


async def test_a_peer_that_does_not_read_is_cut(wire):
    before = metrics.sockets_cut.labels("session", "unread_bytes")._value.get()
    wire.port.buffered = 101
    wire.outbox.put("x")
    await until(lambda: wire.port.aborted)
    assert wire.sent == []
    assert wire.outbox.closed
    assert metrics.sockets_cut.labels("session", "unread_bytes")._value.get() == before + 1


async def test_unread_bytes_up_to_the_limit_are_bearable(wire):
    wire.port.buffered = 100
    wire.outbox.put("x")
    await until(lambda: wire.sent == ["x"])


async def test_a_server_whose_send_blocks_does_not_pile_up_frames_without_end(wire):
    wire.open.clear()
    wire.outbox.put("x")
    await asyncio.sleep(0)
    for _ in range(12):
        wire.outbox.put("x" * 10)
    await until(lambda: wire.port.aborted)
    assert not wire.outbox._frames


async def test_one_frame_above_the_limit_may_pass_when_nothing_is_in_front_of_it(wire):
    wire.outbox.put("x" * 1000)
    await until(lambda: bool(wire.sent))
    assert not wire.port.aborted


async def test_a_closed_socket_takes_nothing_any_more(wire):
    wire.outbox.gone()
    wire.outbox.put("x")
    wire.outbox.close(1000, "")
    wire.outbox.abort("silent")
    await asyncio.sleep(0)
    assert (wire.sent, wire.port.closed, wire.port.aborted) == ([], None, False)


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed")])
async def test_a_send_that_fails_ends_the_outbox_quietly(wire, error):
    wire.error = error
    wire.outbox.put("x")
    wire.outbox.put("y")
    await until(lambda: wire.outbox.closed)
    assert not wire.outbox._frames


async def test_frames_that_come_while_one_is_sent_go_out_too(wire):
    wire.open.clear()
    wire.outbox.put("a")
    await asyncio.sleep(0)
    wire.outbox.put("b")
    wire.open.set()
    await until(lambda: wire.sent == ["a", "b"])
    wire.outbox.put("c")
    await until(lambda: wire.sent == ["a", "b", "c"])


async def test_a_socket_that_closes_while_frames_wait_for_room_ends_the_outbox_quietly(wire):
    wire.port.buffered = 101
    wire.outbox.put("x")
    await until(lambda: wire.outbox._full)
    wire.outbox.gone()
    wire.port.buffered = 0
    await wire.outbox._pump
    assert wire.sent == []
