"""Between instances: what travels through an inbox, whom it reaches, and what becomes of the rest (DESIGN 5, P6)."""

from typing import Any

import msgspec
import pytest

from dispatch import metrics
from dispatch.messages.envelope import INLINE_BYTES, Envelope
from dispatch.service.courier import pack_grant, unpack_grant
from dispatch.service.delivery import Deliverer
from dispatch.store.cells import Ending, News
from dispatch.store.client import command
from dispatch.store.inbox import DONE, Failed
from tests.dispatch.service.conftest import Build
from tests.dispatch.service.stand import Stand, grant_of, until

BODY = '"session_id":"s","utterance_index":0,"trace_id":"t"}'


@pytest.fixture
async def other(build: Build) -> Stand:
    return await build("b")


def deliverer_of(stand: Stand) -> Deliverer:
    instance = stand.instance
    return Deliverer(stand.core, instance.courier, instance.node_sockets, instance.session_sockets)


def count(counter: Any, *labels: str) -> float:
    value: float = counter.labels(*labels)._value.get()
    return value


def envelope(kind: str, target: str, **members: Any) -> Envelope:
    said: dict[str, Any] = {
        "event_id": "e",
        "kind": kind,
        "target_kind": "node" if kind in ("assign", "cancel") else "session",
        "target": target,
        "deadline_ms": 2**50,
        "trace_id": "",
        "source": "b",
    }
    return Envelope(**said | members)


async def length(stand: Stand, instance: str) -> int:
    count: int = await stand.client.run(command("XLEN", stand.core.keys.inbox(instance)))
    return count


async def posted(stand: Stand) -> None:
    await stand.instance.courier.quiet()


# --- a job across instances ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 40_000])
async def test_a_job_and_its_result_cross_over_whatever_their_size(stand, other, size):
    node, session = await other.node(), await stand.session()
    session.say(0, audio="A" * size)
    await until(lambda: not stand.instance.courier._sending and session.link._table.get(0).submitted)
    await other.read_inbox()
    assign = await node.assigned()
    assert assign["audio"] == "A" * size
    node.partial(assign, "hel")
    node.answer(assign, tts_audio="A" * size)
    await other.until(lambda seen: all(job["state"] == "FINISHED" for job in seen.jobs.values()))
    await until(lambda: not other.instance.node_sockets.get("n1").table)
    await posted(other)
    await stand.read_inbox()
    assert await session.until_ends(1) == [(0, "result")]
    assert (await session.frame("asr_partial"))["text"] == "hel"
    assert (await session.frame("translation_result"))["tts_audio"] == "A" * size
    await stand.quiet()
    assert not [key for key in await stand.keys() if "payload" in key or "result" in key]
    assert (await length(stand, "a"), await length(stand, "b")) == (0, 0)


