"""Clients for the real servers of the tests."""

import contextlib
from collections.abc import AsyncIterator

from dispatch.conf import Redis
from dispatch.store.client import RedisClient, connect
from linguasched.redis_server import RedisCluster, RedisServer

SERVERS = ("single_redis", "wheel_redis", "cluster_redis")  #: names of the fixtures


@contextlib.asynccontextmanager
async def client_of(server: RedisServer | RedisCluster, *, timeout_ms: int = 5000) -> AsyncIterator[RedisClient]:
    """A client of this server or cluster, closed at the end; patient, for machines that have other things to do."""
    if isinstance(server, RedisServer):
        client = connect(Redis(timeout_ms=timeout_ms), server.url)
    else:
        client = connect(Redis(mode="cluster", cluster_urls=server.urls, timeout_ms=timeout_ms))
    try:
        await client.servers()  # as every instance does first; a cluster client that is new takes no crowd
        yield client
    finally:
        await client.aclose()
