"""The same tests on one Redis, on the oldest one, and on a cluster."""

from collections.abc import AsyncIterator

import pytest

from dispatch.conf import Redis
from dispatch.keys import Keys
from dispatch.store.client import RedisClient, connect
from linguasched.redis_server import RedisCluster
from tests.dispatch.store.driver import CELL, Driver

SERVERS = ("single_redis", "wheel_redis", "cluster_redis")
PATIENCE = Redis(timeout_ms=10_000)  #: for machines that have other things to do


def client_of(server: object) -> RedisClient:
    """A client of a server or cluster that a fixture handed out."""
    if isinstance(server, RedisCluster):
        return connect(Redis(mode="cluster", cluster_urls=server.urls, timeout_ms=PATIENCE.timeout_ms))
    return connect(PATIENCE, server.url)  # type: ignore[attr-defined]


@pytest.fixture(params=SERVERS)
async def client(request: pytest.FixtureRequest) -> AsyncIterator[RedisClient]:
    opened = client_of(request.getfixturevalue(request.param))
    yield opened
    await opened.aclose()


@pytest.fixture
async def cell(client: RedisClient, prefix: str) -> Driver:
    """An open cell without nodes and jobs."""
    driver = Driver(client, Keys(prefix))
    await driver.run(driver.cells.open(CELL))
    return driver
