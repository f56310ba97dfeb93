"""Node links: the second gate in front of a real cell, and what a connection still says when it is not the latest."""

import asyncio
from typing import Any

import msgspec

from dispatch import metrics
from dispatch.errors import DependencyDown
from dispatch.messages.node import Hardware, JobAck, ResourceUsage, decode_node
from dispatch.placement import DEFAULT_CELL
from dispatch.service.nodes import TAKEN_OVER
from dispatch.store.client import command
from dispatch.store.script import Call
from tests.dispatch.service.stand import Peer, Stand, grant_of, registration, until

ANY = {"session_id": "s", "utterance_index": 0, "trace_id": "t"}  #: of an assignment that nobody looks at
BODY = '"session_id":"s","utterance_index":0,"trace_id":"t"}'


def count(counter: Any, *labels: str) -> float:
    value: float = counter.labels(*labels)._value.get()
    return value


async def of_old(stand: Stand) -> None:
    """The cell is an hour old: what it does not hold has ended, and was not lost."""
    meta = stand.core.keys.cell(DEFAULT_CELL)["meta"]
    born = str(int(stand.core.incarnations[DEFAULT_CELL]) - 3_600_000_000)
    stand.core.incarnations[DEFAULT_CELL] = born
    await stand.client.run(command("HSET", meta, "incarnation", born))
    await stand.client.run(command("HSET", stand.core.keys.cells, DEFAULT_CELL, born))


# --- registration -------------------------------------------------------------------------------------------------


async def test_a_node_is_acknowledged_before_anything_else_and_takes_no_work_until_it_is_healthy(stand):
    node = await stand.node(ready=False)
    await stand.until(lambda seen: "n1" in seen.nodes)
    assert node.heard[0]["type"] == "node_register_ack"
    assert node.heard[0]["status"] == "registering"
    session = await stand.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    node.beat()
    await node.assigned()


async def test_a_node_without_a_gpu_is_refused_and_owns_nothing(stand):
    frame = registration("n1", hardware=Hardware(cpu_cores=1, memory_gb=1, gpus=()))
    refused = await stand.instance.nodes.register(frame, Peer("node").outbox)
    assert refused.code == "NO_GPU_AVAILABLE"
    assert len(stand.instance.node_sockets) == 0
    assert not [key for key in await stand.keys() if "nodes:owner" in key]


async def test_a_limit_above_the_cap_is_cut_and_a_missing_one_gets_the_default(build):
    stand = await build(max_jobs_cap_per_node=2, max_concurrent_jobs_per_node=1)
    assert (await stand.node("many", limit=64, ready=False)).link.table.limit == 2
    plain = await stand.node("plain", ready=False, max_concurrent_jobs=None)
    assert plain.link.table.limit == 1


async def test_a_node_without_an_id_gets_one(stand):
    frame = msgspec.structs.replace(registration("n1"), node_id=None)
    first = await stand.instance.nodes.register(frame, Peer("node").outbox)
    second = await stand.instance.nodes.register(frame, Peer("node").outbox)
    assert first.node != second.node


async def test_a_heartbeat_under_a_foreign_name_counts_for_the_connection_alone(stand):
    node = await stand.node()
    other = await stand.node("n2", ready=False)
    before = count(metrics.frames_refused, "node", "foreign_id")
    frame = decode_node(
        b'{"type":"node_heartbeat","node_id":"n2","timestamp":1,'
        b'"resource_usage":{"cpu_percent":1,"mem_percent":1,"running_jobs":0}}'
    )
    node.link.heartbeat(frame)
    assert count(metrics.frames_refused, "node", "foreign_id") == before + 1
    assert other.link.status == "registering"


# --- the gate -----------------------------------------------------------------------------------------------------


async def test_a_grant_of_another_epoch_is_dropped_and_counted(stand):
    node = await stand.node()
    before = count(metrics.assignments, "other_epoch")
    node.link.take(grant_of(node.link, epoch=node.link.epoch - 1), BODY)
    node.link.take(grant_of(node.link, epoch=node.link.epoch + 1, lease="other"), BODY)
    await until(lambda: count(metrics.assignments, "other_epoch") == before + 2)
    assert node.assignments == []


