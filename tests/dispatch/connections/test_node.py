"""The second gate: never more than the limit, in sequence, each lease once, whatever the cell says (DESIGN 3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.connections.node import Gate, LeaseTable
from dispatch.store.cells import Grant, HeldLease

CEILING = 120.0


@pytest.fixture
def table() -> LeaseTable:
    return table_of()


def table_of(limit: int = 2) -> LeaseTable:
    return LeaseTable(epoch=7, limit=limit, ceiling=CEILING)


def grant(seq: int, *, index: int | None = None, session: str = "s", epoch: int = 7, lease: str = "") -> Grant:
    return Grant(
        node="n",
        owner="a",
        epoch=epoch,
        lease=lease or f"l{seq}",
        seq=seq,
        job=f"j{seq}",
        attempt=1,
        session=session,
        index=seq if index is None else index,
        origin="a",
    )


def held(lease: str, state: str, *, seq: int = 1, left_ms: float = 5000.0) -> HeldLease:
    return HeldLease(lease=lease, job=f"job-{lease}", state=state, seq=seq, ceiling_left_ms=left_ms)


# --- the gate -----------------------------------------------------------------------------------------------------


def test_the_next_in_sequence_may_be_sent(table):
    assert table.offer(grant(1)) is Gate.SEND


def test_a_grant_of_another_epoch_never_may(table):
    assert table.offer(grant(1, epoch=6)) is Gate.OTHER_EPOCH
    assert table.offer(grant(1, epoch=8)) is Gate.OTHER_EPOCH


def test_a_lease_that_was_sent_is_known_and_not_sent_again(table):
    table.sent(grant(1), now=0.0)
    assert table.offer(grant(1)) is Gate.KNOWN


def test_a_lease_that_has_ended_is_known_still(table):
    table.sent(grant(1), now=0.0)
    table.end("l1")
    assert table.offer(grant(1)) is Gate.KNOWN


def test_a_lease_that_was_declined_is_never_sent_later(table):
    table.decline(grant(1))
    assert table.offer(grant(1)) is Gate.KNOWN


def test_a_lease_that_is_stopped_before_it_comes_is_never_sent(table):
    table.forbid("l1")
    assert table.offer(grant(1)) is Gate.KNOWN


def test_a_gap_in_the_sequence_is_waited_for_but_not_for_ever(table):
    assert table.offer(grant(2)) is Gate.HOLD
    assert table.offer(grant(2), patient=False) is Gate.SEND


def test_what_closes_the_gap_lets_the_held_one_go(table):
    assert table.offer(grant(2)) is Gate.HOLD
    table.sent(grant(1), now=0.0)
    assert table.offer(grant(2)) is Gate.SEND


def test_a_declined_one_closes_the_gap_too(table):
    table.decline(grant(1))
    assert table.offer(grant(2)) is Gate.SEND


def test_one_that_comes_after_its_gap_was_given_up_is_late(table):
    """A beat that echoes the later one, and is under way, would end it as unknown to the node."""
    table.sent(grant(2, session="other"), now=0.0)
    assert table.offer(grant(1)) is Gate.LATE


def test_beyond_the_limit_it_is_full(table):
    table.sent(grant(1), now=0.0)
    table.sent(grant(2), now=0.0)
    assert table.offer(grant(3)) is Gate.FULL


def test_a_zombie_counts_towards_the_limit(table):
    table.sent(grant(1), now=0.0)
    table.sent(grant(2), now=0.0)
    table.bury("l1")
    assert table.offer(grant(3)) is Gate.FULL
    table.end("l1")
    assert table.offer(grant(3)) is Gate.SEND


def test_an_answered_slot_is_free_at_the_node_though_the_cell_may_not_know(table):
    table.sent(grant(1), now=0.0)
    table.answered(table.sent(grant(2), now=0.0))
    assert table.offer(grant(3)) is Gate.SEND
    assert len(table) == 2


@pytest.mark.parametrize(("index", "gate"), [(4, Gate.INDEX), (5, Gate.INDEX), (6, Gate.SEND)])
def test_an_index_must_be_above_all_that_the_node_had_of_the_session(table, index, gate):
    table.sent(grant(1, index=5), now=0.0)
    assert table.offer(grant(2, index=index)) is gate


def test_indexes_of_another_session_do_not_matter(table):
    table.sent(grant(1, index=5), now=0.0)
    assert table.offer(grant(2, index=0, session="t")) is Gate.SEND


def test_a_full_table_does_not_hide_that_the_index_is_too_low(table):
    table.sent(grant(1, index=5), now=0.0)
    table.sent(grant(2, index=6), now=0.0)
    assert table.offer(grant(3, index=5)) is Gate.INDEX


# --- what the node means ------------------------------------------------------------------------------------------


def test_the_name_that_the_node_sees_names_job_and_lease(table):
    entry = table.sent(grant(1), now=0.0)
    assert entry.name == "j1-l1"
    assert table.named("j1-l1") is entry
    assert table.named("j1") is None


def test_a_second_answer_to_one_lease_means_nothing(table):
    entry = table.sent(grant(1), now=0.0)
    table.answered(entry)
    assert table.named(entry.name) is None
    assert table.get("l1") is entry


def test_the_answer_of_a_zombie_is_still_understood(table):
    entry = table.sent(grant(1), now=0.0)
    table.bury("l1")
    assert table.named(entry.name) is entry


def test_reported_names_become_leases_and_unknown_ones_are_left_out(table):
    table.sent(grant(1), now=0.0)
    assert table.leases_of(["j1-l1", "j9-l9"]) == ["l1"]
    assert table.leases_of([]) == []


def test_a_node_that_reports_nothing_is_not_one_that_works_on_nothing(table):
    table.sent(grant(1), now=0.0)
    assert table.leases_of(None) is False


def test_a_lease_whose_answer_is_on_its_way_to_the_cell_counts_as_reported(table):
    table.answered(table.sent(grant(1), now=0.0))
    table.sent(grant(2), now=0.0)
    assert table.leases_of([]) == ["l1"]


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_slot_ends_at_its_ceiling_by_the_clock_of_the_table(table):
    table.sent(grant(1), now=10.0)
    assert table.past_ceiling(10.0 + CEILING - 0.1) == []
    assert [entry.lease for entry in table.past_ceiling(10.0 + CEILING)] == ["l1"]
    assert len(table) == 0
    assert table.named("j1-l1") is None


def test_a_zombie_does_not_get_a_longer_ceiling(table):
    table.sent(grant(1), now=10.0)
    table.bury("l1")
    assert len(table.past_ceiling(10.0 + CEILING)) == 1


def test_it_works_while_an_attempt_is_current(table):
    assert not table.working
    table.sent(grant(1), now=0.0)
    assert table.working
    table.bury("l1")
    assert not table.working


# --- the cell's side ----------------------------------------------------------------------------------------------


def test_the_first_answer_of_the_cell_fills_the_table(table):
    table.adopt([held("x", "zombie"), held("y", "sent")], [], seq=9, first=True, now=0.0)
    assert len(table) == 2
    assert table.offer(grant(10)) is Gate.FULL
    assert table.working


def test_what_was_adopted_ends_at_the_ceiling_that_the_cell_says(table):
    table.adopt([held("x", "zombie", left_ms=5000.0)], [], seq=9, first=True, now=100.0)
    assert table.past_ceiling(104.9) == []
    assert len(table.past_ceiling(105.0)) == 1


def test_a_granted_lease_takes_no_slot_before_it_is_sent(table):
    table.adopt([held("x", "granted", seq=4)], [], seq=4, first=True, now=0.0)
    assert len(table) == 0


def test_the_sequence_goes_on_behind_the_last_one_of_the_cell(table):
    table.adopt([], [], seq=9, first=True, now=0.0)
    assert table.offer(grant(10)) is Gate.SEND
    assert table.offer(grant(11)) is Gate.HOLD


def test_the_sequence_starts_with_what_is_granted_and_unsent(table):
    table.adopt([held("x", "granted", seq=8), held("y", "granted", seq=7)], [], seq=9, first=True, now=0.0)
    assert table.offer(grant(7)) is Gate.SEND
    assert table.offer(grant(8)) is Gate.HOLD


def test_a_later_answer_fills_nothing_and_ends_what_is_over(table):
    table.sent(grant(1), now=0.0)
    table.adopt([held("x", "zombie")], ["l1"], seq=9, first=False, now=0.0)
    assert len(table) == 0
    assert table.offer(grant(2)) is Gate.SEND


def test_the_cell_is_told_everything_that_is_held(table):
    table.sent(grant(1), now=0.0)
    table.sent(grant(2), now=10.0)
    table.bury("l1")
    assert table.table(20.0) == [("l1", "j1", "zombie", 100_000, 1), ("l2", "j2", "sent", 110_000, 2)]


def test_a_ceiling_that_has_just_passed_is_told_as_the_last_moment(table):
    table.sent(grant(1), now=0.0)
    assert table.table(CEILING + 5)[0][3] == 1


def test_the_highest_sequence_is_told_too(table):
    assert table.seq == 0
    table.adopt([], [], seq=4, first=True, now=0.0)
    assert table.seq == 4
    table.sent(grant(7), now=0.0)
    table.decline(grant(6))
    assert table.seq == 7


# --- all of it ----------------------------------------------------------------------------------------------------

moves = st.lists(
    st.tuples(st.sampled_from(["offer", "bury", "answered", "end", "ceiling", "forbid", "again"]), st.integers(1, 12)),
    max_size=80,
)


@given(moves, st.integers(1, 3))
def test_no_order_of_events_exceeds_the_limit_or_sends_a_lease_twice(moves, limit):
    table = table_of(limit)
    sent: list[int] = []
    indexes: list[int] = []
    forbidden: set[int] = set()
    now = 0.0
    for what, number in moves:
        entry = table.get(f"l{number}")
        if what in ("offer", "again"):
            patient = what == "offer"
            gate = table.offer(grant(number), patient=patient)
            if gate is Gate.SEND:
                assert not patient or number <= table.seq + 1
                assert number not in forbidden
                table.sent(grant(number), now=now)
                sent.append(number)
                indexes.append(number)
            elif gate in (Gate.FULL, Gate.INDEX):
                table.decline(grant(number))
                forbidden.add(number)
        elif what == "bury":
            table.bury(f"l{number}")
        elif what == "answered" and entry is not None:
            table.answered(entry)
        elif what == "end":
            table.end(f"l{number}")
        elif what == "forbid" and entry is None:
            table.forbid(f"l{number}")
            forbidden.add(number)
        elif what == "ceiling":
            now += CEILING / 3
            table.past_ceiling(now)
        live = [number for number in sent if table.named(f"j{number}-l{number}")]
        assert len(live) <= limit
    assert len(sent) == len(set(sent))
    assert indexes == sorted(indexes)
