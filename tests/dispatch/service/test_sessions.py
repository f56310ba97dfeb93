"""Session links: one terminal event for every accepted utterance, in order, at the latest at its deadline (P1, P7)."""

import asyncio
from typing import Any

import pytest

from dispatch import metrics
from dispatch.messages.session import AudioChunk, ClientHeartbeat, TtsPlayEnded
from dispatch.service.sessions import TAKEN_OVER
from dispatch.store.client import command
from tests.dispatch.service.stand import until


def count(counter: Any, *labels: str) -> float:
    value: float = (counter.labels(*labels) if labels else counter)._value.get()
    return value


# --- one end for each ---------------------------------------------------------------------------------------------


async def test_a_result_reaches_its_session_once(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0, audio="AAAA")
    assign = await node.assigned()
    assert (assign["audio"], assign["src_lang"], assign["tgt_lang"]) == ("AAAA", "en", "es")
    node.answer(assign)
    await session.until_ends(1)
    await stand.later(1.1)
    await stand.watch()
    await stand.later(60)
    await stand.watch()
    await stand.quiet()
    assert session.ends == [(0, "result")]


async def test_ends_come_in_the_order_of_their_indexes(stand):
    node, session = await stand.node(), await stand.session()
    for index in range(3):
        session.say(index)
    await node.assigned(3)
    assigns = {frame["utterance_index"]: frame for frame in node.assignments}
    node.answer(assigns[2])
    node.answer(assigns[1])
    await stand.until(lambda seen: len([job for job in seen.jobs.values() if job["state"] == "FINISHED"]) == 2)
    assert session.ends == []
    node.answer(assigns[0])
    assert await session.until_ends(3) == [(0, "result"), (1, "result"), (2, "result")]


