"""One instance on an empty Redis, and others beside it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from dispatch.store.client import RedisClient
from tests.dispatch.roles.clients import client_of
from tests.dispatch.roles.conftest import HandClock
from tests.dispatch.service.stand import Stand

Build = Callable[..., Awaitable[Stand]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def client(single_redis) -> AsyncIterator[RedisClient]:
    async with client_of(single_redis) as client:
        yield client


@pytest.fixture
async def build(client, prefix, clock) -> AsyncIterator[Build]:
    """Starts further instances; `build("b", **{"phase2.stream_maxlen": 1})`."""
    stands: list[Stand] = []

    async def build(name: str = "a", **changes: Any) -> Stand:
        stand = Stand(client, prefix, clock, name, **changes)
        stands.append(stand)
        return await stand.start()

    yield build
    for stand in stands:
        await stand.close()


@pytest.fixture
async def stand(build: Build) -> Stand:
    return await build()


@pytest.fixture
async def hasty(single_redis, prefix, clock) -> AsyncIterator[Stand]:
    """An instance that does not wait long for Redis, so that a silent one is noticed soon."""
    async with client_of(single_redis, timeout_ms=200) as client:
        stand = await Stand(client, prefix, clock).start()
        yield stand
        single_redis.resume()
        single_redis.start()
        await stand.close()