async def test_the_same_grant_twice_is_one_assignment(stand):
    node = await stand.node()
    grant = grant_of(node.link)
    node.link.take(grant, BODY)
    node.link.take(grant, BODY)
    await node.assigned()
    node.link.take(grant_of(node.link, seq=2, lease="next", index=1), BODY)
    await node.assigned(2)
    assert [frame["assign_seq"] for frame in node.assignments] == [1, 2]


async def test_a_gap_in_the_sequence_holds_an_assignment_a_tenth_of_a_second(stand, clock):
    node = await stand.node()
    node.link.take(grant_of(node.link, seq=2, lease="second", index=2), BODY)
    clock.advance(0.09)
    node.link._more.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert node.assignments == []
    clock.advance(0.02)
    await node.assigned()


async def test_what_closes_the_gap_goes_first(stand):
    node = await stand.node()
    node.link.take(grant_of(node.link, seq=2, lease="second", index=2), BODY)
    await asyncio.sleep(0)
    node.link.take(grant_of(node.link, seq=1, lease="first", index=1), BODY)
    await node.assigned(2)
    assert [frame["assign_seq"] for frame in node.assignments] == [1, 2]


async def test_a_full_table_hands_itself_back_excludes_nobody_and_counts_as_no_attempt(stand):
    node = await stand.node(limit=1)
    # The connection knows of an attempt that the cell has lost.
    lost = grant_of(node.link, lease="lost", job="job-lost", session="elsewhere")
    node.link.table.sent(lost, now=stand.clock.monotonic())
    before = count(metrics.assignments, "full")
    session = await stand.session()
    session.say(0)
    seen = await stand.until(lambda seen: [at for at, held in seen.held.items()] == [("n1", "lost")])
    assert count(metrics.assignments, "full") == before + 1
    (job,) = seen.jobs.values()
    assert (job["waiting"], job["tries"], list(job["excluded"])) == (True, 0, [])
    assert node.assignments == []
    await stand.later(1.1)
    await stand.watch()
    await session.frame("ui_event", event="QUEUED")
    # Its answer frees the slot for the one that waits.
    node.answer({"job_id": "job-lost-lost", "attempt_id": 1} | ANY)
    node.answer(await node.assigned())
    assert await session.until_ends(1) == [(0, "result")]
    await stand.audit()


async def test_an_index_that_the_node_has_passed_excludes_it_for_the_job(stand):
    node = await stand.node()
    session = await stand.session()
    node.link.table.sent(
        grant_of(node.link, lease="x", job="x", seq=0, session=session.link.session, index=5),
        now=stand.clock.monotonic(),
    )
    node.link.table.end("x")
    session.say(3)
    seen = await stand.until(lambda seen: any(job["excluded"] for job in seen.jobs.values()))
    assert node.assignments == []
    assert [list(job["excluded"]) for job in seen.jobs.values()] == [["n1"]]
    assert await session.until_ends(1) == [(3, "NO_AVAILABLE_NODE")]


async def test_another_node_gets_what_the_first_may_not_have(stand):
    node = await stand.node()
    session = await stand.session()
    node.link.table.sent(
        grant_of(node.link, lease="x", job="x", seq=0, session=session.link.session, index=5),
        now=stand.clock.monotonic(),
    )
    node.link.table.end("x")
    session.say(3)
    await stand.until(lambda seen: any(job["excluded"] for job in seen.jobs.values()))
    session.say(4)
    other = await stand.node("n2")
    session.say(6)
    other.answer(await other.assigned())
    await stand.audit()


async def test_a_presence_in_doubt_sends_nothing(stand, clock):
    node = await stand.node()
    before = count(metrics.assignments, "late")
    clock.advance(2.1)
    assert not stand.core.fresh()
    node.link.take(grant_of(node.link), BODY)
    await until(lambda: count(metrics.assignments, "late") == before + 1)
    assert node.assignments == []