async def test_local_peers_never_touch_a_stream(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    node.answer(await node.assigned())
    await session.until_ends(1)
    await stand.quiet()
    added = await stand.client.run(command("XINFO", "STREAM", stand.core.keys.inbox("a")))
    assert dict(zip(added[::2], added[1::2], strict=True))[b"last-generated-id"] == b"0-0"


async def test_a_cancel_crosses_over(stand, other):
    node, session = await other.node(), await stand.session()
    session.say(0)
    await until(lambda: session.link._table.get(0).submitted)
    await posted(stand)
    await other.read_inbox()
    await node.assigned()
    session.hang_up()
    await stand.quiet()
    await other.read_inbox()
    await node.frame("job_cancel", reason="session_closed")


async def test_a_job_that_ends_without_an_answer_is_told_over_there(stand, other):
    session = await stand.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    job = session.link._table.get(0).job
    ending = Ending(job, session.link.session, 0, "a", "poison", "")
    other.instance.courier.pass_on(News([], [], [ending]))
    await posted(other)
    await stand.read_inbox()
    assert await session.until_ends(1) == [(0, "NODE_UNAVAILABLE")]


async def test_a_lost_answer_is_fetched_from_where_it_lies(stand, other):
    node, session = await other.node(), await stand.session()
    session.say(0)
    await until(lambda: session.link._table.get(0).submitted)
    await posted(stand)
    await other.read_inbox()
    node.answer(await node.assigned())
    await until(lambda: not node.link.table)
    await posted(other)
    await stand.client.run(command("XTRIM", stand.core.keys.inbox("a"), "MAXLEN", 0))
    await stand.later(1.1)
    await stand.watch()
    assert await session.until_ends(1) == [(0, "result")]


async def test_an_answer_that_is_nowhere_ends_as_an_error_in_seconds_not_at_the_deadline(stand, other):
    node, session = await other.node(), await stand.session()
    session.say(0)
    await until(lambda: session.link._table.get(0).submitted)
    await posted(stand)
    await other.read_inbox()
    assign = await node.assigned()
    node.answer(assign)
    await until(lambda: not node.link.table)
    await posted(other)
    await stand.client.run(command("XTRIM", stand.core.keys.inbox("a"), "MAXLEN", 0))
    job, _, lease = assign["job_id"].rpartition("-")
    await stand.client.run(command("DEL", stand.core.keys.result(job, lease)))
    for _ in range(5):
        await stand.later(1.1)
        await stand.watch()
        await until(lambda: not session.link._tasks)
    assert session.ends == [(0, "INTERNAL_ERROR")]


async def test_a_full_inbox_is_counted_and_costs_a_second_not_the_job(build):
    stand, other = await build("a", **{"phase2.stream_maxlen": 100}), await build("b")
    node, session = await other.node(), await stand.session()
    for _ in range(100):
        await stand.client.run(command("XADD", stand.core.keys.inbox("b"), "*", "payload", b"something else"))
    before = count(metrics.envelopes, "assign", "inbox_full")
    session.say(0)
    await until(lambda: count(metrics.envelopes, "assign", "inbox_full") == before + 1)
    assert await length(stand, "b") == 100
    # The owner of the node learns of the lease with the next answer of its cell.
    node.beat()
    await node.assigned()


# --- whom it reaches ----------------------------------------------------------------------------------------------


async def test_an_assignment_for_a_node_that_is_not_here_is_dropped_and_never_sent_on(stand, other):
    node = await other.node()
    deliver = deliverer_of(stand).deliver
    content = pack_grant(grant_of(node.link), BODY)
    assert await deliver(envelope("assign", "n1", epoch=node.link.epoch, body=content)) == "dropped:target_gone"
    await posted(stand)
    assert await length(stand, "b") == 0


async def test_an_assignment_for_an_earlier_connection_is_dropped(stand):
    node = await stand.node()
    deliver = deliverer_of(stand).deliver
    content = pack_grant(grant_of(node.link), BODY)
    assert await deliver(envelope("assign", "n1", epoch=node.link.epoch - 1, body=content)) == "dropped:other_epoch"
    assert await deliver(envelope("cancel", "n1", epoch=node.link.epoch - 1, body=b"x")) == "dropped:other_epoch"
    assert node.assignments == []


async def test_an_assignment_that_cannot_be_read_has_failed(stand):
    node = await stand.node()
    deliver = deliverer_of(stand).deliver
    assert isinstance(await deliver(envelope("assign", "n1", epoch=node.link.epoch, body=b"\0\0\0\1x")), Failed)
    assert isinstance(await deliver(envelope("assign", "n1", epoch=node.link.epoch)), Failed)


async def test_what_a_session_is_told_is_sent_on_once_to_where_it_is_now(stand, other):
    session = await other.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    job = session.link._table.get(0).job
    deliver = deliverer_of(stand).deliver
    ending = envelope("ending", session.link.session, job=job, body=b"timed_out JOB_TIMEOUT")
    assert await deliver(ending) == "dropped:sent_on"
    await posted(stand)
    await other.read_inbox()
    assert await session.until_ends(1) == [(0, "JOB_TIMEOUT")]
    again = msgspec.structs.replace(ending, hops=1)
    assert await deliver(again) == "dropped:target_gone"
    await posted(stand)
    assert await length(stand, "b") == 0


async def test_a_session_that_nobody_holds_gets_nothing(stand):
    assert await deliverer_of(stand).deliver(envelope("ending", "s-x", body=b"failed ")) == "dropped:target_gone"


async def test_a_session_on_record_here_whose_socket_is_gone_is_not_sent_to_ourselves(stand):
    session = await stand.session()
    stand.instance.session_sockets.unplug(session.link.session, session.link)
    told = await deliverer_of(stand).deliver(envelope("ending", session.link.session, body=b"failed "))
    assert told == "dropped:target_gone"
    stand.instance.session_sockets.plug(session.link.session, session.link)


async def test_an_answer_whose_content_is_gone_is_dropped_by_name(stand):
    session = await stand.session()
    told = await deliverer_of(stand).deliver(
        envelope("verdict", session.link.session, ref=f"{stand.core.keys.prefix}:x")
    )
    assert told == "dropped:content_gone"


@pytest.mark.parametrize("content", [b"{", b'{"type":"request_pairing_code"}'])
async def test_an_answer_that_is_none_has_failed(stand, content):
    session = await stand.session()
    assert isinstance(
        await deliverer_of(stand).deliver(envelope("verdict", session.link.session, body=content)), Failed
    )


async def test_an_answer_for_an_utterance_that_has_ended_is_done_and_counted(stand):
    session = await stand.session()
    before = metrics.late_ends._value.get()
    told = await deliverer_of(stand).deliver(envelope("ending", session.link.session, job="job-x", body=b"failed "))
    assert told == DONE
    assert metrics.late_ends._value.get() == before + 1


# --- the assignment as content ------------------------------------------------------------------------------------


async def test_a_grant_and_its_speech_come_back_as_they_were(stand):
    grant = grant_of((await stand.node()).link)
    assert unpack_grant(pack_grant(grant, BODY)) == (grant, BODY)
    assert unpack_grant(pack_grant(grant, None)) == (grant, None)


async def test_speech_that_is_too_long_stays_behind(stand):
    grant = grant_of((await stand.node()).link)
    room = INLINE_BYTES - len(pack_grant(grant, None))
    assert unpack_grant(pack_grant(grant, "x" * room))[1] == "x" * room
    assert unpack_grant(pack_grant(grant, "x" * (room + 1)))[1] is None
    assert unpack_grant(pack_grant(grant, "é" * room))[1] is None


async def test_an_envelope_to_nobody_or_to_ourselves_is_counted(stand):
    before = count(metrics.envelopes, "ending", "target_gone")
    ending = Ending("job", "s-gone", 0, "a", "failed", "")
    stand.instance.courier.pass_on(News([], [], [ending, msgspec.structs.replace(ending, origin="")]))
    assert count(metrics.envelopes, "ending", "target_gone") == before + 2


async def test_an_envelope_that_redis_did_not_take_is_counted_as_unknown(hasty, single_redis):
    before = count(metrics.envelopes, "ending", "unknown")
    single_redis.kill()
    hasty.instance.courier.pass_on(News([], [], [Ending("job", "s-gone", 0, "b", "failed", "")]))
    await hasty.instance.courier.quiet()
    assert count(metrics.envelopes, "ending", "unknown") == before + 1
