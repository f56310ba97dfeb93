"""The life of a job: every state can be reached, and every life ends (DESIGN 3)."""

import pytest

from dispatch.fsm import ARROWS, Outcome, State


def beyond(state: State) -> set[State]:
    """Every state that can follow, at once or later."""
    found: set[State] = set()
    edge = {state}
    while edge:
        edge = {to for at, to in ARROWS if at in edge} - found
        found |= edge
    return found


def test_a_job_that_is_created_may_come_to_every_state():
    assert beyond(State.CREATED) == set(State)


@pytest.mark.parametrize("state", set(State) - {State.RELEASED})
def test_every_state_leads_to_the_end(state):
    assert State.RELEASED in beyond(state)


def test_nothing_follows_the_end():
    assert beyond(State.RELEASED) == set()


def test_what_is_finished_is_never_done_again():
    assert beyond(State.FINISHED) == {State.RELEASED}


@pytest.mark.parametrize("state", [State.DISPATCHED, State.ACCEPTED, State.RUNNING])
def test_an_attempt_may_be_given_up_at_every_step(state):
    assert (state, State.CREATED) in ARROWS


@pytest.mark.parametrize("state", set(State) - {State.FINISHED, State.RELEASED})
def test_every_unfinished_job_may_end_at_once(state):
    assert (state, State.FINISHED) in ARROWS


def test_a_job_that_waits_was_never_acknowledged():
    assert {to for at, to in ARROWS if at is State.CREATED} == {State.DISPATCHED, State.FINISHED}


def test_names_are_those_of_the_wire():
    assert [*State] == ["CREATED", "DISPATCHED", "ACCEPTED", "RUNNING", "FINISHED", "RELEASED"]
    assert set(Outcome) == {"ok", "failed", "cancelled", "timed_out", "refused", "poison"}