async def test_a_declined_lease_is_not_sent_when_it_is_granted_again_before_the_cell_knows(stand, clock):
    node = await stand.node()
    grant = grant_of(node.link)
    clock.advance(2.1)
    node.link.take(grant, BODY)
    await until(lambda: node.link.table.seq == 1)
    await stand.instance.presence_keeper.turn()
    assert stand.core.fresh()
    node.link.take(grant, BODY)
    node.link.take(grant_of(node.link, seq=2, lease="next", index=1), BODY)
    assert (await node.assigned())["assign_seq"] == 2
    assert len(node.assignments) == 1


async def test_a_grant_that_waited_longer_than_the_cell_waits_is_not_sent(stand, clock):
    node = await stand.node(ready=False)
    node.link._pushed = False
    node.link.take(grant_of(node.link), BODY)
    await stand.later(0.6)
    before = count(metrics.assignments, "late")
    await node.link.push()
    await until(lambda: count(metrics.assignments, "late") == before + 1)
    assert node.assignments == []


async def test_an_attempt_that_is_stopped_while_its_speech_is_fetched_is_not_sent(stand, single_redis):
    node, session = await stand.node(), await stand.session()
    grant = grant_of(node.link)
    await stand.client.run(stand.core.payloads.put_payload(grant.job, BODY, ttl_ms=60_000))
    single_redis.pause()
    node.link.take(grant, None)
    await until(lambda: node.link._at_gate is not None)
    node.link.stop(grant.lease, grant.job, "cancelled")
    single_redis.resume()
    await until(lambda: node.link._at_gate is None)
    session.say(0)
    await node.assigned()
    assert [frame["session_id"] for frame in node.assignments] == [session.link.session]


async def test_an_attempt_whose_speech_is_fetched_when_the_socket_closes_frees_its_slot_at_once(stand, single_redis):
    node = await stand.node(limit=1)
    session = await stand.session()
    link = node.link
    link._pushed = False
    session.say(0)
    await until(lambda: bool(link._queue))
    # As if it had come from another instance, without its speech.
    link._queue = [(seq, order, grant, None, came) for seq, order, grant, _, came in link._queue]
    single_redis.pause()
    link._pushed = True
    await until(lambda: link._at_gate is not None)
    node.hang_up()
    await until(lambda: link._gone)
    single_redis.resume()
    await stand.quiet()
    assert node.assignments == []
    assert (await stand.audit()).held == {}


async def test_an_attempt_that_is_stopped_before_its_grant_comes_is_not_sent(stand):
    node = await stand.node()
    node.link.stop("lease", "job", "cancelled")
    node.link.take(grant_of(node.link), BODY)
    node.link.take(grant_of(node.link, seq=2, lease="next", index=1), BODY)
    assert (await node.assigned())["assign_seq"] == 2
    assert len(node.assignments) == 1


async def test_speech_that_is_gone_ends_the_lease_unsent(stand):
    node = await stand.node()
    session = await stand.session()
    before = count(metrics.assignments, "payload")
    node.link.take(grant_of(node.link, session=session.link.session), None)
    await until(lambda: count(metrics.assignments, "payload") == before + 1)
    assert node.assignments == []


async def test_speech_that_cannot_be_read_now_is_no_attempt(stand, monkeypatch):
    """A silence of Redis is no evidence that it is gone (P7)."""
    node = await stand.node()
    session = await stand.session()
    payloads = stand.core.payloads
    stored, asked = payloads.get_payload, []

    def silent(job):
        asked.append(job)
        return Call(stored(job).args, _silence) if len(asked) <= 3 else stored(job)

    monkeypatch.setattr(payloads, "get_payload", silent)
    monkeypatch.setattr(session.link, "body_of", lambda index, job: None)
    session.say(0)
    node.answer(await node.assigned())
    assert await session.until_ends(1) == [(0, "result")]


def _silence(reply):
    raise DependencyDown("Redis did not answer")


