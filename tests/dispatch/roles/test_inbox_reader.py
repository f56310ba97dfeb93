"""Inbox reader: order per target, patience with failures, an end for everything, and nothing lost on the way."""

import asyncio
import contextlib
from collections import defaultdict
from typing import Any

import pytest

from dispatch import metrics
from dispatch.conf import Phase2
from dispatch.errors import BrokenScript, DependencyDown
from dispatch.keys import Keys
from dispatch.messages.envelope import Envelope, encode
from dispatch.roles import inbox_reader
from dispatch.roles.inbox_reader import InboxReader
from dispatch.store.client import command
from dispatch.store.deadletters import DeadLetters
from dispatch.store.inbox import DONE, Failed, Inbox
from tests.dispatch.roles.clients import client_of

SETTINGS = Phase2(stream_block_ms=1, dlq_max_deliveries=3)


def envelope(event: str, target: str = "s-1", **fields) -> Envelope:
    return Envelope(
        **{
            "event_id": event,
            "kind": "verdict",
            "target_kind": "session",
            "target": target,
            "epoch": 1,
            "job": "j",
            "lease": "l",
            "deadline_ms": 1_700_000_060_000,
            "trace_id": "t",
            "source": "b",
            **fields,
        }
    )


class Peers:
    """Takes envelopes; does for an event what the test wrote down, else takes it at once."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.by_target: dict[str, list[str]] = defaultdict(list)
        self.answers: dict[str, list[Any]] = defaultdict(list)
        self.came = asyncio.Condition()

    async def deliver(self, envelope: Envelope):
        self.heard.append(envelope.event_id)
        async with self.came:
            self.came.notify_all()
        answers = self.answers[envelope.event_id]
        answer = answers.pop(0) if answers else DONE
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = DONE
        if isinstance(answer, Exception):
            raise answer
        if answer == DONE:
            self.by_target[envelope.target].append(envelope.event_id)
        return answer

    async def until_heard(self, event: str) -> None:
        async with self.came:
            await asyncio.wait_for(self.came.wait_for(lambda: event in self.heard), 5)


@pytest.fixture
def inbox(prefix) -> Inbox:
    return Inbox(Keys(prefix), "scheduler")


@pytest.fixture
def letters(prefix) -> DeadLetters:
    return DeadLetters(Keys(prefix), "scheduler", 100)


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
async def reader_of(inbox, letters, peers, clock):
    async with contextlib.AsyncExitStack() as stack:

        def build(client, *, settings=SETTINGS, clock=clock, peers=peers):
            reader = InboxReader(client, inbox, "a", peers.deliver, letters=letters, settings=settings, clock=clock)
            stack.push_async_callback(reader.aclose)
            return reader

        yield build


@pytest.fixture
async def reader(client, reader_of, inbox):
    reader = reader_of(client)
    await reader.read_once()
    return reader


async def put(client, inbox, *envelopes):
    for each in envelopes:
        raw = encode(each) if isinstance(each, Envelope) else each
        await client.run(inbox.put("a", raw, limit=10_000))


async def drained(reader):
    await asyncio.wait_for(reader.drained(), 5)


async def read_all(reader):
    await reader.read_once()
    await drained(reader)


async def left(client, inbox):
    """Entries in the inbox, and those read but not acknowledged."""
    pending = await client.reader.execute_command("XPENDING", inbox.keys.inbox("a"), inbox.group)
    return await client.run(inbox.length("a")), pending["pending"]


async def dead(client, letters):
    return [fields for _, fields in await client.reader.xrange(letters.keys.dlq("a"))]


def counted(kind, outcome):
    return metrics.inbox_events.labels(kind, outcome)._value.get()


async def test_envelopes_reach_their_targets_in_order_and_leave_nothing_behind(any_client, reader_of, inbox, peers):
    reader = reader_of(any_client)
    await put(any_client, inbox, *(envelope(f"{target}{n}", target) for n in range(20) for target in "xyz"))
    await reader.read_once()  # makes the group
    await read_all(reader)
    assert peers.by_target == {target: [f"{target}{n}" for n in range(20)] for target in "xyz"}
    assert await left(any_client, inbox) == (0, 0)


async def test_a_slow_target_delays_nobody_else(client, reader, inbox, peers):
    slow = asyncio.Event()
    peers.answers["x0"] = [slow]
    await put(client, inbox, envelope("x0", "x"), envelope("x1", "x"), envelope("y0", "y"), envelope("y1", "y"))
    await reader.read_once()
    await peers.until_heard("y1")
    assert peers.heard == ["x0", "y0", "y1"]
    slow.set()
    await drained(reader)
    assert peers.by_target["x"] == ["x0", "x1"]


async def test_order_is_kept_through_failures(client, reader, inbox, peers):
    peers.answers["x0"] = [Failed("busy"), ValueError("bug")]
    await put(client, inbox, envelope("x0", "x"), envelope("x1", "x"))
    await read_all(reader)
    assert peers.heard == ["x0", "x0", "x0", "x1"]
    assert peers.by_target["x"] == ["x0", "x1"]


async def test_what_keeps_failing_becomes_a_dead_letter(any_client, reader_of, inbox, letters, peers):
    reader = reader_of(any_client)
    await reader.read_once()
    peers.answers["x0"] = [Failed("first"), Failed("second"), ValueError("third"), DONE]
    await put(any_client, inbox, envelope("x0", "x"), envelope("x1", "x"))
    await read_all(reader)
    assert peers.heard == ["x0", "x0", "x0", "x1"]
    assert await left(any_client, inbox) == (0, 0)
    (letter,) = await dead(any_client, letters)
    assert letter[b"payload"] == encode(envelope("x0", "x"))
    assert int(letter.pop(b"created_at")) <= int(letter.pop(b"moved_at"))
    assert {name.decode(): value.decode() for name, value in letter.items() if name != b"payload"} == {
        "id": "x0",
        "kind": "verdict",
        "target": "session x",
        "job_id": "j",
        "session_id": "x",
        "lease": "l",
        "reason": "failed",
        "first_error": "first",
        "last_error": "ValueError: third",
        "deliveries": "3",
        "source_instance": "b",
        "trace_id": "t",
    }


async def test_a_dead_letter_that_is_replayed_is_no_duplicate(client, reader, inbox, letters, peers):
    peers.answers["x0"] = [Failed("busy")] * 3
    await put(client, inbox, envelope("x0", "x"))
    await read_all(reader)
    ((_, letter),) = await client.reader.xrange(letters.keys.dlq("a"))
    await put(client, inbox, letter[b"payload"])
    await read_all(reader)
    assert peers.by_target["x"] == ["x0"]


async def test_without_dead_letters_what_keeps_failing_is_counted(client, reader_of, inbox, letters, peers):
    reader = reader_of(client, settings=Phase2(stream_block_ms=1, dlq_max_deliveries=1, dlq_enabled=False))
    await reader.read_once()
    before = counted("verdict", "failed")
    peers.answers["x0"] = [Failed("busy")]
    await put(client, inbox, envelope("x0", "x"))
    await read_all(reader)
    assert await client.run(letters.count("a")) == 0
    assert await left(client, inbox) == (0, 0)
    assert counted("verdict", "failed") == before + 1


async def test_garbage_is_buried_as_it_came(client, reader, inbox, letters, peers):
    await put(client, inbox, b"\xff\x00 garbage", envelope("x0", "x"))
    await client.run(command("XADD", inbox.keys.inbox("a"), "*", "unknown", "field"))
    await read_all(reader)
    assert peers.heard == ["x0"]
    assert [(letter[b"reason"], letter[b"payload"]) for letter in await dead(client, letters)] == [
        (b"parse_error", b"\xff\x00 garbage"),
        (b"parse_error", b""),
    ]
    assert await left(client, inbox) == (0, 0)


async def test_what_is_expired_is_dropped_before_its_delivery(client, reader, inbox, letters, peers, clock):
    before = counted("verdict", "dropped:expired")
    await put(client, inbox, envelope("late", deadline_ms=clock.wall_ms()), envelope("x1"))
    await read_all(reader)
    assert peers.heard == ["x1"]
    assert await client.run(letters.count("a")) == 0
    assert await left(client, inbox) == (0, 0)
    assert counted("verdict", "dropped:expired") == before + 1


async def test_what_expires_behind_a_slow_one_is_dropped_too(client, reader, inbox, peers, clock):
    slow = asyncio.Event()
    peers.answers["x0"] = [slow]
    await put(client, inbox, envelope("x0"), envelope("x1"))
    await reader.read_once()
    await peers.until_heard("x0")
    clock.advance(61)
    slow.set()
    await drained(reader)
    assert peers.heard == ["x0"]


async def test_what_fails_until_its_deadline_is_buried_as_expired(client, reader, inbox, letters, peers, clock):
    peers.answers["x0"] = [Failed("busy")] * 9
    deliver = peers.deliver

    async def time_passes(one):
        clock.advance(61)
        return await deliver(one)

    reader._deliver = time_passes
    await put(client, inbox, envelope("x0"))
    await read_all(reader)
    (letter,) = await dead(client, letters)
    assert (letter[b"reason"], letter[b"deliveries"]) == (b"expired", b"1")


async def test_an_event_that_comes_twice_is_delivered_once(client, reader, inbox, peers):
    before = counted("verdict", "duplicate")
    await put(client, inbox, envelope("x0"), envelope("x0"))
    await read_all(reader)
    await put(client, inbox, envelope("x0"))
    await read_all(reader)
    assert peers.heard == ["x0"]
    assert await left(client, inbox) == (0, 0)
    assert counted("verdict", "duplicate") == before + 2


async def test_an_event_that_was_sent_on_and_came_back_is_no_duplicate(client, reader, inbox, peers):
    peers.answers["x0"] = ["dropped:sent_on"]
    await put(client, inbox, envelope("x0"))
    await read_all(reader)
    await put(client, inbox, envelope("x0", hops=1))
    await read_all(reader)
    assert peers.heard == ["x0", "x0"]


async def test_only_so_many_events_are_remembered(client, reader, inbox, peers, monkeypatch):
    monkeypatch.setattr(inbox_reader, "REMEMBERED", 2)
    await put(client, inbox, envelope("x0"), envelope("x1"), envelope("x2"))
    await read_all(reader)
    assert list(reader._seen) == [("x1", 0), ("x2", 0)]


async def test_a_delivery_that_redis_did_not_answer_is_no_failure(client, reader, inbox, letters, peers):
    peers.answers["x0"] = [DependencyDown("no answer")] * 4
    await put(client, inbox, envelope("x0"))
    await read_all(reader)
    assert peers.by_target["s-1"] == ["x0"]
    assert await client.run(letters.count("a")) == 0


async def test_a_dropped_envelope_is_acknowledged_and_counted_by_its_reason(client, reader, inbox, peers):
    before = counted("verdict", "dropped:target_gone")
    peers.answers["x0"] = ["dropped:target_gone"]
    await put(client, inbox, envelope("x0"))
    await read_all(reader)
    assert await left(client, inbox) == (0, 0)
    assert counted("verdict", "dropped:target_gone") == before + 1


async def test_a_restarted_instance_takes_up_what_it_had_in_hand(any_client, reader_of, inbox, peers):
    never = Peers()
    for n in range(5):
        never.answers[f"{n}"] = [asyncio.Event()]
    died = reader_of(any_client, peers=never)
    await died.read_once()
    await put(any_client, inbox, *(envelope(f"{n}", f"s-{n}") for n in range(5)))
    await died.read_once()
    await died.aclose()
    await put(any_client, inbox, envelope("new"))
    await read_all(reader_of(any_client, settings=Phase2(stream_block_ms=1, dlq_scan_count=2)))
    assert peers.heard == ["0", "1", "2", "3", "4", "new"]
    assert await left(any_client, inbox) == (0, 0)


async def test_what_is_in_hand_is_not_taken_up_twice(client, reader, inbox, peers, clock):
    slow = asyncio.Event()
    peers.answers["x0"] = [slow]
    await put(client, inbox, envelope("x0"))
    await reader.read_once()
    reader._take_idle_ms, reader._take_at = 0, clock.monotonic()
    await reader.read_once()
    slow.set()
    await drained(reader)
    assert peers.heard == ["x0"]


async def test_an_answer_that_got_lost_is_asked_for_again(client, reader, inbox, peers):
    await put(client, inbox, envelope("x0"))
    read = inbox.read

    async def lost(*args, **kwargs):
        assert await read(*args, **kwargs) != []
        raise DependencyDown("no answer")

    inbox.read = lost
    with pytest.raises(DependencyDown):
        await reader.read_once()
    inbox.read = read
    await read_all(reader)
    assert peers.heard == ["x0"]
    assert await left(client, inbox) == (0, 0)


async def test_the_inbox_works_on_after_all_data_was_lost(client, reader, inbox, peers, single_redis):
    single_redis.empty()
    await put(client, inbox, envelope("x0"))
    await reader.read_once()  # finds no group, and makes it
    await read_all(reader)
    assert peers.heard == ["x0"]


async def test_acknowledgements_outlast_a_silent_redis(single_redis, reader_of, inbox, peers):
    async with client_of(single_redis, timeout_ms=50) as client:
        reader = reader_of(client)
        await reader.read_once()
        slow = asyncio.Event()
        peers.answers["x0"] = [slow]
        await put(client, inbox, envelope("x0"))
        await reader.read_once()
        await peers.until_heard("x0")
        single_redis.pause()
        slow.set()
        with pytest.raises(DependencyDown):
            await client.run(inbox.length("a"))
        single_redis.resume()
        await drained(reader)
        assert peers.heard == ["x0"]
        assert await left(client, inbox) == (0, 0)


async def test_a_full_hand_leaves_the_rest_in_the_inbox(client, reader, inbox, peers, monkeypatch):
    monkeypatch.setattr(inbox_reader, "IN_HAND", 3)
    slow = asyncio.Event()
    peers.answers["0"] = [slow]
    await put(client, inbox, *(envelope(f"{n}") for n in range(5)))
    await reader.read_once()
    waiting = asyncio.create_task(reader.read_once())
    await peers.until_heard("0")
    assert (await left(client, inbox)) == (5, 3)
    assert not waiting.done()
    slow.set()
    await asyncio.wait_for(waiting, 5)
    await read_all(reader)
    assert peers.by_target["s-1"] == ["0", "1", "2", "3", "4"]


async def test_an_error_that_nobody_expected_ends_the_turn_and_loses_nothing(client, reader, inbox, peers):
    await put(client, inbox, envelope("x0"))
    ack = inbox.ack
    broken = command("HGET", inbox.keys.inbox("a"), "x")  # a stream is no hash
    inbox.ack = lambda instance, entries: broken
    await reader.read_once()
    with pytest.raises(BrokenScript):
        await asyncio.wait_for(reader.run(), 5)
    inbox.ack = ack
    await read_all(reader)
    assert peers.heard == ["x0"]
    assert await left(client, inbox) == (0, 0)


async def test_the_inbox_is_measured(client, reader, inbox, peers, clock):
    slow = asyncio.Event()
    peers.answers["x0"] = [slow]
    await put(client, inbox, envelope("x0"))
    await reader.read_once()
    await put(client, inbox, envelope("x1"), envelope("x2"))
    clock.advance(2)
    clock.ms = int((await client.run(command("TIME")))[0]) * 1000 + 7000
    await reader.read_once()
    assert metrics.inbox_pending._value.get() == 1
    assert metrics.inbox_lag._value.get() == 2
    assert 5 < metrics.inbox_oldest._value.get() < 8
    slow.set()
    await drained(reader)
