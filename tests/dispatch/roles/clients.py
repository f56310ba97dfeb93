"""Clients for the real servers of the tests."""

import contextlib
from collections.abc import AsyncIterator

from dispatch.conf import Redis
from dispatch.store.client import RedisClient, connect
from linguasched.redis_server import RedisCluster, RedisServer

SERVERS = ("single_redis", "wheel_redis", "cluster_redis")  #: names of the fixtures


@contextlib.asynccontextmanager
async def client_of(server: RedisServer | RedisCluster) -> AsyncIterator[RedisClient]:
    """A client of this server or cluster, closed at the end."""
    if isinstance(server, RedisServer):
        client = connect(Redis(), server.url)
    else:
        client = connect(Redis(mode="cluster", cluster_urls=server.urls))
    try:
        yield client
    finally:
        await client.aclose()
