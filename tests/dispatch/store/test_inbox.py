"""Inbox: refused when full, never trimmed, acknowledged and deleted together, whole again after data loss."""

import asyncio

import pytest

from dispatch.errors import BrokenScript, DependencyDown
from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.inbox import FROM_THE_START, Inbox
from dispatch.store.outcome import Reason, Refused
from linguasched.redis_server import ask, wait_until
from tests.dispatch.roles.clients import SERVERS, client_of


@pytest.fixture(params=SERVERS)
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
async def client(server):
    async with client_of(server) as client:
        yield client


@pytest.fixture
def inbox(prefix: str) -> Inbox:
    return Inbox(Keys(prefix), "scheduler")


async def put(client, inbox, *payloads):
    return [await client.run(inbox.put("a", payload, limit=100)) for payload in payloads]


async def read(client, inbox, count=10, block_ms=1):
    return await inbox.read(client, "a", count=count, block_ms=block_ms)


async def pending(client, inbox):
    return (await client.reader.execute_command("XPENDING", inbox.keys.inbox("a"), inbox.group))["pending"]


async def test_what_was_put_is_read_in_order_and_as_it_was(client, inbox):
    assert await client.run(inbox.ensure_group("a")) is True
    assert await client.run(inbox.ensure_group("a")) is False
    payloads = [b"\x00\xff{}", b"two", "drei ü".encode()]
    ids = await put(client, inbox, *payloads)
    entries = await read(client, inbox)
    assert [entry.payload for entry in entries] == payloads
    assert [entry.id for entry in entries] == ids
    assert entries[0].created_ms == int(ids[0].split("-")[0])
    assert await read(client, inbox) == []


async def test_a_full_inbox_refuses_and_keeps_all_it_has(client, inbox):
    for _ in range(3):
        assert isinstance(await client.run(inbox.put("a", b"x", limit=3)), str)
    assert await client.run(inbox.put("a", b"x", limit=3)) == Refused(Reason.FULL, "3")
    assert await client.run(inbox.length("a")) == 3


async def test_what_was_put_before_the_group_was_made_is_read_too(client, inbox):
    await put(client, inbox, b"early")
    assert await read(client, inbox) == []  # makes the group
    assert [entry.payload for entry in await read(client, inbox)] == [b"early"]


async def test_an_inbox_that_nobody_opens_ends_by_itself(client, inbox):
    key = inbox.keys.inbox("a")
    await put(client, inbox, b"early")
    assert await client.run(command("PTTL", key)) > 0
    await client.run(inbox.ensure_group("a"))
    assert await client.run(command("PTTL", key)) == -1
    await put(client, inbox, b"more")
    assert await client.run(inbox.close("a")) is False
    assert await client.run(command("PTTL", key)) > 0
    await client.run(inbox.ensure_group("a"))  # it is back under its old id
    assert await client.run(command("PTTL", key)) == -1


async def test_a_waiting_read_wakes_up_for_an_entry(client, inbox):
    await client.run(inbox.ensure_group("a"))
    waiting = asyncio.create_task(read(client, inbox, block_ms=5000))
    await put(client, inbox, b"ring")
    assert [entry.payload for entry in await waiting] == [b"ring"]


async def test_an_acknowledged_entry_is_gone_altogether(client, inbox):
    await client.run(inbox.ensure_group("a"))
    ids = await put(client, inbox, b"1", b"2", b"3")
    await read(client, inbox)
    for _ in range(2):
        await client.run(inbox.ack("a", ids[:2]))
        assert (await client.run(inbox.length("a")), await pending(client, inbox)) == (1, 1)


async def test_a_group_that_was_lost_is_made_again_from_the_beginning(client, inbox):
    await client.run(inbox.ensure_group("a"))
    await client.run(command("DEL", inbox.keys.inbox("a")))
    await put(client, inbox, b"after")
    assert await read(client, inbox) == []
    assert [entry.payload for entry in await read(client, inbox)] == [b"after"]


async def test_losing_all_data_under_a_waiting_read_harms_nobody(client, inbox, server):
    await client.run(inbox.ensure_group("a"))
    waiting = asyncio.create_task(read(client, inbox, block_ms=1000))
    await asyncio.to_thread(wait_until, lambda: blocked(server), what="the read waits", seconds=5)
    server.empty()
    assert await waiting == []
    await put(client, inbox, b"after")
    entries = [*await read(client, inbox), *await read(client, inbox)]
    assert [entry.payload for entry in entries] == [b"after"]


def blocked(server) -> bool:
    """Whether a read waits at one of the servers."""
    servers = getattr(server, "servers", [server])
    return any("blocked_clients:1" in ask(each.address, "INFO", "clients") for each in servers)


async def test_unacknowledged_entries_are_taken_up_page_after_page(client, inbox):
    await client.run(inbox.ensure_group("a"))
    ids = await put(client, inbox, *(b"%d" % n for n in range(25)))
    await read(client, inbox, count=25)
    await client.run(inbox.ack("a", ids[3:5]))
    taken, cursor, pages = [], FROM_THE_START, 0
    while pages == 0 or cursor != FROM_THE_START:
        cursor, entries = await client.run(inbox.take("a", idle_ms=0, count=10, cursor=cursor))
        taken += [entry.id for entry in entries]
        pages += 1
    assert taken == ids[:3] + ids[5:]
    assert pages == 3


async def test_entries_in_work_are_left_alone(client, inbox):
    await client.run(inbox.ensure_group("a"))
    await put(client, inbox, b"x")
    await read(client, inbox)
    assert (await client.run(inbox.take("a", idle_ms=60_000, count=10))).entries == []


async def test_a_pending_entry_that_was_deleted_is_passed_over(client, inbox):
    await client.run(inbox.ensure_group("a"))
    ids = await put(client, inbox, b"1", b"2")
    await read(client, inbox)
    await client.run(command("XDEL", inbox.keys.inbox("a"), ids[0]))
    assert [entry.id for entry in (await client.run(inbox.take("a", idle_ms=0, count=10))).entries] == ids[1:]


async def test_taking_up_makes_a_lost_group(client, inbox):
    await put(client, inbox, b"x")
    assert (await client.run(inbox.take("a", idle_ms=0, count=10))).entries == []
    assert [entry.payload for entry in await read(client, inbox)] == [b"x"]


async def test_an_entry_without_a_payload_is_read_as_empty(client, inbox):
    await client.run(inbox.ensure_group("a"))
    await client.run(command("XADD", inbox.keys.inbox("a"), "*", "other", "x"))
    assert [entry.payload for entry in await read(client, inbox)] == [b""]


async def test_something_else_under_the_name_of_the_inbox_is_an_error(client, inbox):
    await client.run(command("SET", inbox.keys.inbox("a"), "x"))
    with pytest.raises(BrokenScript, match="WRONGTYPE"):
        await read(client, inbox)


async def test_a_read_of_a_silent_redis_ends_and_its_entries_are_found_again(wheel_redis, inbox):
    async with client_of(wheel_redis) as client:
        await client.run(inbox.ensure_group("a"))
        wheel_redis.pause()
        with pytest.raises(DependencyDown):
            await read(client, inbox, block_ms=1)
        wheel_redis.resume()
        await put(client, inbox, b"x")
        entries = (await read(client, inbox)) or (await client.run(inbox.take("a", idle_ms=0, count=10))).entries
        assert [entry.payload for entry in entries] == [b"x"]
