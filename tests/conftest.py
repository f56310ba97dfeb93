"""Real Redis servers for every test that asks for one: started once, at first use, and emptied before each test."""

import secrets
from collections.abc import Iterator

import pytest

from linguasched.embedded import binary, wheel_binary
from linguasched.redis_server import RedisCluster, RedisServer
from tests.redis_servers import running_cluster, running_server


@pytest.fixture(scope="session")
def _single_server() -> Iterator[RedisServer]:
    with running_server(binary()) as server:
        yield server


@pytest.fixture(scope="session")
def _wheel_server() -> Iterator[RedisServer]:
    with running_server(wheel_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def _cluster_servers() -> Iterator[RedisCluster]:
    with running_cluster(binary()) as cluster:
        yield cluster


@pytest.fixture
def single_redis(_single_server: RedisServer) -> RedisServer:
    """The server that an instance would run here, emptied."""
    _single_server.empty()
    return _single_server


@pytest.fixture
def wheel_redis(_wheel_server: RedisServer) -> RedisServer:
    """Redis 6.2.5, the oldest that we support, emptied."""
    _wheel_server.empty()
    return _wheel_server


@pytest.fixture
def cluster_redis(_cluster_servers: RedisCluster) -> RedisCluster:
    """A cluster of three masters, whole and emptied."""
    _cluster_servers.empty()
    return _cluster_servers


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has."""
    return f"t{secrets.token_hex(4)}"
