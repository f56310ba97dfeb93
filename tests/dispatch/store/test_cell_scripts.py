"""What each script of a cell answers, and the rules of DESIGN 3, one claim at a time."""

import asyncio
from typing import Any

import pytest

from dispatch.store.cells import Answer, Grant, HeldLease
from dispatch.store.client import RedisClient, command
from dispatch.store.script import Call
from tests.dispatch.store.driver import (
    CELL,
    KIND,
    NEVER_MS,
    OK,
    RETRY,
    TOKENS,
    Driver,
    next_millisecond,
    spec_of,
    table_of,
)

BOTH = ",en>es,es>en,"
BACK = "es>en|tenant"
FAILED = {"outcome": "failed", "reason": "PROCESSING_ERROR", "retry": False, "acked": False}


async def grown(cell: Driver, *jobs: str) -> list[Grant]:
    """These jobs, each leased at once."""
    return [await cell.leased(job) for job in jobs]


async def run_due(cell: Driver) -> None:
    """Every step that is due, and those that follow from it."""
    while (await cell.due()).body[0]:
        pass


# ---------------------------------------------------------------- the cell


async def test_a_cell_that_nobody_opened_says_so(cell: Driver):
    await cell.empty()
    calls: tuple[Call[Any], ...] = (
        cell.cells.upsert(CELL, "n1", {}),
        cell.cells.remove(CELL, "n1", epoch=1, unsent=[]),
        cell.cells.beat(CELL, "n1", {}),
        cell.cells.submit(CELL, "j1", gen=1, spec={}),
        cell.cells.sent(CELL, "n1", epoch=1, leases=[]),
        cell.cells.event(CELL, "n1", epoch=1, events=[]),
        cell.cells.finish(CELL, "j1", node="n1", epoch=1, lease="l", ending=OK),
        cell.cells.release(CELL, ["j1"]),
        cell.cells.cancel(CELL, "j1", reason=""),
        cell.cells.states(CELL, ["j1"]),
        cell.cells.due(CELL),
        cell.cells.audit(CELL),
    )
    for call in calls:
        assert (await cell.client.run(call)).word == "unopened"
    assert (await cell.picture()).parts["meta"] == {}


async def test_opening_a_cell_again_keeps_its_incarnation(cell: Driver):
    first = await cell.run(cell.cells.open(CELL))
    assert await cell.run(cell.cells.open(CELL)) == first
    await cell.empty()
    later = await cell.run(cell.cells.open(CELL))
    assert int(later) > int(first)


async def test_every_key_of_a_cell_exists_from_the_start_to_the_end(cell: Driver):
    async def missing() -> list[str]:
        names = cell.keys.cell(CELL).values()
        return [name for name in names if not await cell.client.reader.exists(name)]

    assert await missing() == []
    await cell.node()
    grant = await cell.leased()
    await cell.finish(grant)
    assert await missing() == []


async def test_an_audit_reads_the_nodes_page_by_page(cell: Driver):
    for number in range(200):
        await cell.node(f"n{number}", tokens="")
    cursor, pages = "0", 0
    while pages == 0 or cursor != "0":
        page = (await cell.run(cell.cells.audit(CELL, cursor))).body
        assert page.faults == []
        cursor, pages = page.cursor, pages + 1
    assert pages > 1


async def test_an_audit_names_what_is_untrue(cell: Driver):
    await cell.node()
    await cell.client.reader.zrem(cell.keys.cell(CELL)["free"], "classen>es n1")
    faults = (await cell.run(cell.cells.audit(CELL))).body.faults
    assert "node n1 is missing in free" in faults
    assert any("free_counts" in fault for fault in faults)


# ---------------------------------------------------------------- submit


async def test_a_job_goes_to_a_free_node_at_once(cell: Driver):
    await cell.node(owner="b", epoch=7)
    answer = await cell.submit(index=3, origin="a")
    (grant,) = answer.news.grants
    assert answer.word == "assigned"
    assert answer.body.state == "DISPATCHED"
    assert answer.body.lease == grant.lease
    assert grant == Grant("n1", "b", 7, grant.lease, 1, "j1", 1, "session-j1", 3, "a")
    await cell.check()


async def test_a_job_waits_when_every_fitting_node_is_busy(cell: Driver):
    await cell.node()
    await cell.node("other", tokens=",fr>de,")
    await grown(cell, "j1")
    positions = [(await cell.submit(job)).body.position for job in ("j2", "j3")]
    assert positions == [1, 2]
    assert (await cell.submit("j3")).body.able == 1
    await cell.check()


async def test_the_same_request_makes_one_attempt(cell: Driver):
    await cell.node(limit=5)
    answers = await asyncio.gather(*(cell.submit() for _ in range(20)))
    assert {answer.word for answer in answers} == {"assigned"}
    assert len({answer.body.lease for answer in answers}) == 1
    assert len((await cell.check()).held) == 1


async def test_a_later_generation_starts_afresh_and_the_old_attempt_keeps_its_slot(cell: Driver):
    await cell.node(limit=2)
    old = await cell.leased()
    answer = await cell.submit(gen=2)
    assert answer.word == "queued"  # never to a node that still works on it
    seen = await cell.check()
    assert seen.held["n1", old.lease]["state"] == "zombie"
    assert (await cell.submit(gen=1)).word == "queued"


