"""Presence: an instance id belongs to one boot at a time."""

import json

import pytest

from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.outcome import Reason, Refused
from dispatch.store.presence import LifeSign, Presence


@pytest.fixture
def presence(prefix: str) -> Presence:
    return Presence(Keys(prefix), 4000)


def sign(boot: str) -> LifeSign:
    return LifeSign(started_at=1_700_000_000_000, hostname="h", pid=7, version="1", boot=boot)


async def test_the_life_sign_is_json_that_people_can_read(client, presence):
    assert await client.run(presence.claim("a", sign("b1"))) is True
    value = await client.run(command("GET", presence.keys.presence("a")))
    assert json.loads(value) == {
        "started_at": 1_700_000_000_000,
        "hostname": "h",
        "pid": 7,
        "version": "1",
        "boot": "b1",
    }
    assert await client.run(presence.find("a")) == sign("b1")
    assert 3000 < await client.run(presence.left_ms("a")) <= 4000


async def test_nobody_there_is_no_life_sign(client, presence):
    assert await client.run(presence.find("a")) is None
    assert await client.run(presence.left_ms("a")) < 0


async def test_another_boot_cannot_claim_a_living_id(client, presence):
    await client.run(presence.claim("a", sign("b1")))
    refused = Refused(Reason.TAKEN, "b1")
    assert await client.run(presence.claim("a", sign("b2"))) == refused
    assert await client.run(presence.renew("a", sign("b2"))) == refused
    assert await client.run(presence.remove("a", "b2")) == refused
    assert await client.run(presence.find("a")) == sign("b1")


async def test_the_same_boot_may_claim_again(client, presence):
    assert await client.run(presence.claim("a", sign("b1"))) is True
    assert await client.run(presence.claim("a", sign("b1"))) is True


async def test_a_renewal_tells_whether_the_life_sign_was_gone(client, presence):
    await client.run(presence.claim("a", sign("b1")))
    assert await client.run(presence.renew("a", sign("b1"))) is True
    await client.run(command("DEL", presence.keys.presence("a")))
    assert await client.run(presence.renew("a", sign("b1"))) is False
    assert await client.run(presence.renew("a", sign("b1"))) is True


@pytest.mark.parametrize("value", ["", "nonsense", "[]", '"b1"', '{"boot": null}', "{}"])
async def test_what_is_no_life_sign_holds_no_id(client, presence, value):
    await client.run(command("SET", presence.keys.presence("a"), value))
    assert await client.run(presence.claim("a", sign("b2"))) is True
    assert await client.run(presence.find("a")) == sign("b2")


async def test_a_boot_that_leaves_frees_its_id(client, presence):
    await client.run(presence.claim("a", sign("b1")))
    assert await client.run(presence.remove("a", "b1")) is True
    assert await client.run(presence.remove("a", "b1")) is True
    assert await client.run(presence.claim("a", sign("b2"))) is True


async def test_the_list_says_for_how_long_each_boot_was_silent(client, presence):
    assert await client.run(presence.instances()) == []
    assert await client.run(presence.touch_instances("a", "b1")) is False
    assert await client.run(presence.touch_instances("b", "b2")) is False
    assert await client.run(presence.touch_instances("b", "b2")) is True
    await client.run(command("ZINCRBY", presence.keys.instances, -5000, "a b1"))
    silent, heard = await client.run(presence.instances())
    assert (silent.instance, silent.boot, heard.instance, heard.boot) == ("a", "b1", "b", "b2")
    assert 5000 <= silent.age_ms < 6000
    assert 0 <= heard.age_ms < 1000
    await client.run(presence.forget_instance("a", "b1"))
    assert [boot.instance for boot in await client.run(presence.instances())] == ["b"]
