"""Every port is tried on its real server, against peers that do what peers should not."""

import asyncio
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from dispatch.servers.base import UnknownPort, port_of
from dispatch.servers.daphne import DaphnePort
from tests.dispatch.servers.harness import COMMANDS, Ended, Server

PING, PONG, CLOSE = 0x9, 0xA, 0x8
MEBI = 1 << 20


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param, environment={"TINY_FRAME_BYTES": str(16 * MEBI)}) as server:
        yield server.listens()


def test_the_server_is_recognised(server: Server):
    with server.raw("recognised"), server.control() as control:
        assert control("which", "recognised") in {"DaphnePort", "UvicornPort"}


def test_a_peer_that_never_reads_is_seen_and_abort_frees_what_lies_there(server: Server):
    with server.raw("deaf") as peer, server.control() as control:
        assert control("buffered", "deaf") == 0
        control("send", "deaf", size=12 * MEBI)
        # The kernel takes some 4 MiB at most; from the second answer on it takes nothing more.
        before = control("buffered", "deaf")
        while (now := control("buffered", "deaf")) != before:
            before = now
        assert 4 * MEBI < now < 12 * MEBI
        control("abort", "deaf")
        assert control("gone", "deaf") in {1005, 1006}
        assert control("buffered", "deaf") == 0
        assert peer.read_to_reset() < MEBI  # what the server's kernel held is gone as well


def test_the_memory_of_aborted_sockets_comes_back_at_once(server: Server):
    with server.control() as control:
        sizes = []
        for name in ("hog-1", "hog-2", "hog-3", "hog-4", "hog-5"):
            with server.raw(name):
                control("send", name, size=12 * MEBI)
                control.until("buffered", name, lambda size: size > MEBI)
                control("abort", name)
                control("gone", name)
                sizes.append(control("memory", name))
        assert sizes[-1] - sizes[1] < 24 * MEBI  # kept, the last three would take 36


def test_every_message_that_daphne_accepts_is_counted():
    limits = {"TINY_FRAME_BYTES": str(16 * MEBI)}
    with Server("daphne", environment=limits) as server, server.listens().raw("deaf"), server.control() as control:
        for _ in range(3):
            control("send", "deaf", size=8 * MEBI)
        assert control.until("buffered", "deaf", lambda size: size < 24 * MEBI) > 16 * MEBI


def test_what_a_peer_reads_leaves_the_buffer(server: Server):
    with server.raw("reader") as peer, server.control() as control:
        control("send", "reader", size=3 * MEBI)
        assert peer.read_frame() == (0x2, bytes(3 * MEBI))
        assert control("buffered", "reader") == 0


def test_a_pong_is_heard_and_its_absence_too(server: Server):
    with server.raw("half-open") as peer, server.control() as control:
        heard = control("heard", "half-open")
        assert control("ping", "half-open") is True
        assert control("ping", "half-open") is True
        assert [peer.read_frame(), peer.read_frame()] == [(PING, b""), (PING, b"")]
        assert control("heard", "half-open") == heard
        peer.send_frame(PONG)
        assert control.until("heard", "half-open", lambda now: now > heard)


def test_half_a_frame_is_heard(server: Server):
    with server.raw("slow") as peer, server.control() as control:
        heard = control("heard", "slow")
        peer.socket.sendall(b"\x82")
        assert control.until("heard", "slow", lambda now: now > heard)
        assert control("received", "slow") == 0


def test_a_peer_is_heard_while_it_does_not_read(server: Server):
    with server.raw("busy") as peer, server.control() as control:
        control("send", "busy", size=12 * MEBI)
        control.until("buffered", "busy", lambda size: size > MEBI)
        heard = control("heard", "busy")
        peer.send_frame(PONG)
        assert control.until("heard", "busy", lambda now: now > heard)
        control("abort", "busy")


@pytest.mark.parametrize("code", [1000, 1012, 1013, 4001])
def test_a_close_frame_carries_code_and_reason(server: Server, code: int):
    name = f"closed-{code}"
    with server.raw(name) as peer, server.control() as control:
        control("close", name, code=code, reason="ß" * 100)
        opcode, payload = peer.read_frame()
        assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, code)
        assert payload[2:].decode() == "ß" * 61
        peer.send_frame(CLOSE, payload[:2])
        with pytest.raises((Ended, ConnectionResetError)):
            peer.read_frame()
        peer.socket.close()  # websockets' older implementation waits for it
        assert control("gone", name) == code


def test_everything_may_be_asked_of_a_dead_socket(server: Server):
    with server.control() as control:
        with server.raw("dead") as peer:
            peer.send_frame(CLOSE)
        control("gone", "dead")
        for question in ("buffered", "heard", "ping", "abort"):
            control(question, "dead")
        control("close", "dead", code=1000, reason="")
        control("close", "dead", code=1000, reason="")
        assert control("buffered", "dead") == 0


def test_a_long_message_arrives_both_ways_after_raise_limits(server: Server):
    size = 1_100_000
    with server.websocket("/peer/long") as peer, server.control() as control:
        peer.send(bytes(size))
        assert control.until("received", "long", lambda now: now == size)
    with server.raw("long-out") as out, server.control() as control:
        control("send", "long-out", size=size)
        assert out.read_frame() == (0x2, bytes(size))


def test_without_raise_limits_daphne_ends_the_socket():
    with Server("daphne") as server, server.listens().websocket("/peer/long") as peer:
        peer.send(bytes(1_100_000))
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=10)


async def test_an_unknown_server_is_closed_by_asgi():
    sent = []

    async def send(message):
        sent.append(message)

    port = port_of(send)
    assert isinstance(port, UnknownPort)
    assert (port.buffered_bytes(), port.ping(), port.last_heard()) == (None, False, None)
    port.close(1012, "restart")
    port.abort()
    assert port._closing is not None
    await port._closing
    assert sent == [{"type": "websocket.close", "code": 1012, "reason": "restart"}]


class Flooded:
    """What the port sees of a daphne protocol whose peer sends faster than its frames are handled."""

    def __init__(self) -> None:
        self.application_queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.transport: Flooded = self
        self.disconnected = False
        self.paused = 0
        self.resumed = asyncio.Event()

    def dataReceived(self, data: bytes) -> None:
        self.application_queue.put_nowait(data)

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.resumed.set()


async def test_a_peer_of_daphne_that_is_too_fast_is_not_read_until_half_is_handled():
    protocol = Flooded()
    port = DaphnePort(protocol)
    before = port.last_heard()
    assert before is not None
    for _ in range(65):
        protocol.dataReceived(b"frame")
    assert protocol.paused == 1
    while protocol.application_queue.qsize() > 32:
        assert not protocol.resumed.is_set()
        protocol.application_queue.get_nowait()
    await asyncio.wait_for(protocol.resumed.wait(), 5)
    after = port.last_heard()
    assert after is not None
    assert after > before  # it was we who did not listen
    protocol.dataReceived(b"frame")
    assert protocol.paused == 1
