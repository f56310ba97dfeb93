"""Presence keeper: one living process per instance id, and a true idea of being seen."""

import asyncio

import pytest

from dispatch.clock import SystemClock
from dispatch.errors import DependencyDown, IdentityTaken
from dispatch.keys import Keys
from dispatch.roles.presence_keeper import PresenceKeeper
from dispatch.store.client import command
from dispatch.store.presence import LifeSign, Presence
from tests.dispatch.roles.clients import client_of


def sign(boot: str) -> LifeSign:
    return LifeSign(started_at=1, hostname="h", pid=7, version="1", boot=boot)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def keeper_of(prefix, clock, told):
    """Builds a keeper of instance "a" for this client and boot."""

    def build(client, boot, *, ttl_ms=4000, clock=clock):
        return PresenceKeeper(
            client,
            Presence(Keys(prefix), ttl_ms),
            "a",
            sign(boot),
            clock=clock,
            isolation_seconds=60,
            on_barred=lambda: told.append("barred"),
            on_loss=lambda: told.append("loss"),
        )

    return build


async def test_a_started_instance_is_seen_by_others(any_client, keeper_of, prefix, told):
    keeper = keeper_of(any_client, "b1")
    assert not keeper.fresh
    await keeper.start()
    await keeper.turn()
    presence = Presence(Keys(prefix), 4000)
    assert await any_client.run(presence.find("a")) == sign("b1")
    ((instance, boot, age_ms),) = await any_client.run(presence.instances())
    assert (instance, boot) == ("a", "b1")
    assert age_ms < 1000
    assert keeper.fresh
    assert told == []


async def test_an_instance_that_left_is_not_seen_any_more_and_stays_away(any_client, keeper_of, prefix):
    keeper = keeper_of(any_client, "b1")
    await keeper.start()
    await keeper.leave()
    await keeper.turn()
    presence = Presence(Keys(prefix), 4000)
    assert await any_client.run(presence.find("a")) is None
    assert await any_client.run(presence.instances()) == []
    assert not keeper.fresh


async def test_a_second_process_waits_for_a_dead_ones_life_sign_to_end(client, keeper_of, prefix):
    await keeper_of(client, "dead", ttl_ms=300).start()
    keeper = keeper_of(client, "b2", ttl_ms=300, clock=SystemClock())
    await keeper.start()
    assert (await client.run(Presence(Keys(prefix), 300).find("a"))).boot == "b2"


async def test_a_second_process_gives_up_when_the_first_one_lives(client, keeper_of, prefix):
    first = keeper_of(client, "b1", ttl_ms=600, clock=SystemClock())
    await first.start()
    living = asyncio.create_task(first.run())
    try:
        with pytest.raises(IdentityTaken, match=r'instance id "a" \(boot b1\)'):
            await keeper_of(client, "b2", ttl_ms=600, clock=SystemClock()).start()
    finally:
        living.cancel()
    assert (await client.run(Presence(Keys(prefix), 600).find("a"))).boot == "b1"


async def test_a_life_sign_that_never_ends_does_not_make_the_start_wait_for_ever(client, keeper_of, prefix):
    await keeper_of(client, "b1", ttl_ms=200).start()
    await client.run(command("PERSIST", Keys(prefix).presence("a")))
    with pytest.raises(IdentityTaken):
        await keeper_of(client, "b2", ttl_ms=200, clock=SystemClock()).start()


async def test_an_instance_is_fresh_for_half_its_ttl(client, keeper_of, clock):
    keeper = keeper_of(client, "b1")
    await keeper.start()
    clock.advance(1.9)
    assert keeper.fresh
    clock.advance(0.1)
    assert not keeper.fresh
    await keeper.turn()
    assert keeper.fresh


async def test_steadiness_begins_anew_after_a_gap(client, keeper_of, clock):
    keeper = keeper_of(client, "b1")
    assert keeper.steady_since is None
    await keeper.start()
    began = clock.monotonic()
    for _ in range(5):
        clock.advance(4 / 3)
        await keeper.turn()
        assert keeper.steady_since == began
    clock.advance(2)
    assert keeper.steady_since is None
    await keeper.turn()
    assert keeper.steady_since == clock.monotonic()


async def test_a_silent_redis_is_a_gap_and_after_a_minute_isolation(single_redis, keeper_of, clock):
    async with client_of(single_redis, timeout_ms=50) as client:
        keeper = keeper_of(client, "b1")
        await keeper.start()
        single_redis.pause()
        clock.advance(4 / 3)
        with pytest.raises(DependencyDown):
            await keeper.turn()
        assert keeper.fresh
        clock.advance(58)
        assert not keeper.fresh
        assert not keeper.isolated
        clock.advance(1)
        assert keeper.isolated
        single_redis.resume()


async def test_an_instance_whose_id_was_taken_over_is_barred_for_good(any_client, keeper_of, prefix, told):
    keeper = keeper_of(any_client, "b1")
    await keeper.start()
    await any_client.run(command("DEL", Keys(prefix).presence("a")))
    await keeper_of(any_client, "b2").start()
    for _ in range(2):
        await keeper.turn()
    assert told == ["barred"]
    assert keeper.barred
    assert not keeper.fresh
    await any_client.run(command("DEL", Keys(prefix).presence("a")))
    await keeper.turn()
    assert await any_client.run(Presence(Keys(prefix), 4000).find("a")) is None


@pytest.mark.parametrize("lost", ["presence", "instances", "both"])
async def test_lost_data_is_put_back_and_told(any_client, keeper_of, prefix, told, clock, lost):
    keys = Keys(prefix)
    keeper = keeper_of(any_client, "b1")
    await keeper.start()
    if lost != "instances":
        await any_client.run(command("DEL", keys.presence("a")))
    if lost != "presence":
        await any_client.run(command("DEL", keys.instances))
    clock.advance(1)
    await keeper.turn()
    await keeper.turn()
    assert told == ["loss"]
    assert keeper.fresh
    assert keeper.steady_since == clock.monotonic()
    assert len(await any_client.run(Presence(keys, 4000).instances())) == 1
