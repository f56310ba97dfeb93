"""Dead letters: moved in one step, with all that a person needs."""

import pytest

from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.deadletters import DeadLetter, DeadLetters
from dispatch.store.inbox import Inbox


@pytest.fixture
def inbox(prefix: str) -> Inbox:
    return Inbox(Keys(prefix), "scheduler")


@pytest.fixture
def letters(prefix: str) -> DeadLetters:
    return DeadLetters(Keys(prefix), "scheduler", 3)


LETTER = DeadLetter(
    id="e1",
    kind="verdict",
    target="session s",
    job_id="j",
    session_id="s",
    lease="l",
    reason="failed",
    first_error="one",
    last_error="two",
    deliveries=10,
    source_instance="b",
    created_at=1_700_000_000_123,
    trace_id="t",
)


async def held(client, inbox) -> str:
    """An entry that is read and not acknowledged."""
    await client.run(inbox.ensure_group("a"))
    await client.run(inbox.put("a", b"\x00\xff", limit=100))
    (entry,) = await inbox.read(client, "a", count=1, block_ms=1)
    return str(entry.id)


async def test_a_letter_has_all_its_fields_and_its_entry_is_gone(client, inbox, letters):
    buried = await client.run(letters.bury("a", await held(client, inbox), LETTER))
    ((id, fields),) = await client.reader.xrange(letters.keys.dlq("a"))
    assert (id.decode(), buried.displaced) == (buried.id, 0)
    moved_at = int(fields.pop(b"moved_at"))
    assert abs(moved_at - int(buried.id.split("-")[0])) <= 1
    assert fields == {
        b"id": b"e1",
        b"kind": b"verdict",
        b"target": b"session s",
        b"job_id": b"j",
        b"session_id": b"s",
        b"lease": b"l",
        b"reason": b"failed",
        b"first_error": b"one",
        b"last_error": b"two",
        b"deliveries": b"10",
        b"source_instance": b"b",
        b"created_at": b"1700000000123",
        b"trace_id": b"t",
        b"payload": b"\x00\xff",
    }
    assert await client.run(inbox.length("a")) == 0
    assert (await client.run(inbox.take("a", idle_ms=0, count=10))).entries == []


async def test_burying_twice_makes_one_letter(client, inbox, letters):
    entry = await held(client, inbox)
    assert await client.run(letters.bury("a", entry, LETTER)) is not None
    assert await client.run(letters.bury("a", entry, LETTER)) is None
    assert await client.run(letters.count("a")) == 1


async def test_the_oldest_letters_make_room_and_are_counted(client, inbox, letters):
    buried = [await client.run(letters.bury("a", await held(client, inbox), LETTER)) for _ in range(5)]
    assert [letter.displaced for letter in buried] == [0, 0, 0, 1, 1]
    kept = await client.run(command("XRANGE", letters.keys.dlq("a"), "-", "+"))
    assert [id.decode() for id, _ in kept] == [letter.id for letter in buried[2:]]
