"""Sentinel: the client asks who is master, and follows when another one is (`redis.mode = "sentinel"`)."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatch.conf import Redis
from dispatch.errors import DependencyDown
from dispatch.store.client import command, connect
from linguasched.embedded import binary
from linguasched.redis_server import RedisServer, ask, free_port, ping, wait_until

_SECONDS = 20.0


@contextlib.contextmanager
def watched(directory: Path) -> Iterator[tuple[RedisServer, RedisServer, int]]:
    """A master, its replica, and the port of one sentinel that watches them."""
    with contextlib.ExitStack() as running:
        servers: list[RedisServer] = []
        for name, options in (("master", ()), ("replica", ("--replicaof",))):
            home = directory / name
            home.mkdir()
            more = (*options, "127.0.0.1", str(servers[0].address)) if options else ()
            servers.append(running.enter_context(RedisServer(binary(), free_port(), directory=home, options=more)))
        port = free_port()
        settings = directory / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor mymaster 127.0.0.1 {servers[0].address} 1\n"
            "sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 2000\n"
        )
        sentinel = subprocess.Popen(  # noqa: S603 - our own binary, no shell
            [str(binary()), str(settings), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        running.callback(sentinel.wait)
        running.callback(sentinel.terminate)
        wait_until(lambda: ping(port), what="the sentinel answers", seconds=_SECONDS)
        wait_until(lambda: "slaves=1" in ask(port, "INFO", "sentinel"), what="it knows the replica", seconds=_SECONDS)
        yield servers[0], servers[1], port


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer, int]]:
    with watched(tmp_path) as found:
        yield found


async def test_the_client_follows_to_the_new_master(sentinel):
    master, replica, port = sentinel
    client = connect(Redis(mode="sentinel", sentinel_urls=(f"redis://127.0.0.1:{port}",)))
    try:
        assert [info["redis_version"] for info, _ in await client.servers()]
        await client.run(command("SET", "k", "before"))
        wait_until(lambda: ask(replica.address, "GET", "k") == "before", what="it is copied", seconds=_SECONDS)
        master.kill()
        wait_until(
            lambda: "role:master" in ask(replica.address, "INFO", "replication"),
            what="the replica is promoted",
            seconds=_SECONDS,
        )
        async with asyncio.timeout(_SECONDS):
            while True:
                try:
                    assert await client.run(command("GET", "k")) == b"before"
                    await client.run(command("SET", "k", "after"))
                    break
                except DependencyDown:
                    await asyncio.sleep(0)  # unknown: asked again, as every caller does
        assert ask(replica.address, "GET", "k") == "after"
    finally:
        await client.aclose()