async def test_a_result_waits_for_an_earlier_one_until_that_ones_deadline(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    await stand.later(1)
    session.say(1)
    await node.assigned(2)
    node.answer(node.assignments[1])
    await stand.later(58.9)
    await stand.watch()
    assert session.ends == []
    await stand.later(0.2)
    await stand.watch()
    assert await session.until_ends(2) == [(0, "result_timeout"), (1, "result")]


async def test_an_answer_after_the_deadline_is_counted_and_not_told(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    assign = await node.assigned()
    await stand.later(60)
    await stand.watch()
    assert await session.until_ends(1) == [(0, "result_timeout")]
    await node.frame("job_cancel")
    before = count(metrics.late_ends)
    link = session.link
    link.ended(assign["job_id"].rpartition("-")[0], "failed", "")
    assert count(metrics.late_ends) == before + 1
    node.answer(assign)
    await stand.until(lambda seen: not seen.held)
    await stand.quiet()
    assert session.ends == [(0, "result_timeout")]


async def test_an_empty_success_is_told_as_silence(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    node.answer(await node.assigned(), text_asr="", text_translated="", tts_audio="")
    assert await session.until_ends(1) == [(0, "silence_detected")]


async def test_an_error_carries_the_index_and_the_trace_of_its_session(stand):
    node, session = await stand.node(), await stand.session(trace_id="trace-7")
    session.say(4)
    node.answer(await node.assigned(), error="INVALID_MESSAGE")
    error = await session.frame("error")
    assert (error["details"]["utterance_index"], error["trace_id"]) == (4, "trace-7")


async def test_the_same_request_twice_is_one_job_and_one_end(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    session.say(0)
    assign = await node.assigned()
    session.say(0)
    node.answer(assign)
    await session.until_ends(1)
    session.say(0)
    await stand.quiet()
    assert session.ends == [(0, "result")]
    assert len(node.assignments) == 1
    assert len((await stand.picture()).jobs) == 1


async def test_other_speech_under_a_used_index_is_refused(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    await node.assigned()
    session.say(0, audio="AAAA")
    assert await session.until_ends(1) == [(0, "INVALID_MESSAGE")]
    node.answer(node.assignments[0])
    assert (await session.until_ends(2))[1] == (0, "result")


async def test_a_failure_is_tried_anew_only_when_the_session_asks_for_it(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    node.answer(await node.assigned(), error="INVALID_MESSAGE")
    await session.until_ends(1)
    session.say(0)
    assert len(node.assignments) == 1
    other = await stand.node("n2")
    session.say(0, retry=True)
    await until(lambda: len(node.assignments) + len(other.assignments) == 2, session)
    chosen = other if other.assignments else node
    chosen.answer(chosen.assignments[-1])
    assert await session.until_ends(2) == [(0, "INVALID_MESSAGE"), (0, "result")]


async def test_another_go_at_an_index_is_submitted_though_the_first_is_still_on_its_way(stand, monkeypatch):
    jobs, held_up, began = stand.instance.jobs, asyncio.Event(), []
    submit = jobs.submit

    async def slow(name, utterance):
        began.append(utterance.job)
        if len(began) == 1:
            await held_up.wait()
        return await submit(name, utterance)

    monkeypatch.setattr(jobs, "submit", slow)
    session = await stand.session()
    session.say(0)
    await until(lambda: len(began) == 1)
    await stand.later(61)
    session.link.overdue(stand.clock.monotonic())
    assert await session.until_ends(1) == [(0, "SCHEDULER_DEPENDENCY_DOWN")]
    session.say(0, retry=True)
    held_up.set()
    await until(lambda: len(began) == 2)
    seen = await stand.until(lambda seen: {job: each["waiting"] for job, each in seen.jobs.items()}.get(began[1]))
    assert seen.waiting == [began[1]]  # nobody wants the first any more
    node = await stand.node()
    node.answer(await node.assigned())
    assert await session.until_ends(2) == [(0, "SCHEDULER_DEPENDENCY_DOWN"), (0, "result")]


async def test_one_idempotency_key_for_two_indexes_is_told_at_once(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0, idempotency_key="same")
    session.say(1, idempotency_key="same", audio="AAAA")
    node.answer(await node.assigned())
    assert await session.until_ends(2) == [(1, "INVALID_MESSAGE"), (0, "result")]


async def test_a_key_that_looks_like_an_index_is_another_request(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    session.say(1, idempotency_key="0", audio="AAAA")
    await node.assigned(2)
    for assign in node.assignments:
        node.answer(assign)
    assert await session.until_ends(2) == [(0, "result"), (1, "result")]


async def test_more_open_utterances_than_allowed_are_refused_one_by_one(build):
    stand = await build(**{"limits.utterances_open_per_session": 2})
    session = await stand.session()
    for index in range(3):
        session.say(index)
    assert await session.until_ends(1) == [(2, "NODE_OVERLOADED")]


async def test_audio_that_is_no_base64_is_refused_and_the_session_goes_on(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0, audio="!!")
    assert await session.until_ends(1) == [(0, "INVALID_MESSAGE")]
    session.say(0)
    node.answer(await node.assigned())
    assert (await session.until_ends(2))[1] == (0, "result")


async def test_what_nobody_can_do_is_refused_in_words_when_the_cell_is_old_enough(build):
    stand = await build()
    await stand.node()
    session = await stand.session()
    incarnation = stand.core.keys.cell("default#0")["meta"]
    await stand.client.run(command("HSET", incarnation, "incarnation", "1000000"))
    session.say(0, tgt_lang="fr")
    error = await session.frame("error")
    assert error["code"] == "NO_AVAILABLE_NODE"
    assert "pair:en>fr" in error["message"]


async def test_a_full_line_is_told_at_once(build):
    stand = await build(**{"pending_queue.max_per_cell": 1})
    session = await stand.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    session.say(1)
    await until(lambda: session.link._table.get(1) is None)
    await stand.later(60)
    await stand.watch()
    assert [index for index, _ in await session.until_ends(2)] == [0, 1]
    assert session.ends[1] == (1, "NODE_OVERLOADED")


# --- notices ------------------------------------------------------------------------------------------------------


async def test_who_waits_hears_the_place_in_the_line_and_every_change_of_it(stand):
    node = await stand.node(limit=1)
    busy, first, second = [await stand.session() for _ in range(3)]
    busy.say(0)
    await node.assigned()
    first.say(0)
    await first.frame("ui_event", event="QUEUED", queue_position=1)
    second.say(0)
    await second.frame("ui_event", event="QUEUED", queue_position=2)
    node.answer(node.assignments[0])
    await node.assigned(2)
    await stand.later(1.1)
    await stand.watch()
    await second.frame("ui_event", event="QUEUED", queue_position=1)
    await stand.watch()
    assert len(second.all("ui_event")) == 2


async def test_another_attempt_is_a_notice_not_an_error(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    await node.assigned()
    await stand.node("n2")
    node.hang_up()
    await stand.later(1.1)
    await stand.quiet()
    await stand.watch()
    notice = await session.frame("ui_event", event="RETRYING")
    assert notice["status"] == "ok"
    assert session.ends == []


# --- the watch ----------------------------------------------------------------------------------------------------


async def test_a_job_that_its_cell_has_lost_is_submitted_again(stand):
    node, session = await stand.node(), await stand.session()
    await stand.later(3)
    session.say(0)
    await node.assigned()
    node.hang_up()
    await stand.quiet()
    await stand.empty()
    before = count(metrics.resubmitted)
    await stand.later(1.1)
    await stand.watch()
    assert count(metrics.resubmitted) == before + 1
    other = await stand.node("n2")
    other.answer(await other.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_no_node_that_could_do_it_for_the_patience_of_a_job_ends_it(stand):
    session = await stand.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    await stand.later(9.9)
    await stand.watch()
    assert session.ends == []
    await stand.later(0.2)
    await stand.watch()
    assert await session.until_ends(1) == [(0, "NO_AVAILABLE_NODE")]
    await stand.quiet()
    assert (await stand.audit()).waiting == []


async def test_a_node_that_comes_in_time_ends_the_impatience(stand):
    session = await stand.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    await stand.later(9)
    node = await stand.node(limit=1)
    await node.assigned()
    await stand.watch()
    await stand.later(5)
    await stand.watch()
    assert session.ends == []


# --- Redis is silent ----------------------------------------------------------------------------------------------


async def test_the_first_to_suffer_from_a_silent_redis_hears_it_at_once_and_not_as_an_error(hasty, single_redis):
    node, session = await hasty.node(), await hasty.session()
    single_redis.pause()
    session.say(0)
    notice = await session.frame("ui_event", event="DELAYED")
    assert notice["error_code"] == "SCHEDULER_DEPENDENCY_DOWN"
    assert session.ends == []
    assert node.link.status == "ready"
    assert node.port.closed is None
    single_redis.resume()
    node.answer(await node.assigned())
    assert await session.until_ends(1) == [(0, "result")]
    assert len(session.all("ui_event", event="DELAYED")) == 1
    assert len((await hasty.audit()).jobs) == 1


async def test_a_redis_that_died_and_came_back_empty_costs_no_utterance(hasty, single_redis):
    node, session = await hasty.node(), await hasty.session()
    single_redis.kill()
    session.say(0)
    await session.frame("ui_event", event="DELAYED")
    single_redis.start()
    node.answer(await node.assigned())
    assert await session.until_ends(1) == [(0, "result")]
    assert node.port.closed is None


async def test_a_redis_that_is_silent_until_the_deadline_is_named_in_the_error(hasty, single_redis):
    session = await hasty.session()
    single_redis.kill()
    session.say(0)
    await session.frame("ui_event", event="DELAYED")
    hasty.clock.advance(60)
    await hasty.watch()
    assert await session.until_ends(1) == [(0, "SCHEDULER_DEPENDENCY_DOWN")]
    single_redis.start()


async def test_an_answer_that_comes_while_redis_is_silent_is_told_when_it_speaks_again(hasty, single_redis):
    node, session = await hasty.node(), await hasty.session()
    session.say(0)
    assign = await node.assigned()
    await hasty.until(lambda seen: any(held["state"] == "sent" for held in seen.held.values()))
    single_redis.pause()
    node.answer(assign)
    single_redis.resume()
    assert await session.until_ends(1) == [(0, "result")]


# --- sockets ------------------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_answered(stand):
    session = await stand.session()
    session.link.heartbeat(ClientHeartbeat(session_id=session.link.session, timestamp=1))
    assert (await session.frame("server_heartbeat"))["session_id"] == session.link.session


async def test_a_played_group_is_prolonged(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    node.answer(await node.assigned())
    group = (await session.frame("translation_result"))["group_id"]
    await stand.later(3)
    session.link.played(TtsPlayEnded(session_id=session.link.session, group_id=group, trace_id="t", ts_end_ms=1))
    await stand.later(1)
    session.say(1)
    node.answer(await node.assigned(2))
    assert (await session.frame("translation_result", 2))["group_id"] == group


async def test_a_stream_of_audio_becomes_an_utterance(stand):
    node, session = await stand.node(), await stand.session()
    chunk = AudioChunk(session_id=session.link.session, seq=0, is_final=False, payload="T2dnUw==")
    session.link.audio(chunk)
    session.link.audio(AudioChunk(session_id=session.link.session, seq=1, is_final=True))
    stand.clock.advance(1)
    session.link._cut()
    assign = await node.assigned()
    assert sum(flag in assign for flag in ("is_manual_cut", "is_pause_triggered", "is_timeout_triggered")) == 1
    node.answer(assign)
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_session_that_leaves_cancels_its_jobs_and_leaves_no_owner(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    session.say(1)
    await session.frame("ui_event", event="QUEUED")
    session.hang_up()
    await node.frame("job_cancel")
    await stand.quiet()
    seen = await stand.audit()
    assert seen.waiting == []
    assert len(seen.held) == 1  # the node may still work on it
    assert not [key for key in await stand.keys() if "payload" in key or ("session:" in key and "epoch" not in key)]
    node.answer(assign)
    await stand.until(lambda seen: not seen.held)


async def test_a_session_that_leaves_while_it_is_submitted_leaves_no_job_behind(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    session.hang_up()
    await stand.quiet()
    await stand.until(lambda seen: all(job["outcome"] == "cancelled" for job in seen.jobs.values()))
    await stand.quiet()
    assert (await stand.audit()).waiting == []
    assert session.ends == []
    del node


async def test_another_connection_of_the_session_closes_this_one(stand):
    session = await stand.session()
    await stand.client.run(stand.core.owners.claim(session.link.owner_key, instance="b"))
    await stand.instance.owner_keeper.turn()
    await until(lambda: session.port.closed is not None)
    assert session.port.closed[0] == TAKEN_OVER
    session.hang_up()
    await stand.quiet()
    assert await stand.client.run(stand.core.owners.owner(session.link.owner_key)) == "b"


@pytest.mark.parametrize(("wish", "tenant"), [(None, "default"), (" ", "default"), ("acme-1", "acme-1")])
async def test_a_tenant_is_part_of_the_kind(stand, wish, tenant):
    session = await stand.session(tenant_id=wish)
    session.say(0)
    (job,) = (await stand.until(lambda seen: bool(seen.jobs))).jobs.values()
    assert job["kind"].endswith(f"|{tenant}")


async def test_an_odd_tenant_becomes_a_name_that_can_stand_in_a_line(stand):
    session = await stand.session(tenant_id="a b|c")
    session.say(0)
    (job,) = (await stand.until(lambda seen: bool(seen.jobs))).jobs.values()
    assert job["kind"].rpartition("|")[2].startswith("t-")
