"""What the roles' tests share: real servers, and a clock that a test holds in its hand."""

from collections.abc import AsyncIterator

import pytest

from dispatch.store.client import RedisClient
from tests.dispatch.roles.clients import SERVERS, client_of


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.ms += round(seconds * 1000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def client(single_redis) -> AsyncIterator[RedisClient]:
    async with client_of(single_redis) as client:
        yield client


@pytest.fixture(params=SERVERS)
async def any_client(request: pytest.FixtureRequest) -> AsyncIterator[RedisClient]:
    """One Redis, the oldest one, and a cluster."""
    async with client_of(request.getfixturevalue(request.param)) as client:
        yield client