async def test_a_later_generation_of_a_waiting_job_waits_once(cell: Driver):
    await cell.node()
    await grown(cell, "j1")
    await cell.submit("j2")
    await cell.submit("j3")
    assert (await cell.submit("j2", gen=2)).body.position == 2
    await cell.check()


async def test_a_finished_job_answers_with_its_outcome(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.finish(grant)
    answer = await cell.submit()
    assert (answer.word, answer.body.outcome, answer.body.lease) == ("finished", "ok", grant.lease)


@pytest.mark.parametrize(("tokens", "reason"), [(None, "no_node"), ("", "no_ready_node"), (",fr>de,", "lacks en>es")])
async def test_what_no_node_could_ever_do_is_refused_with_its_reason(cell: Driver, tokens: str | None, reason: str):
    if tokens is not None:
        await cell.node(tokens=tokens)
    answer = await cell.submit()
    assert (answer.word, answer.body.reason) == ("refused", reason)
    await cell.node("late")
    assert (await cell.submit()).word == "refused"  # it stays refused, however often it is asked
    await cell.check()


async def test_a_young_cell_queues_what_an_old_one_would_refuse(cell: Driver):
    answer = await cell.under(young_ms=NEVER_MS).submit()
    assert (answer.word, answer.body.able) == ("queued", 0)
    (grant,) = (await cell.node()).news.grants
    assert grant.job == "j1"


async def test_a_full_line_refuses_what_would_have_to_wait(cell: Driver):
    short = cell.under(max_waiting=1)
    await short.node()
    await short.node("back", tokens=",es>en,")
    await grown(short, "j1")
    assert (await short.submit("j2")).word == "queued"
    answer = await short.submit("j3")
    assert (answer.word, answer.body.reason) == ("refused", "line_full")
    assert (await short.submit("j4", kind=BACK)).word == "assigned"
    await cell.check()


@pytest.mark.parametrize("hints", [[], ["gone"], ["classen>es"]])
async def test_a_stale_hint_never_hides_a_free_node(cell: Driver, hints: list[str]):
    await cell.node()
    assert (await cell.submit(hints=hints)).word == "assigned"


async def test_the_narrowest_class_that_fits_is_taken(cell: Driver):
    await cell.node("versatile", tokens=BOTH)
    await cell.node("narrow")
    assert (await cell.leased()).node == "narrow"


async def test_a_free_node_is_found_among_many_that_are_excluded(cell: Driver):
    patient = cell.under(tries=1000)
    for number in range(30):
        await patient.node(f"n{number}")
    grant = await patient.leased()
    seen = [grant.node]
    while grants := (await patient.finish(grant, RETRY)).news.grants:
        (grant,) = grants
        seen.append(grant.node)
    assert len(seen) == len(set(seen)) == 30


async def test_the_least_loaded_node_of_the_draw_is_taken(cell: Driver):
    await cell.node("n1", limit=4)
    await cell.node("n2", limit=4)
    taken = [grant.node for grant in await grown(cell, *(f"j{number}" for number in range(8)))]
    assert sorted(taken[:2]) == sorted(taken[2:4]) == ["n1", "n2"]


async def test_a_node_without_beats_is_skipped_and_taken_out(cell: Driver):
    await cell.node("silent")
    await cell.node("lively")
    hasty = cell.under(stale_ms=-1)
    assert (await hasty.submit()).word == "queued"
    assert (await cell.picture()).parts["free"] == {}
    (grant,) = (await cell.beat("lively")).news.grants
    assert grant.node == "lively"
    await cell.check()


async def test_a_node_whose_instance_died_is_forgotten_after_a_job_has_met_it(cell: Driver):
    """Nobody takes it out, and it must not count as able for ever."""
    await cell.node()
    hasty = cell.under(stale_ms=-1, grace_ms=0)
    assert (await hasty.submit()).body.able == 1
    await run_due(hasty)
    assert (await cell.state()).able == 0
    assert (await cell.check()).nodes == {}
    assert (await cell.beat()).word == "missing"  # if it lives after all, its owner puts it in again


async def test_a_silent_node_that_is_heard_again_stays(cell: Driver):
    await cell.node()
    await cell.under(stale_ms=-1).submit()
    (grant,) = (await cell.beat()).news.grants
    assert "gone n1" not in (await cell.check()).due
    await cell.finish(grant)
    await cell.under(stale_ms=-1).submit("j2")
    assert len((await cell.node()).news.grants) == 1
    assert "gone n1" not in (await cell.check()).due


async def test_a_zombie_that_ends_at_a_silent_node_brings_it_no_new_work(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.under(ceiling_ms=0).sent(grant)
    await cell.submit("j2")
    await run_due(cell.under(stale_ms=-1))
    seen = await cell.check()
    assert not seen.held
    assert set(seen.waiting) == {"j1", "j2"}


# ---------------------------------------------------------------- the line


async def test_a_freed_slot_goes_to_the_one_who_waited_longest(cell: Driver):
    await cell.node()
    (grant,) = await grown(cell, "j1")
    for job in ("j3", "j2", "j4"):
        await cell.submit(job)
    served = []
    for _ in range(3):
        (grant,) = (await cell.finish(grant)).news.grants
        served.append(grant.job)
    assert served == ["j3", "j2", "j4"]
    await cell.check()


async def test_the_oldest_head_among_the_kinds_is_served(cell: Driver):
    await cell.node(tokens=BOTH)
    (grant,) = await grown(cell, "j1")
    await cell.submit("j2", kind=BACK)
    await cell.submit("j3")
    served = [grant := (await cell.finish(grant)).news.grants[0] for _ in range(2)]
    assert [each.job for each in served] == ["j2", "j3"]


async def test_a_superseded_job_is_again_in_front(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.submit("j2")
    await cell.remove(unsent=[grant.lease])
    assert (await cell.state("j1")).position == 1
    (served,) = (await cell.node(epoch=2)).news.grants
    assert served.job == "j1"
    await cell.check()


async def test_a_head_that_a_node_may_not_have_is_passed_over(cell: Driver):
    await cell.node("n1")
    await cell.node("n2")
    first, second = await grown(cell, "j1", "j2")
    await cell.submit("j3")
    (third,) = (await cell.finish(first, RETRY)).news.grants
    assert third.job == "j3"
    assert third.node == first.node
    (again,) = (await cell.finish(second)).news.grants
    assert again.job == "j1"
    assert again.node == second.node


async def test_a_slot_that_the_gate_gives_back_goes_to_the_oldest(cell: Driver):
    await cell.node("n1")
    await cell.under(unsent_ms=0).leased("old")
    await cell.node("n2")
    young = await cell.leased("young")
    await cell.due()
    answer = await cell.event(young, "not_sent", "full")
    assert [(grant.node, grant.job) for grant in answer.news.grants] == [("n2", "old")]
    assert (await cell.check()).waiting == ["young"]


async def test_a_waiting_job_that_nobody_asks_for_ends(cell: Driver):
    await cell.node()
    await grown(cell, "j1")
    await cell.submit("j2", orphan_ms=0)
    answer = await cell.due()
    (ending,) = answer.news.endings
    assert (ending.job, ending.outcome) == ("j2", "timed_out")
    assert (await cell.picture()).parts["line"] == {}


# ---------------------------------------------------------------- leases and zombies


async def test_a_lease_that_nobody_sent_goes_elsewhere_and_still_holds_its_slot(cell: Driver):
    await cell.node("n1")
    grant = await cell.under(unsent_ms=0).leased()
    await cell.node("n2")
    answer = await cell.due()
    assert [(each.node, each.job, each.attempt) for each in answer.news.grants] == [("n2", "j1", 2)]
    assert [(each.node, each.lease) for each in answer.news.cancels] == [("n1", grant.lease)]
    seen = await cell.check()
    assert seen.held["n1", grant.lease]["state"] == "zombie"
    assert seen.jobs["j1"]["tries"] == 0  # nobody is to blame


async def test_a_zombie_that_was_never_sent_ends_when_its_owner_says_so(cell: Driver):
    await cell.node()
    grant = await cell.under(unsent_ms=0).leased()
    await cell.due()
    (again,) = (await cell.event(grant, "not_sent")).news.grants
    assert again.job == "j1"


async def test_a_zombie_that_was_never_sent_ends_with_its_socket(cell: Driver):
    await cell.node()
    grant = await cell.under(unsent_ms=0).leased()
    await cell.due()
    await cell.remove(unsent=[grant.lease])
    assert not (await cell.check()).held


async def test_a_zombie_holds_its_slot(cell: Driver):
    await cell.node()
    grant = await cell.leased(exec_ms=0)
    await cell.sent(grant)
    await cell.due()
    await cell.submit("j2")
    assert (await cell.due()).body == (0,)
    assert set((await cell.check()).waiting) == {"j1", "j2"}


async def test_a_zombie_ends_at_its_ceiling(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.under(ceiling_ms=0).sent(grant)
    assert (await cell.due()).news.grants == []  # it is a zombie now
    (again,) = (await cell.due()).news.grants
    assert again.job == "j1"
    assert set((await cell.check()).held) == {("n1", again.lease)}


async def test_an_attempt_past_its_time_counts_and_is_told_to_stop(cell: Driver):
    await cell.node("n1")
    grant = await cell.leased(exec_ms=0)
    await cell.sent(grant)
    (cancel,) = (await cell.due()).news.cancels
    assert (cancel.node, cancel.lease, cancel.reason) == ("n1", grant.lease, "JOB_TIMEOUT")
    assert (await cell.picture()).jobs["j1"]["tries"] == 1


async def test_a_job_ends_after_its_last_attempt(cell: Driver):
    brief = cell.under(tries=1)
    await brief.node()
    grant = await brief.leased(exec_ms=0)
    await brief.sent(grant)
    (ending,) = (await brief.due()).news.endings
    assert (ending.job, ending.outcome, ending.reason) == ("j1", "timed_out", "JOB_TIMEOUT")


async def test_only_a_node_that_ever_acknowledged_has_to_do_so_again(cell: Driver):
    hasty = cell.under(ack_ms=0)
    await hasty.node(limit=2)
    mute = await hasty.leased("j1")
    await hasty.sent(mute)
    assert (await hasty.due()).body == (0,)
    await hasty.event(mute, "acked")
    silent = await hasty.leased("j2")
    await hasty.sent(silent)
    assert [cancel.lease for cancel in (await hasty.due()).news.cancels] == [silent.lease]


async def test_a_superseded_success_counts_while_nobody_else_was_granted(cell: Driver):
    await cell.node()
    grant = await cell.leased(exec_ms=0)
    await cell.sent(grant)
    await cell.due()
    assert (await cell.finish(grant)).word == "applied"
    assert (await cell.state()).outcome == "ok"
    assert not (await cell.check()).waiting


async def test_a_superseded_failure_counts_for_nothing(cell: Driver):
    await cell.node()
    grant = await cell.leased(exec_ms=0)
    await cell.sent(grant)
    await cell.due()
    answer = await cell.finish(grant, FAILED)
    assert answer.word == "stale_lease"
    assert [each.job for each in answer.news.grants] == ["j1"]


async def test_a_success_after_a_newer_lease_was_granted_is_stale(cell: Driver):
    await cell.node("n1")
    grant = await cell.leased(exec_ms=0)
    await cell.sent(grant)
    await cell.node("n2")
    (newer,) = (await cell.due()).news.grants
    assert (await cell.finish(grant)).word == "stale_lease"
    assert (await cell.finish(newer)).word == "applied"
    assert not (await cell.check()).held


async def test_a_lease_is_ended_only_for_its_own_job_and_node(cell: Driver):
    await cell.node("n1")
    await cell.node("n2")
    first, second = await grown(cell, "j1", "j2")
    stolen = Grant(first.node, "a", 1, second.lease, 1, "j2", 1, "s", 0, "a")
    mixed = Grant(first.node, "a", 1, first.lease, 1, "j2", 1, "s", 0, "a")
    for grant in (stolen, mixed):
        assert (await cell.finish(grant)).word == "stale_lease"
        assert (await cell.event(grant, "not_sent")).body == ["ALREADY"]
        assert (await cell.event(grant, "started")).body == ["STALE_LEASE"]
    assert len((await cell.check()).held) == 2


async def test_two_leases_never_share_a_name_though_a_call_is_repeated(cell: Driver):
    await cell.node(limit=4)
    call = cell.cells.due(CELL, limit=1)
    for job in ("j1", "j2"):
        await cell.under(unsent_ms=0).leased(job)
    await cell.node("n2", limit=4)
    leases = [grant.lease for _ in range(2) for grant in (await cell.run(call)).news.grants if grant.node == "n2"]
    assert len(set(leases)) == 2
    await cell.check()


# ---------------------------------------------------------------- sent, events, finish


async def test_sent_answers_for_each_lease(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    assert (await cell.sent(grant)).body == ["APPLIED"]
    assert (await cell.sent(grant)).body == ["ALREADY"]
    await cell.finish(grant)
    assert (await cell.sent(grant)).body == ["STALE_LEASE"]


async def test_events_move_a_job_once(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    assert (await cell.event(grant, "acked")).body == ["APPLIED"]
    assert (await cell.state()).state == "ACCEPTED"
    assert (await cell.event(grant, "acked")).body == ["ALREADY"]
    assert (await cell.event(grant, "started")).body == ["APPLIED"]
    assert (await cell.state()).state == "RUNNING"
    assert (await cell.event(grant, "progress")).body == ["ALREADY"]
    await cell.check()


async def test_a_node_may_start_without_acknowledging(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    assert (await cell.event(grant, "started")).body == ["APPLIED"]
    assert (await cell.check()).held["n1", grant.lease]["state"] == "sent"


async def test_events_of_what_is_over_change_nothing(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.finish(grant)
    assert (await cell.event(grant, "started")).body == ["STALE_LEASE"]
    assert (await cell.event(grant, "not_sent")).body == ["ALREADY"]
    unknown = Grant("n1", "a", 1, "l", 1, "nobody", 1, "s", 0, "a")
    assert (await cell.event(unknown, "acked")).body == ["MISSING"]


@pytest.mark.parametrize("epoch", [1, 3])
async def test_another_epoch_is_fenced_and_told_the_right_one(cell: Driver, epoch: int):
    await cell.node(epoch=2)
    grant = await cell.leased()
    other = Grant("n1", "a", epoch, grant.lease, 1, "j1", 1, "s", 0, "a")
    answers: list[Answer[Any]] = [await cell.sent(other), await cell.event(other, "acked"), await cell.finish(other)]
    answers += [await cell.remove(epoch=epoch), await cell.beat(epoch=epoch)]
    assert [(answer.word, answer.body) for answer in answers] == [("fenced", [2])] * 5
    assert len((await cell.check()).held) == 1


async def test_a_node_that_the_cell_does_not_know_is_missing(cell: Driver):
    nobody = Grant("n9", "a", 1, "l", 1, "j1", 1, "s", 0, "a")
    answers: list[Answer[Any]] = [await cell.sent(nobody), await cell.event(nobody, "acked"), await cell.finish(nobody)]
    answers.append(await cell.beat("n9"))
    assert {answer.word for answer in answers} == {"missing"}


async def test_a_node_that_has_left_is_not_put_in_by_a_push_that_comes_later(cell: Driver):
    assert (await cell.remove()).word == "ok"
    assert (await cell.node()).word == "stale_epoch"
    await cell.check()
    assert (await cell.node(epoch=2)).word == "ok"
    hasty = cell.under(grace_ms=0)
    assert (await hasty.remove(epoch=2)).word == "ok"
    await hasty.due()
    assert (await cell.check()).nodes == {}


async def test_a_result_ends_the_job_and_a_second_one_is_already_known(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    assert (await cell.finish(grant)).word == "applied"
    assert (await cell.finish(grant)).word == "already"
    other = Grant("n1", "a", 1, "other", 1, "j1", 1, "s", 0, "a")
    assert (await cell.finish(other)).word == "stale_lease"


async def test_a_failure_that_another_node_may_mend_goes_there_and_never_back(cell: Driver):
    await cell.node("n1")
    await cell.node("n2")
    first = await cell.leased()
    answer = await cell.finish(first, RETRY)
    (second,) = answer.news.grants
    assert answer.word == "retried"
    assert second.node != first.node
    seen = await cell.check()
    assert seen.jobs["j1"]["excluded"] == {first.node: True}
    assert (await cell.finish(second, RETRY)).word == "applied"  # nobody is left
    assert (await cell.state()).outcome == "failed"


async def test_an_answer_made_twice_tells_twice_who_is_to_try_next(cell: Driver):
    await cell.node("n1")
    await cell.node("n2")
    grant = await cell.leased()
    first, second = await cell.finish(grant, RETRY), await cell.finish(grant, RETRY)
    assert (first.word, second.word) == ("retried", "stale_lease")
    assert first.news.grants == second.news.grants != []


async def test_a_node_that_refused_and_left_does_not_count_among_those_who_could(cell: Driver):
    patient = cell.under(tries=100, grace_ms=0)
    await patient.node("n1")
    first = await patient.leased("j1")
    await patient.node("n2")
    (second,) = (await patient.finish(first, RETRY)).news.grants
    await patient.remove("n1")
    await patient.due()
    await patient.node("n3")
    busy = await patient.leased("j2")
    assert (await patient.finish(second, RETRY)).word == "retried"  # n3 has something else to do, and is able
    (third,) = (await patient.finish(busy)).news.grants
    assert (third.job, third.node) == ("j1", "n3")
    await cell.check()


# ---------------------------------------------------------------- poison and the index rule


async def test_two_dead_sockets_are_poison(cell: Driver):
    await cell.node("n1")
    await cell.node("n2")
    first = await cell.leased()
    await cell.sent(first)
    (second,) = (await cell.remove(first.node)).news.grants
    await cell.sent(second)
    (ending,) = (await cell.remove(second.node)).news.endings
    assert (ending.job, ending.outcome) == ("j1", "poison")
    assert (await cell.state()).outcome == "poison"
    await cell.check()


async def test_a_reconnect_and_an_unsent_lease_are_nobodys_fault(cell: Driver):
    await cell.node("n1")
    first = await cell.leased()
    await cell.remove(first.node)
    assert (await cell.picture()).jobs["j1"]["deaths"] == 0
    await cell.node("n2")
    (second,) = (await cell.beat("n2")).news.grants
    await cell.sent(second)
    await cell.node("n2", epoch=2)
    job = (await cell.picture()).jobs["j1"]
    assert (job["deaths"], job["tries"]) == (0, 0)


async def test_an_overtaken_index_is_not_leased_to_a_younger_connection(cell: Driver):
    """A real node refuses an index that is not higher than the last it got of that session."""
    await cell.node("busy")
    await cell.leased("filler")
    await cell.submit("early", session="s", index=1)
    await cell.node("back", tokens=",es>en,")
    await cell.leased("late", session="s", index=2, kind=BACK)
    next_millisecond()
    answer = await cell.node("young")
    assert answer.news.grants == []
    assert "early" in (await cell.check()).waiting


async def test_a_caller_that_does_not_know_of_the_loss_is_told_before_anything_is_taken_in(cell: Driver):
    await cell.node()
    assert (await cell.submit(life="1")).word == "other_life"
    assert not (await cell.check()).jobs


async def plugged(cell: Driver, sessions: int) -> None:
    """As many jobs wait as there are sessions, all overtaken: none of them may go to a younger connection."""
    await cell.node("busy")
    await cell.leased("filler")
    await cell.node("back", tokens=",es>en,", limit=64)
    for number in range(sessions):
        await cell.submit(f"early-{number:02}", session=f"s{number}", index=1)
        await cell.leased(f"late-{number:02}", session=f"s{number}", index=2, kind=BACK)
    next_millisecond()


async def test_a_free_slot_is_used_though_sixteen_in_front_may_not_have_it(cell: Driver):
    await plugged(cell, 18)
    await cell.node("young")
    answer = await cell.submit("new", session="other")
    assert [(grant.job, grant.node) for grant in answer.news.grants] == [("new", "young")]


async def test_who_moves_up_into_the_sixteen_is_served_at_once(cell: Driver):
    await plugged(cell, 16)
    await cell.submit("seventeenth", session="other")
    assert (await cell.node("young")).news.grants == []
    answer = await cell.cancel("early-00")
    assert [(grant.job, grant.node) for grant in answer.news.grants] == [("seventeenth", "young")]


async def test_a_late_answer_that_ends_a_waiting_job_moves_another_up(cell: Driver):
    await cell.node("n0")
    late = await cell.leased("answered-late", session="s", index=1)
    await cell.sent(late)
    await cell.node("back", tokens=",es>en,", limit=64)
    await cell.leased("overtaker", session="s", index=2, kind=BACK)
    await cell.remove("n0")
    for number in range(15):
        await cell.submit(f"early-{number:02}", session=f"s{number}", index=1)
        await cell.leased(f"late-{number:02}", session=f"s{number}", index=2, kind=BACK)
    await cell.submit("seventeenth", session="other")
    next_millisecond()
    assert (await cell.node("young")).news.grants == []
    await cell.node("n0", epoch=2, tokens=",fr>de,")
    answer = await cell.finish(late, epoch=2)
    assert answer.word == "applied"
    assert [(grant.job, grant.node) for grant in answer.news.grants] == [("seventeenth", "young")]


async def test_an_index_that_nobody_overtook_is_leased_to_a_younger_connection(cell: Driver):
    await cell.node("busy")
    await cell.leased("filler")
    await cell.submit("early", session="s", index=1)
    next_millisecond()
    assert [grant.job for grant in (await cell.node("young")).news.grants] == ["early"]


async def test_a_gate_that_refuses_the_index_excludes_the_node(cell: Driver):
    await cell.node("n1")
    first = await cell.leased()
    await cell.node("n2")
    answer = await cell.event(first, "not_sent", "index")
    assert [grant.node for grant in answer.news.grants] == ["n2"]
    (ending,) = (await cell.event(answer.news.grants[0], "not_sent", "index")).news.endings
    assert (ending.outcome, ending.reason) == ("failed", "NO_AVAILABLE_NODE")
    assert not (await cell.check()).held


async def test_an_index_refused_after_the_job_was_released_changes_nothing(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.cancel()
    await cell.release("j1")
    assert (await cell.event(grant, "not_sent", "index")).body == ["APPLIED"]
    assert not (await cell.check()).held


# ---------------------------------------------------------------- loss of all data


async def test_what_a_node_works_on_keeps_its_slot_though_all_data_is_lost(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.sent(grant)
    await cell.empty()
    answer = await cell.node(table=table_of(grant))
    assert [(held.lease, held.state) for held in answer.body.leases] == [(grant.lease, "sent")]
    assert (await cell.submit("j2")).word == "queued"
    await cell.check()


async def test_a_job_submitted_again_adopts_the_attempt_that_runs(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.sent(grant)
    await cell.empty()
    await cell.node(table=table_of(grant))
    answer = await cell.submit()
    assert (answer.word, answer.body.lease, answer.news.grants) == ("assigned", grant.lease, [])
    assert (await cell.check()).parts["foreign"] == {}
    assert (await cell.finish(grant)).word == "applied"


async def test_an_adopted_attempt_runs_out_with_its_ceiling_at_the_latest(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.empty()
    await cell.node(table=[(grant.lease, "j1", "sent", 0, 1)])
    await cell.submit()
    await cell.due()
    assert (await cell.check()).waiting == ["j1"]


async def test_of_several_attempts_the_latest_is_adopted_and_the_others_are_zombies(cell: Driver):
    await cell.empty()
    await cell.node("n1", table=[("old", "j1", "sent", 1000.0, 1)])
    await cell.node("n2", table=[("new", "j1", "sent", 2000.0, 1)])
    await cell.node("n3", table=[("dead", "j1", "zombie", 3000.0, 1)])
    assert (await cell.submit()).body.lease == "new"
    states = {lease: held["state"] for (_, lease), held in (await cell.check()).held.items()}
    assert states == {"old": "zombie", "new": "sent", "dead": "zombie"}


async def test_a_foreign_attempt_ends_with_its_answer(cell: Driver):
    await cell.empty()
    await cell.node(limit=3, table=[("l1", "j1", "sent", 1e6, 1), ("l2", "j1", "zombie", 1e6, 2)])
    foreign = Grant("n1", "a", 1, "l1", 1, "j1", 1, "s", 0, "a")
    assert (await cell.finish(foreign)).word == "missing"
    seen = await cell.check()
    assert set(seen.held) == {("n1", "l2")}
    assert seen.parts["foreign"] == {"j1": {"l2": "n1"}}


async def test_a_session_that_is_faster_than_the_owner_frees_no_slot(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.sent(grant)
    await cell.empty()
    await cell.under(young_ms=NEVER_MS).submit()
    answer = await cell.node(table=table_of(grant))
    assert answer.body.over == []
    assert answer.news.grants == []
    assert (await cell.check()).waiting == ["j1"]
    assert (await cell.finish(grant)).word == "applied"


async def test_a_lease_that_the_cell_ended_is_over(cell: Driver):
    strict = cell.under(presence_ms=0)  # else a cell so young would rather hold it
    await strict.node()
    grant = await strict.leased()
    await strict.finish(grant)
    answer = await strict.node(table=table_of(grant))
    assert answer.body.over == [grant.lease]
    assert not (await cell.check()).held


async def test_an_attempt_that_a_failover_made_the_cell_forget_holds_its_slot(cell: Driver):
    """Replication is asynchronous: a replica that becomes master may lack the latest, under the same incarnation."""
    names = cell.keys.cell(CELL).values()
    strict = cell.under(presence_ms=0)  # else a cell so young would rather hold it
    await strict.node(tokens="")
    await strict.under(young_ms=NEVER_MS).submit()
    replica = [await cell.client.run(command("DUMP", name)) for name in names]
    (grant,) = (await strict.node()).news.grants
    await strict.sent(grant)
    for name, copy in zip(names, replica, strict=True):
        await cell.client.run(command("RESTORE", name, 0, copy, "REPLACE"))
    answer = await strict.node(seq=grant.seq, table=table_of(grant))
    assert answer.body.over == []
    assert answer.news.grants == []
    assert [lease for _, lease in (await cell.check()).held] == [grant.lease]
    assert (await cell.finish(grant)).word == "applied"


async def test_a_sequence_never_goes_back(cell: Driver):
    """A beat echoes it, so a number that came again would end what is on its way."""
    await cell.empty()
    assert (await cell.node(seq=41)).body.seq == 41
    assert (await cell.leased()).seq == 42


# ---------------------------------------------------------------- nodes


async def test_an_older_connection_is_refused_and_told_the_epoch(cell: Driver):
    await cell.node(epoch=5)
    answer: Answer[Any] = await cell.node(epoch=4)
    assert (answer.word, answer.body) == ("stale_epoch", [5])


async def test_a_connection_that_was_taken_out_does_not_come_back(cell: Driver):
    await cell.node()
    await cell.remove()
    assert (await cell.node()).word == "stale_epoch"
    assert (await cell.beat()).word == "fenced"
    assert (await cell.node(epoch=2)).word == "ok"
    await cell.check()


async def test_a_new_connection_learns_all_that_the_cell_holds_for_its_node(cell: Driver):
    await cell.node(limit=3)
    sent, granted = await grown(cell, "j1", "j2")
    await cell.sent(sent)
    view = (await cell.node(epoch=2, limit=3)).body
    assert {(held.lease, held.state) for held in view.leases} == {(sent.lease, "zombie"), (granted.lease, "zombie")}
    assert all(isinstance(held, HeldLease) and held.ceiling_left_ms > 0 for held in view.leases)
    assert set((await cell.check()).waiting) == {"j1", "j2"}


async def test_a_node_that_lists_its_work_frees_the_other_slots(cell: Driver):
    await cell.node(limit=2)
    kept, lost = await grown(cell, "j1", "j2")
    await cell.sent(kept, lost)
    answer = await cell.node(epoch=2, limit=2, known=[kept.lease])
    assert answer.body.over == [lost.lease]
    assert [grant.job for grant in answer.news.grants] == ["j2"]
    await cell.check()


async def test_every_answer_to_an_owner_tells_what_it_has_not_sent(cell: Driver):
    await cell.node(limit=3)
    sent, grant = await grown(cell, "j1", "j2")
    answers: list[Answer[Any]] = [
        await cell.sent(sent),
        await cell.event(sent, "started"),
        await cell.beat(),
        await cell.node(limit=3),
        await cell.finish(sent),
    ]
    assert [[each.lease for each in answer.news.grants] for answer in answers] == [[grant.lease]] * 5


async def test_jobs_wait_through_a_short_reconnect_and_are_refused_after_the_grace(cell: Driver):
    hasty = cell.under(grace_ms=0)
    await hasty.node()
    await hasty.remove()
    assert (await hasty.submit("j1")).word == "queued"
    await hasty.due()
    assert (await hasty.submit("j2")).word == "refused"
    assert (await cell.check()).nodes == {}


async def test_a_gone_node_is_kept_while_it_may_still_work(cell: Driver):
    hasty = cell.under(grace_ms=0)
    await hasty.node()
    grant = await hasty.leased()
    await hasty.sent(grant)
    await hasty.remove()
    await hasty.due()
    assert set((await cell.check()).nodes) == {"n1"}
    await cell.finish(grant)
    assert (await cell.check()).nodes == {}


async def test_a_change_of_class_serves_the_line(cell: Driver):
    await cell.node(tokens=",fr>de,")
    young = cell.under(young_ms=NEVER_MS)
    await young.submit()
    (grant,) = (await cell.beat(tokens=BOTH)).news.grants
    assert grant.job == "j1"
    await cell.beat(tokens="")
    seen = await cell.check()
    assert seen.parts["members"] == {}
    assert len(seen.held) == 1  # what it works on is another matter


async def test_a_higher_limit_serves_the_line(cell: Driver):
    await cell.node()
    await cell.leased()
    await cell.submit("j2")
    assert [grant.job for grant in (await cell.node(limit=2)).news.grants if grant.seq == 2] == ["j2"]


async def test_work_that_nobody_knows_of_holds_slots_until_the_next_beat(cell: Driver):
    await cell.node(limit=3)
    sent = await cell.leased()
    await cell.sent(sent)
    await cell.beat(running=3)
    assert (await cell.submit("j2")).word == "queued"
    await cell.check()
    (grant,) = (await cell.beat(running=1)).news.grants
    assert grant.job == "j2"


async def test_a_beat_tells_which_zombies_to_stop(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.sent(grant)
    await cell.cancel()
    assert [(zombie.lease, zombie.job) for zombie in (await cell.beat()).body] == [(grant.lease, "j1")]


async def test_a_beat_ends_what_the_node_no_longer_knows_up_to_the_echoed_sequence(cell: Driver):
    await cell.node(limit=3)
    known, lost, under_way = await grown(cell, "j1", "j2", "j3")
    await cell.sent(known, lost, under_way)
    answer = await cell.beat(known=[known.lease], seq=lost.seq)
    assert [grant.job for grant in answer.news.grants] == ["j2"]
    seen = await cell.check()
    assert seen.jobs["j2"]["tries"] == 1
    assert {("n1", known.lease), ("n1", under_way.lease)} <= set(seen.held)
    assert ("n1", lost.lease) not in seen.held


# ---------------------------------------------------------------- cancel, release, retention


async def test_a_waiting_job_that_is_cancelled_leaves_its_line(cell: Driver):
    await cell.node()
    await grown(cell, "j1")
    await cell.submit("j2")
    answer = await cell.cancel("j2")
    assert (answer.word, answer.news.cancels) == ("applied", [])
    assert (await cell.check()).waiting == []


async def test_a_running_job_that_is_cancelled_holds_its_slot_until_the_node_says_so(cell: Driver):
    await cell.node(owner="b")
    grant = await cell.leased()
    await cell.sent(grant)
    (cancel,) = (await cell.cancel("j1", "USER_LEFT")).news.cancels
    assert (cancel.owner, cancel.lease, cancel.reason) == ("b", grant.lease, "USER_LEFT")
    assert (await cell.submit("j2")).word == "queued"
    answer = await cell.finish(grant)
    assert answer.word == "stale_lease"
    assert [each.job for each in answer.news.grants] == ["j2"]
    assert (await cell.state("j1")).outcome == "cancelled"


async def test_what_is_over_is_not_cancelled(cell: Driver):
    await cell.node()
    await cell.finish(await cell.leased())
    answer = await cell.cancel()
    assert (answer.word, answer.body) == ("already", ["FINISHED", "ok"])
    assert (await cell.cancel("nobody")).word == "missing"


async def test_states_come_in_the_order_asked(cell: Driver):
    await cell.node()
    await grown(cell, "j1")
    await cell.submit("j2")
    answer = await cell.run(cell.cells.states(CELL, ["j2", "nobody", "j1"]))
    assert [state[0] if state else None for state in answer.body] == ["CREATED", None, "DISPATCHED"]
    assert (await cell.run(cell.cells.states(CELL, []))).body == []


async def test_a_released_job_still_answers_until_its_retention_ends(cell: Driver):
    await cell.node()
    grant = await cell.leased()
    await cell.finish(grant)
    await cell.release("j1", "nobody")
    assert (await cell.state()).state == "RELEASED"
    assert (await cell.submit()).word == "finished"
    assert (await cell.finish(grant)).word == "already"
    await cell.under(retention_ms=0).release("j1")
    assert (await cell.due()).body == (0,)  # the first release counts


async def test_a_result_that_nobody_came_for_is_released(cell: Driver):
    hasty = cell.under(unclaimed_ms=0)
    await hasty.node()
    await hasty.finish(await hasty.leased())
    await hasty.due()
    assert (await cell.state()).state == "RELEASED"


async def test_nothing_is_left_when_everything_is_over(cell: Driver):
    over = cell.under(retention_ms=0, grace_ms=0)
    await over.node("n1", limit=2)
    await over.node("n2")
    first, second, third = await grown(over, "j1", "j2", "j3")
    await over.submit("j4")
    await over.submit("j5", kind=BACK)
    await over.finish(second, FAILED)
    await over.cancel("j1")
    await over.finish(third)
    await over.event(first, "not_sent")
    lease = (await over.state("j4")).lease
    await over.finish(Grant((await over.state("j4")).node, "a", 1, lease, 1, "j4", 1, "s", 0, "a"))
    await over.release("j1", "j2", "j3", "j4", "j5")
    await over.remove("n1")
    await over.remove("n2")
    await run_due(over)
    left = await cell.check()
    assert left.is_empty, left.parts


async def test_due_steps_are_taken_in_pages(cell: Driver):
    for number in range(5):
        await cell.under(young_ms=NEVER_MS).submit(f"j{number}", orphan_ms=0)
    assert [(await cell.due(2)).body[0] for _ in range(4)] == [2, 2, 1, 0]


async def test_answers_are_the_same_in_one_flush(client: RedisClient, cell: Driver):
    calls = [cell.cells.submit(CELL, f"j{number}", gen=1, spec=spec_of(f"j{number}", kind=KIND)) for number in range(3)]
    await cell.node(tokens=TOKENS)
    answers = await client.flush(*calls)
    assert sorted(answer.word for answer in answers) == ["assigned", "queued", "queued"]
