"""Starts the real Redis servers that the fixtures hand out; each lives in a short temporary directory of its own."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from linguasched.redis_server import RedisCluster, RedisServer


@contextlib.contextmanager
def running_server(binary: Path) -> Iterator[RedisServer]:
    """One server on a unix socket; not below pytest's own directories, whose paths may be too long to bind."""
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        home = Path(directory)
        with RedisServer(binary, home / "redis.sock", directory=home) as server:
            yield server


@contextlib.contextmanager
def running_cluster(binary: Path, *, replicas: int = 0) -> Iterator[RedisCluster]:
    """Three masters on free loopback ports, with `replicas` of each."""
    with (
        tempfile.TemporaryDirectory(prefix="redis-") as directory,
        RedisCluster(binary, directory=Path(directory), replicas=replicas) as cluster,
    ):
        yield cluster
