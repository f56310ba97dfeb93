"""Owners: epochs fence whatever comes late (P5)."""

import asyncio

import pytest

from dispatch.keys import Keys, epoch_of
from dispatch.store.client import RedisClient, command
from dispatch.store.outcome import Reason, Refused
from dispatch.store.owners import Owners


@pytest.fixture
def owners(prefix: str) -> Owners:
    return Owners(Keys(prefix), 45_000)


@pytest.fixture
def key(owners: Owners) -> str:
    return owners.keys.node_owner("n-1")


async def server_us(client: RedisClient, key: str) -> int:
    """Redis' clock, of the server that holds the key."""
    seconds, microseconds = await client.run(
        command("EVAL", "redis.call('GET', KEYS[1]) return redis.call('TIME')", 1, key)
    )
    return int(seconds) * 1_000_000 + int(microseconds)


async def test_a_claim_names_the_instance_that_had_the_socket(client, owners, key):
    first = await client.run(owners.claim(key, instance="a"))
    second = await client.run(owners.claim(key, instance="b"))
    assert (first.previous, second.previous) == (None, "a")
    assert second.epoch > first.epoch
    assert await client.run(owners.owner(key)) == "b"


async def test_an_epoch_is_the_time_of_redis_in_microseconds(client, owners, key):
    before = await server_us(client, key)
    epoch = (await client.run(owners.claim(key, instance="a"))).epoch
    assert before <= epoch <= await server_us(client, key)


async def test_an_epoch_is_above_the_previous_one_also_when_the_clock_went_back(client, owners, key):
    ahead = 2**52 + 1
    await client.run(command("SET", epoch_of(key), ahead))
    assert (await client.run(owners.claim(key, instance="a"))).epoch == ahead + 1


async def test_a_claim_goes_above_the_epoch_that_a_cell_knows(client, owners, key):
    ahead = 2**52 + 3
    assert (await client.run(owners.claim(key, instance="a", above=ahead))).epoch == ahead + 1


async def test_an_owner_keeps_its_socket_by_renewing(client, owners, key):
    epoch = (await client.run(owners.claim(key, instance="a"))).epoch
    for one in (key, epoch_of(key)):
        await client.run(command("PEXPIRE", one, 1000))
    assert await client.run(owners.renew(key, instance="a", epoch=epoch)) is True
    assert await client.run(owners.renew(key, instance="a", epoch=epoch)) is True
    for one in (key, epoch_of(key)):
        assert 44_000 < await client.run(command("PTTL", one)) <= 45_000


async def test_a_late_renewal_is_refused_by_the_higher_epoch(client, owners, key):
    old = await client.run(owners.claim(key, instance="a"))
    new = await client.run(owners.claim(key, instance="b"))
    for _ in range(2):
        refused = await client.run(owners.renew(key, instance="a", epoch=old.epoch))
        assert refused == Refused(Reason.MOVED, str(new.epoch))
    assert await client.run(owners.owner(key)) == "b"


async def test_lost_records_are_put_back_by_the_next_renewal(client, owners, key):
    epoch = (await client.run(owners.claim(key, instance="a"))).epoch
    await client.run(command("DEL", key, epoch_of(key)))
    assert await client.run(owners.renew(key, instance="a", epoch=epoch)) is False
    assert await client.run(owners.renew(key, instance="a", epoch=epoch)) is True
    assert await client.run(owners.owner(key)) == "a"
    assert await client.run(command("GET", epoch_of(key))) == str(epoch).encode()


async def test_a_lower_epoch_on_record_is_overwritten(client, owners, key):
    epoch = (await client.run(owners.claim(key, instance="a"))).epoch
    await client.run(command("SET", key, "b"))
    await client.run(command("SET", epoch_of(key), epoch - 1))
    assert await client.run(owners.renew(key, instance="a", epoch=epoch)) is False
    assert await client.run(owners.owner(key)) == "a"


async def test_a_late_cleanup_leaves_the_new_owner_alone(client, owners, key):
    old = await client.run(owners.claim(key, instance="a"))
    new = await client.run(owners.claim(key, instance="b"))
    assert await client.run(owners.release(key, epoch=old.epoch)) == Refused(Reason.MOVED, str(new.epoch))
    assert await client.run(owners.owner(key)) == "b"
    assert await client.run(owners.renew(key, instance="b", epoch=new.epoch)) is True


async def test_nothing_late_revives_a_released_socket(client, owners, key):
    half_open = await client.run(owners.claim(key, instance="a"))
    last = await client.run(owners.claim(key, instance="b"))
    assert await client.run(owners.release(key, epoch=last.epoch)) is True
    assert await client.run(owners.release(key, epoch=last.epoch)) is True
    for instance, late in (("a", half_open), ("b", last)):
        assert isinstance(await client.run(owners.renew(key, instance=instance, epoch=late.epoch)), Refused)
    assert await client.run(owners.owner(key)) is None
    assert 0 < await client.run(command("PTTL", epoch_of(key))) <= 45_000  # and nothing stays for ever (P9)
    again = await client.run(owners.claim(key, instance="a"))
    assert again.epoch > last.epoch
    assert again.previous is None


async def test_of_many_claims_at_once_the_last_one_owns_the_socket(client, owners, key):
    await client.servers()  # a cluster client that is new takes no crowd
    claims = await asyncio.gather(*(client.run(owners.claim(key, instance=f"i{n}")) for n in range(50)))
    assert len({claim.epoch for claim in claims}) == 50
    winner = max(range(50), key=lambda n: claims[n].epoch)
    assert await client.run(owners.owner(key)) == f"i{winner}"
