"""The door to Redis: what it takes for silence, and who hears of it when."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dispatch.errors import DependencyDown
from dispatch.keys import Keys
from dispatch.store import client as door
from dispatch.store.client import RedisClient, command
from tests.dispatch.roles.clients import client_of
from tests.dispatch.store.driver import CELL, Driver


@pytest.fixture(params=["single_redis", "wheel_redis"])
async def demoted(request, prefix) -> AsyncIterator[RedisClient]:
    """A master that has become a replica, as after a failover; it holds a cell."""
    async with client_of(request.getfixturevalue(request.param)) as client:
        await client.run(Driver(client, Keys(prefix)).cells.open(CELL))
        await client.reader.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield client
        await client.reader.execute_command("REPLICAOF", "NO", "ONE")


async def test_a_script_on_a_server_that_takes_no_writes_now_is_unknown_and_not_broken(demoted, prefix):
    with pytest.raises(DependencyDown, match="read only replica"):
        await Driver(demoted, Keys(prefix)).submit()


async def test_the_breaker_stays_closed_while_something_comes_back(demoted, monkeypatch):
    monkeypatch.setattr(door, "_TRIP_AFTER", 1)
    with pytest.raises(DependencyDown, match="read only replica"):
        await demoted.flush(command("PING"), command("SET", "a", "1"))
    assert await demoted.run(command("PING")) == b"PONG"


async def test_who_waits_for_a_turn_hears_of_the_silence_with_the_first(single_redis, monkeypatch):
    """Else a crowd would wait for one time-out after the other."""
    monkeypatch.setattr(door, "_TRIP_AFTER", 1)
    monkeypatch.setattr(door, "_BATCH", 1)
    flown: list[int] = []
    async with client_of(single_redis, timeout_ms=100) as client:
        fly = client._fly

        async def counted(groups):
            flown.append(len(groups))
            await fly(groups)

        monkeypatch.setattr(client, "_fly", counted)
        single_redis.pause()
        try:
            crowd = [client.run(command("PING")) for _ in range(40)]
            answers = await asyncio.gather(*crowd, return_exceptions=True)
        finally:
            single_redis.resume()
    assert {type(answer) for answer in answers} == {DependencyDown}
    assert len(flown) < 10
