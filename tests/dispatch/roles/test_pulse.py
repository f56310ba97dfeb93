"""Pulse: a busy node that answers no ping is given up within two seconds, nobody else costs a burst (DESIGN 6)."""

import pytest

from dispatch import metrics
from dispatch.roles.pulse import Pulse
from dispatch.service.outbox import Outbox
from dispatch.switchboard import Exchange
from tests.dispatch.service.stand import FakePort

TURN = 0.6


class Table:
    def __init__(self) -> None:
        self.working = False


class Link:
    """As much of a link as a pulse feels."""

    def __init__(self, clock) -> None:
        self.port = FakePort()
        self.port.heard = clock.monotonic()
        self.outbox = Outbox(_nowhere, self.port, kind="node", limit=1)
        self.table = Table()
        self.looked_at: list[float] = []

    def look(self, now: float) -> None:
        self.looked_at.append(now)


async def _nowhere(text: str) -> None:
    """Nobody sends anything here."""


class Ward:
    """A pulse and those it feels."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.nodes: Exchange[Link] = Exchange()
        self.sessions: list[Link] = []
        self.isolated = False
        self.pulse = Pulse(clock, self.nodes, self.sessions, isolated=lambda: self.isolated)  # type: ignore[arg-type]

    def node(self, name: str = "n", *, working: bool = True) -> Link:
        link = Link(self.clock)
        link.table.working = working
        self.nodes.plug(name, link)
        return link

    def session(self) -> Link:
        link = Link(self.clock)
        self.sessions.append(link)
        return link

    async def turns(self, count: int, *, answering: tuple[Link, ...] = ()) -> None:
        for _ in range(count):
            await self.pulse.turn()
            self.clock.advance(TURN / 2)
            for link in answering:
                link.port.heard = self.clock.monotonic()
            self.clock.advance(TURN / 2)


@pytest.fixture
def ward(clock) -> Ward:
    return Ward(clock)


async def test_a_busy_node_is_pinged_in_every_turn(ward):
    node = ward.node()
    await ward.turns(5, answering=(node,))
    assert node.port.pings == 5
    assert not node.port.aborted


async def test_a_busy_node_that_answers_nothing_is_cut_after_two_pings_within_two_seconds(ward, clock):
    node = ward.node()
    before = metrics.pulses_lost.labels("node")._value.get()
    began = clock.monotonic()
    while not node.port.aborted:
        await ward.turns(1)
    assert node.port.pings >= 2
    assert clock.monotonic() - began - TURN <= 2.0
    assert node.outbox.closed
    assert metrics.pulses_lost.labels("node")._value.get() == before + 1


async def test_a_node_that_was_silent_because_nobody_asked_may_answer_two_pings_first(ward, clock):
    node = ward.node(working=False)
    clock.advance(30)
    await ward.turns(1, answering=())
    node.port.heard = clock.monotonic() - 15
    node.table.working = True
    await ward.turns(2)
    assert not node.port.aborted
    node.port.heard = clock.monotonic() - 0.1
    await ward.turns(2, answering=(node,))
    assert not node.port.aborted


async def test_a_turn_that_comes_late_cuts_nobody(ward, clock):
    node = ward.node()
    await ward.turns(4, answering=(node,))
    clock.advance(5)  # the process stood still, and what came meanwhile is not read yet
    await ward.turns(1)
    assert not node.port.aborted
    await ward.turns(4, answering=(node,))
    assert not node.port.aborted


async def test_a_node_that_owes_nothing_any_more_is_not_cut(ward):
    node = ward.node()
    await ward.turns(2)
    node.table.working = False
    await ward.turns(10)
    assert not node.port.aborted


async def test_where_a_server_does_not_tell_silence_proves_nothing(ward):
    node = ward.node()
    node.port.heard = None
    await ward.turns(10)
    assert not node.port.aborted


async def test_every_node_is_looked_at_in_every_turn(ward):
    node = ward.node(working=False)
    await ward.turns(3)
    assert len(node.looked_at) == 3


async def test_an_idle_socket_is_pinged_every_twenty_seconds(ward):
    session = ward.session()
    await ward.turns(round(60 / TURN), answering=(session,))
    assert session.port.pings == 3


async def test_idle_sockets_are_pinged_a_slice_per_turn(ward):
    sessions = [ward.session() for _ in range(400)]
    await ward.turns(1)
    first = sum(session.port.pings for session in sessions)
    assert first <= 400 * TURN / 20 + 1
    await ward.turns(round(20 / TURN), answering=tuple(sessions))
    assert all(session.port.pings >= 1 for session in sessions)
    assert sum(session.port.pings for session in sessions) <= 400 * 1.1


async def test_an_idle_socket_that_is_silent_for_two_rounds_and_a_half_is_cut(ward):
    silent, lively = ward.session(), ward.session()
    await ward.turns(round(50 / TURN), answering=(lively,))
    assert not silent.port.aborted
    await ward.turns(round(25 / TURN), answering=(lively,))
    assert silent.port.aborted
    assert not lively.port.aborted


async def test_a_closed_socket_is_left_alone(ward):
    node = ward.node()
    node.outbox.gone()
    await ward.turns(5)
    assert (node.port.pings, node.port.aborted) == (0, False)


async def test_an_instance_that_is_cut_off_for_long_sends_everybody_elsewhere(ward):
    node, session = ward.node(), ward.session()
    ward.isolated = True
    await ward.pulse.turn()
    assert node.outbox._closing == session.outbox._closing == (1013, "this instance is cut off")
