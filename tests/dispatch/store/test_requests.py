"""Requests: one request makes one job (P3)."""

import asyncio

import pytest

from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.requests import Binding, Requests


@pytest.fixture
def requests(prefix: str) -> Requests:
    return Requests(Keys(prefix))


async def test_the_first_proposal_is_kept(client, requests):
    first = await client.run(requests.bind("s 1 es", job="j1", cell="default#0", ttl_ms=300_000))
    second = await client.run(requests.bind("s 1 es", job="j2", cell="other#0", gen=3, ttl_ms=300_000))
    assert first == Binding("j1", "default#0", 1, fresh=True)
    assert second == Binding("j1", "default#0", 1, fresh=False)


async def test_a_repeated_call_finds_its_own_job(client, requests):
    call = requests.bind("s 1 es", job="j1", cell="default#0", ttl_ms=300_000)
    assert (await client.run(call)).job == (await client.run(call)).job == "j1"


async def test_fifty_callers_at_once_get_one_job(client, requests):
    await client.servers()  # a cluster client that is new takes no crowd
    bound = await asyncio.gather(
        *(client.run(requests.bind("s 1 es", job=f"j{n}", cell="default#0", ttl_ms=300_000)) for n in range(50))
    )
    assert len({binding.job for binding in bound}) == 1
    assert sum(binding.fresh for binding in bound) == 1


async def test_who_bound_before_wins_after_data_loss(client, requests):
    again = requests.bind("s 1 es", job="j1", cell="moved#0", gen=2, ttl_ms=300_000)
    assert await client.run(again) == Binding("j1", "moved#0", 2, fresh=True)


async def test_asking_again_does_not_prolong_the_binding(client, requests, prefix):
    await client.run(requests.bind("k", job="j1", cell="c#0", ttl_ms=5000))
    await client.run(requests.bind("k", job="j1", cell="c#0", ttl_ms=300_000))
    (key,) = await keys_of(client, prefix)
    assert 0 < await client.run(command("PTTL", key)) <= 5000


@pytest.mark.parametrize("free_text", ["", "a}b{c", "{job:x}", "日本 \n\x00", "x" * 100_000])
async def test_free_text_becomes_a_short_key_in_its_own_slot(client, requests, prefix, free_text):
    await client.run(requests.bind(free_text, job="j", cell="c#0", ttl_ms=300_000))
    (key,) = await keys_of(client, prefix)
    assert key.startswith(f"{prefix}:v1:bind:{{req:".encode())
    assert len(key) < 100
    assert (await client.run(requests.bind(free_text + "!", job="k", cell="c#0", ttl_ms=300_000))).fresh


async def keys_of(client, prefix):
    """Every key with this prefix, wherever it lies."""
    return [key async for key in client.reader.scan_iter(match=f"{prefix}:*")]