async def test_an_attempt_that_was_sent_is_told_to_stop_once_and_keeps_its_slot(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    (entry,) = node.link.table._entries.values()
    node.link.stop(entry.lease, entry.job, "JOB_TIMEOUT")
    node.link.stop(entry.lease, entry.job, "JOB_TIMEOUT")
    stop = await node.frame("job_cancel")
    assert (stop["job_id"], stop["reason"]) == (assign["job_id"], "job_timeout")
    assert len(node.all("job_cancel")) == 1
    assert len(node.link.table) == 1
    assert node.link.empty.is_set()


# --- answers ------------------------------------------------------------------------------------------------------


async def test_a_second_answer_to_the_same_lease_changes_nothing(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    before = count(metrics.node_answers, "unknown")
    node.answer(assign)
    node.answer(assign, text_translated="otra")
    assert await session.until_ends(1) == [(0, "result")]
    assert count(metrics.node_answers, "unknown") == before + 1
    assert (await session.frame("translation_result"))["text_translated"] == "hola"


async def test_an_answer_for_no_lease_is_counted_and_the_link_lives(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    node.answer(assign | {"job_id": "job-x-y"})
    node.answer(assign | {"job_id": assign["job_id"].rpartition("-")[0]})
    assert session.ends == []
    node.answer(assign)
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_failure_that_another_node_may_mend_goes_to_another_node(stand):
    first, second = await stand.node("n1", limit=1), await stand.node("n2", limit=1)
    session = await stand.session()
    session.say(0)
    await until(lambda: bool(first.assignments or second.assignments))
    failing, other = (first, second) if first.assignments else (second, first)
    failing.answer(failing.assignments[0], error="MODEL_NOT_AVAILABLE")
    other.answer(await other.assigned())
    assert await session.until_ends(1) == [(0, "result")]
    await stand.audit()


async def test_a_failure_that_every_node_would_have_ends_the_utterance(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    node.answer(await node.assigned(), error="INVALID_MESSAGE")
    assert await session.until_ends(1) == [(0, "INVALID_MESSAGE")]


async def test_an_answer_that_only_says_duplicate_is_no_result(stand):
    node, other = await stand.node("n1", limit=1), await stand.node("n2", limit=1)
    session = await stand.session()
    session.say(0)
    await until(lambda: bool(node.assignments or other.assignments))
    if other.assignments:
        node, other = other, node
    node.answer(
        node.assignments[0],
        text_asr="",
        text_translated="",
        tts_audio="",
        extra=msgspec.Raw(b'{"filtered":true,"reason":"duplicate_job_id"}'),
    )
    other.answer(await other.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_an_acknowledgement_makes_the_node_one_that_acknowledges(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    node.link.acknowledged(JobAck(job_id=assign["job_id"], attempt_id=1, node_id="n1", session_id="s", trace_id="t"))
    seen = await stand.until(lambda seen: bool(seen.nodes["n1"]["acks"]))
    assert [job["state"] for job in seen.jobs.values()] == ["ACCEPTED"]


async def test_a_heartbeat_between_sending_and_its_report_takes_no_slot(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    job = await node.assigned()
    usage = ResourceUsage(cpu_percent=1.0, gpu_percent=1.0, mem_percent=1.0, running_jobs=1)
    node.beat(resource_usage=usage)
    await until(lambda: node.link._beating.done())
    session.say(1)
    node.answer(job)
    node.answer(await node.assigned(2))
    assert await session.until_ends(2) == [(0, "result"), (1, "result")]


async def test_partials_reach_the_session_and_no_other_utterance(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    node.partial(assign, "hel")
    partial = await session.frame("asr_partial")
    assert (partial["utterance_index"], partial["text"], partial["is_final"]) == (0, "hel", False)
    node.partial(assign | {"job_id": "job-x-y"}, "nobody's")
    node.answer(assign)
    await session.until_ends(1)
    node.partial(assign, "too late")
    assert len(session.all("asr_partial")) == 1


async def test_a_slot_whose_ceiling_has_passed_ends_by_the_clock_of_its_connection(stand, clock):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    clock.advance(stand.core.config.scheduler.job_timeout.lease_ceiling_seconds)
    await stand.feel()
    assert len(node.link.table) == 0
    assert node.link.empty.is_set()
    node.answer(assign)  # a name that means nothing any more
    assert session.ends == []


# --- more than one connection -------------------------------------------------------------------------------------


async def test_a_later_connection_of_the_same_node_replaces_the_earlier_one(stand):
    old = await stand.node()
    new = await stand.node()
    await until(lambda: old.port.closed is not None)
    assert old.port.closed[0] == TAKEN_OVER
    assert stand.instance.node_sockets.get("n1") is new.link
    assert new.link.epoch > old.link.epoch


async def test_the_late_end_of_a_replaced_connection_changes_nothing(stand):
    old = await stand.node()
    new = await stand.node()
    old.hang_up()
    await stand.quiet()
    assert stand.instance.node_sockets.get("n1") is new.link
    seen = await stand.audit()
    assert seen.nodes["n1"]["gone"] == 0
    assert await stand.client.run(stand.core.owners.owner(new.link.owner_key)) == "a"
    session = await stand.session()
    session.say(0)
    new.answer(await new.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_node_that_came_back_still_holds_the_slot_that_it_works_on(stand):
    old = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    await old.assigned()
    new = await stand.node(limit=1)
    await until(lambda: len(new.link.table) == 1)
    await stand.audit()
    other = await stand.session()
    other.say(0)
    await other.frame("ui_event", event="QUEUED")
    assert new.assignments == []


async def test_a_node_that_comes_back_and_names_its_work_keeps_the_slot(stand):
    await of_old(stand)
    old = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    job = await old.assigned()
    old.hang_up()
    await stand.quiet()
    new = await stand.node(limit=1, ready=False, running_job_ids=(job["job_id"],))
    seen = await stand.until(lambda seen: seen.nodes["n1"]["epoch"] == new.link.epoch)
    assert [f"{held['job']}-{lease}" for (_, lease), held in seen.held.items()] == [job["job_id"]]
    new.answer(job)
    assert await session.until_ends(1) == [(0, "result")]


async def test_what_a_node_answers_before_it_is_in_its_cell_counts_though_it_named_no_work(stand):
    await of_old(stand)
    old = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    job = await old.assigned()
    old.hang_up()
    await stand.quiet()
    new = await stand.node(limit=1, ready=False, running_job_ids=(job["job_id"],))
    new.answer(job)
    new.beat(running_job_ids=())
    assert await session.until_ends(1) == [(0, "result")]


async def test_an_older_heartbeat_does_not_end_what_was_sent_after_it(stand):
    await of_old(stand)
    node = await stand.node(limit=1)
    node.beat(running_job_ids=(), assign_seq=0)
    session = await stand.session()
    session.say(0)
    await node.assigned()
    await stand.until(lambda seen: any(held["state"] == "sent" for held in seen.held.values()))
    session.hang_up()
    await stand.until(lambda seen: any(held["state"] == "zombie" for held in seen.held.values()))
    await node.link.push()
    assert len((await stand.audit()).held) == 1


async def test_what_was_not_sent_when_the_socket_closed_frees_its_slot_at_once(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    node.link._pushed = False  # as long as its cell has not answered, nothing goes out
    session.say(0)
    await until(lambda: bool(node.link._queue))
    node.hang_up()
    await stand.quiet()
    seen = await stand.audit()
    assert seen.held == {}
    other = await stand.node("n2")
    other.answer(await other.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_grant_that_is_told_again_is_not_taken_for_unsent_when_the_socket_closes(stand):
    node = await stand.node(limit=2)
    session = await stand.session()
    session.say(0)
    await node.assigned()
    ((_, lease),) = (await stand.picture()).held
    entry = node.link.table.get(lease)
    node.link._pushed = False  # what comes now waits
    node.link.take(grant_of(node.link, lease=lease, seq=entry.seq, job=entry.job, session=entry.session), None)
    node.hang_up()
    await stand.quiet()
    assert list((await stand.audit()).held) == [("n1", lease)]


async def test_a_push_that_comes_after_its_node_has_left_does_not_bring_it_back(stand):
    node = await stand.node()
    late = stand.core.cells.upsert(DEFAULT_CELL, "n1", node.link._spec())
    await stand.empty()
    node.hang_up()
    await stand.quiet()
    assert (await stand.core.ask(DEFAULT_CELL, late)).word == "stale_epoch"
    await stand.audit()


async def test_the_death_of_a_socket_sends_its_job_to_another_node(stand):
    node = await stand.node("n1")
    session = await stand.session()
    session.say(0)
    await node.assigned()
    other = await stand.node("n2")
    node.hang_up()
    other.answer(await other.assigned())
    assert await session.until_ends(1) == [(0, "result")]
    await stand.audit()


async def test_two_sockets_that_died_of_one_job_end_it_as_poison(stand):
    session = await stand.session()
    session.say(0)
    for name in ("n1", "n2"):
        node = await stand.node(name)
        await node.assigned()
        node.hang_up()  # perhaps before anybody has told the cell that it was sent
        await stand.quiet()
    assert await session.until_ends(1) == [(0, "NODE_UNAVAILABLE")]


async def test_a_higher_epoch_elsewhere_ends_the_link_at_its_next_word(stand, build):
    old = await stand.node()
    elsewhere = await build("b")
    new = await elsewhere.node()
    await stand.instance.owner_keeper.turn()
    await until(lambda: old.port.closed is not None)
    assert old.port.closed[0] == TAKEN_OVER
    old.hang_up()
    await stand.quiet()
    assert (await stand.audit()).nodes["n1"]["owner"] == "b"
    assert await stand.client.run(stand.core.owners.owner(new.link.owner_key)) == "b"


async def test_an_old_connection_that_beats_changes_nothing_and_is_closed(stand, build):
    old = await stand.node()
    elsewhere = await build("b")
    await elsewhere.node()
    old.beat()
    await until(lambda: old.port.closed is not None)
    assert (await stand.audit()).nodes["n1"]["owner"] == "b"


async def test_a_cell_that_knows_a_higher_epoch_does_not_lock_out_who_owns_the_node(stand):
    node = await stand.node()
    before = node.link.epoch
    spec = node.link._spec() | {"epoch": before + 1_000_000}
    await stand.core.ask(DEFAULT_CELL, stand.core.cells.upsert(DEFAULT_CELL, "n1", spec))
    node.beat()
    await stand.until(lambda seen: seen.nodes["n1"]["epoch"] > before + 1_000_000)
    assert node.port.closed is None
    session = await stand.session()
    session.say(0)
    node.answer(await node.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_an_answer_under_an_epoch_that_was_raised_meanwhile_still_counts(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    spec = node.link._spec() | {"epoch": node.link.epoch + 1_000_000, "class": "", "tokens": ","}
    await stand.core.ask(DEFAULT_CELL, stand.core.cells.upsert(DEFAULT_CELL, "n1", spec))
    node.answer(assign)
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_draining_node_takes_no_new_lease_and_ends_what_it_has(stand):
    node = await stand.node()
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    node.link.drain()
    await stand.until(lambda seen: seen.nodes["n1"]["class"] == "")
    assert not node.link.empty.is_set()
    session.say(1)
    await session.frame("ui_event", event="QUEUED")
    node.beat()
    await stand.until(lambda seen: seen.nodes["n1"]["class"] == "")
    node.answer(assign)
    await node.link.empty.wait()
    assert len(node.assignments) == 1


async def test_a_node_that_left_is_in_no_list_of_connected_ones(stand):
    node = await stand.node()
    keys = stand.core.keys
    assert await stand.client.run(command("SISMEMBER", keys.nodes_all, "n1"))
    node.hang_up()
    await stand.quiet()
    assert not await stand.client.run(command("SISMEMBER", keys.nodes_all, "n1"))
    assert await stand.client.run(stand.core.owners.owner(node.link.owner_key)) is None
