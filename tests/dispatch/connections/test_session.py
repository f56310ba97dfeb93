"""The table of utterances: one end for each, in order of the index, never more than the limit at once (P1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.connections.session import Claim, Utterance, UtteranceTable

SAME, OTHER = b"same", b"other"


def utterance(index: int, *, fingerprint: bytes = SAME, deadline_at: float = 60.0) -> Utterance:
    return Utterance(
        index=index,
        target="es",
        kind="pair:en>es|default",
        key=str(index),
        fingerprint=fingerprint,
        body="",
        trace_id="t",
        accepted_at=0.0,
        deadline_at=deadline_at,
        job=f"job-{index}",
        cell="",
    )


@pytest.fixture
def table() -> UtteranceTable[str]:
    return UtteranceTable(limit=3)


def begin(table: UtteranceTable[str], *indexes: int) -> None:
    for index in indexes:
        table.begin(utterance(index))


def test_a_first_request_is_new(table):
    assert table.claim(0, SAME) is Claim.NEW


def test_a_claim_alone_begins_nothing(table):
    table.claim(0, SAME)
    assert (len(table), table.get(0)) == (0, None)


@pytest.mark.parametrize("retry", [False, True])
def test_a_request_that_is_open_is_repeated_even_when_it_asks_for_a_retry(table, retry):
    begin(table, 0)
    assert table.claim(0, SAME, retry=retry) is Claim.REPEATED


def test_other_speech_under_an_open_index_collides(table):
    begin(table, 0)
    assert table.claim(0, OTHER) is Claim.COLLIDES


def test_other_speech_under_an_ended_index_collides_also_as_a_retry(table):
    begin(table, 0)
    table.end(0, "failure", failed=True)
    assert table.claim(0, OTHER) is Claim.COLLIDES
    assert table.claim(0, OTHER, retry=True) is Claim.COLLIDES


def test_an_ended_request_is_repeated(table):
    begin(table, 0)
    table.end(0, "result")
    assert table.claim(0, SAME) is Claim.REPEATED
    assert table.claim(0, SAME, retry=True) is Claim.REPEATED


def test_only_a_retry_gets_another_go_at_a_failure(table):
    begin(table, 0)
    table.end(0, "failure", failed=True)
    assert table.claim(0, SAME) is Claim.REPEATED
    assert table.claim(0, SAME, retry=True) is Claim.NEW


def test_a_retry_that_succeeds_is_no_failure_any_more(table):
    begin(table, 0)
    table.end(0, "failure", failed=True)
    begin(table, 0)
    assert table.end(0, "result") == ["result"]
    assert table.claim(0, SAME, retry=True) is Claim.REPEATED


def test_one_more_than_the_limit_is_too_many(table):
    begin(table, 0, 1, 2)
    assert table.claim(3, SAME) is Claim.TOO_MANY
    assert table.claim(1, SAME) is Claim.REPEATED


def test_an_end_that_waits_for_its_turn_still_counts_towards_the_limit(table):
    begin(table, 0, 1, 2)
    assert table.end(1, "r1") == []
    assert table.claim(3, SAME) is Claim.TOO_MANY
    table.end(0, "r0")
    assert table.claim(3, SAME) is Claim.NEW


def test_a_failure_that_waits_for_its_turn_is_not_tried_again_yet(table):
    begin(table, 0, 1)
    table.end(1, "failure", failed=True)
    assert table.claim(1, SAME, retry=True) is Claim.REPEATED
    table.end(0, "r0")
    assert table.claim(1, SAME, retry=True) is Claim.NEW


def test_the_first_end_wins(table):
    begin(table, 0)
    assert table.end(0, "first") == ["first"]
    assert table.end(0, "second") is None


def test_what_never_began_cannot_end(table):
    assert table.end(7, "result") is None


def test_ends_wait_for_the_earlier_index_and_come_in_order(table):
    begin(table, 4, 5, 6)
    assert table.end(6, "r6") == []
    assert table.end(5, "r5") == []
    assert table.end(4, "r4") == ["r4", "r5", "r6"]


def test_an_end_does_not_wait_for_a_later_index(table):
    begin(table, 4, 5)
    assert table.end(4, "r4") == ["r4"]


def test_an_end_does_not_wait_for_an_index_that_was_never_used(table):
    begin(table, 2, 9)
    assert table.end(2, "r2") == ["r2"]
    assert table.end(9, "r9") == ["r9"]


def test_overdue_are_those_whose_deadline_has_come_the_lowest_index_first(table):
    table.begin(utterance(2, deadline_at=10.0))
    table.begin(utterance(1, deadline_at=10.0))
    table.begin(utterance(0, deadline_at=10.1))
    assert [each.index for each in table.overdue(10.0)] == [1, 2]
    assert table.overdue(9.9) == []


def test_an_utterance_is_found_while_it_is_open(table):
    begin(table, 0, 1)
    assert [each.index for each in table.open()] == [0, 1]
    table.end(0, "r0")
    assert table.get(0) is None
    assert len(table) == 1


def test_the_end_of_an_index_is_forgotten_after_a_thousand_others():
    table: UtteranceTable[str] = UtteranceTable(limit=1)
    for index in range(1025):
        begin(table, index)
        table.end(index, "result")
    assert table.claim(1, SAME) is Claim.REPEATED
    assert table.claim(0, SAME) is Claim.NEW


steps = st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 9)), max_size=60)


@given(steps)
def test_every_begun_utterance_ends_once_in_order_and_none_waits_for_nobody(steps):
    table: UtteranceTable[int] = UtteranceTable(limit=4)
    begun: set[int] = set()
    told: list[int] = []

    def end(index: int) -> None:
        was_open = table.get(index) is not None
        turn = table.end(index, index)
        assert (turn is not None) == was_open
        still_open = min((each.index for each in table.open()), default=None)
        for frame in turn or ():
            assert still_open is None or frame < still_open
        assert list(turn or ()) == sorted(turn or ())
        told.extend(turn or ())

    for what, index in steps:
        if what == "end":
            end(index)
        elif table.claim(index, SAME) is Claim.NEW:
            table.begin(utterance(index))
            begun.add(index)
        assert len(begun) - len(told) <= 4  # neither open ones nor waiting ends can pile up
    for each in table.open():
        end(each.index)
    assert sorted(told) == sorted(begun)
