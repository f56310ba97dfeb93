"""One process from start to drain, without a server (DESIGN 6)."""

import asyncio

import pytest

from dispatch.conf import Redis
from dispatch.errors import IdentityTaken
from dispatch.instance import RESTART, TRY_AGAIN, Instance
from dispatch.service.nodes import NodeLink
from dispatch.store.client import command, connect
from dispatch.store.owners import Owners
from tests.dispatch.roles.clients import client_of
from tests.dispatch.roles.conftest import HandClock
from tests.dispatch.service.stand import Node, Peer, Session, Stand, config_of, registration, until


@pytest.fixture
async def running(single_redis, prefix):
    """Instances with their roles running on the machine's clock; each has a client of its own, which `drain` closes."""
    started: list[Instance] = []

    async def running(name: str = "a", **changes: object) -> Instance:
        client = connect(Redis(timeout_ms=5000), single_redis.url)
        instance = Instance(config_of(prefix, name, **{"drain_seconds": 5} | changes), client)
        try:
            await instance.start()
        except IdentityTaken:
            await client.aclose()
            raise
        started.append(instance)
        return instance

    yield running
    for instance in started:
        if not instance.draining:
            for node_link in instance.node_sockets:
                instance.nodes.leave(node_link)
            for session_link in instance.session_sockets:
                instance.sessions.leave(session_link)
            await instance.drain()


class Place(Stand):
    """The peers of a stand, at an instance that runs by itself."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.core, self.client = instance, instance.core, instance.core.client


async def node(place: Place, name: str = "n1") -> Node:
    peer = Node(place)
    link = await place.instance.nodes.register(registration(name), peer.outbox)
    assert isinstance(link, NodeLink)
    peer.link = link
    place.instance.nodes.welcome(peer.link)
    peer.beat()
    await peer.frame("node_status", status="ready")
    return peer


def code(peer: Peer) -> int:
    """With which code the socket was closed."""
    assert peer.port.closed is not None
    return peer.port.closed[0]


def closes_when_told(peer: Node | Session) -> None:
    """As a server does: its disconnect follows our close frame."""
    close = peer.port.close

    def closing(code: int, reason: str) -> None:
        close(code, reason)
        peer.hang_up()

    peer.port.close = closing  # type: ignore[method-assign]


async def test_an_instance_that_runs_has_no_problems_and_is_seen(running):
    instance = await running()
    assert instance.takes_sockets()
    await until(lambda: all(role.last_ran is not None for role in instance.roles))
    assert instance.problems() == []
    assert await instance.core.client.run(command("EXISTS", instance.core.keys.presence("a")))


async def test_before_its_start_it_says_why_it_is_not_ready(single_redis, prefix):
    async with client_of(single_redis) as client:
        assert "starting" in Instance(config_of(prefix, "a"), client).problems()


async def test_a_role_that_has_ended_is_a_problem(running):
    instance = await running()
    instance._supervised[0].cancel()
    await asyncio.wait([instance._supervised[0]])
    assert any("presence_keeper" in problem for problem in instance.problems())


async def test_two_processes_cannot_live_under_one_name(running):
    await running("a", heartbeat_interval_seconds=1)
    with pytest.raises(IdentityTaken, match="instance_id"):
        await running("a", heartbeat_interval_seconds=1)


async def test_an_automatic_name_is_its_own_and_can_be_part_of_a_key(single_redis, prefix):
    async with client_of(single_redis) as client:
        names = {Instance(config_of(prefix, "auto"), client).id for _ in range(3)}
    assert len(names) == 3
    assert all(c.isalnum() or c in "._-" for name in names for c in name)
    assert all(len(name) <= 64 for name in names)


async def test_work_runs_from_socket_to_socket_with_the_roles_at_work(running):
    place = Place(await running())
    peer, session = await node(place), await place.session()
    session.say(0)
    peer.answer(await peer.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_job_crosses_over_between_running_instances(running):
    here, there = Place(await running("a")), Place(await running("b"))
    peer, session = await node(there), await here.session()
    session.say(0, audio="A" * 40_000)
    peer.answer(await peer.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_drain_lets_running_work_end_and_closes_every_socket_with_restart(running):
    place = Place(await running())
    peer, session = await node(place), await place.session()
    session.say(0)
    assign = await peer.assigned()
    for each in (peer, session):
        closes_when_told(each)
    draining = asyncio.create_task(place.instance.drain())
    await until(lambda: place.instance.draining)
    assert not place.instance.takes_sockets()
    assert "draining" in place.instance.problems()
    await asyncio.sleep(0)
    assert peer.port.closed is None
    peer.answer(assign)
    await draining
    assert session.ends == [(0, "result")]
    assert code(peer) == code(session) == RESTART


async def test_a_drained_instance_has_given_everything_back(running, single_redis, prefix):
    place = Place(await running())
    peer, session = await node(place), await place.session()
    for each in (peer, session):
        closes_when_told(each)
    await place.instance.drain()
    async with client_of(single_redis) as client:
        keys = place.core.keys
        assert not await client.run(command("EXISTS", keys.presence("a")))
        assert not await client.run(command("ZCARD", keys.instances))
        owners = Owners(keys, ttl_ms=1000)
        assert await client.run(owners.owner(peer.link.owner_key)) is None
        assert await client.run(owners.owner(session.link.owner_key)) is None
        assert not await client.run(command("SCARD", keys.nodes_all))


async def test_a_drain_waits_until_redis_has_heard_who_left(running, single_redis):
    place = Place(await running())
    peer = await node(place)
    close = peer.port.close

    def closing(code: int, reason: str) -> None:
        close(code, reason)
        single_redis.pause()
        peer.hang_up()
        asyncio.get_running_loop().call_later(0.3, single_redis.resume)

    peer.port.close = closing  # type: ignore[method-assign]
    await place.instance.drain()
    async with client_of(single_redis) as client:
        assert await client.run(Owners(place.core.keys, ttl_ms=1000).owner(peer.link.owner_key)) is None
        assert not await client.run(command("SCARD", place.core.keys.nodes_all))


async def test_a_drain_does_not_wait_longer_than_allowed(running):
    place = Place(await running("a", drain_seconds=1))
    peer, session = await node(place), await place.session()
    session.say(0)
    await peer.assigned()
    for each in (peer, session):
        closes_when_told(each)
    async with asyncio.timeout(4):
        await place.instance.drain()
    assert code(peer) == RESTART


async def test_a_name_that_another_boot_has_taken_closes_every_socket(single_redis, prefix):
    async with client_of(single_redis) as client:
        stand = await Stand(client, prefix, HandClock()).start()
        peer, session = await stand.node(), await stand.session()
        document = '{"boot":"other","started_at":1,"hostname":"h","pid":1,"version":"v"}'
        await client.run(command("SET", stand.core.keys.presence("a"), document))
        await stand.instance.presence_keeper.turn()
        await until(lambda: peer.port.closed is not None and session.port.closed is not None)
        assert code(peer) == code(session) == TRY_AGAIN  # they may come back, to another instance
        assert not stand.instance.takes_sockets()
        await stand.close()
