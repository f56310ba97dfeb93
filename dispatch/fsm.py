"""The life of a job: its states and the arrows between them (DESIGN 3; names as the seeds fix them).

Lua moves jobs; `tests/test_architecture.py` compares every `advance(...)` in the scripts with `ARROWS`.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands."""

    CREATED = "CREATED"  #: stored, perhaps waiting in a line
    DISPATCHED = "DISPATCHED"  #: leased to a node
    ACCEPTED = "ACCEPTED"  #: the node acknowledged it
    RUNNING = "RUNNING"  #: the node works on it
    FINISHED = "FINISHED"  #: over; the outcome says how
    RELEASED = "RELEASED"  #: the session has it, or it expired unclaimed


class Outcome(StrEnum):
    """How a finished job ended."""

    OK = "ok"
    FAILED = "failed"  #: the node reported an error that another node would not mend, or all attempts did
    CANCELLED = "cancelled"  #: nobody wants it any more
    TIMED_OUT = "timed_out"
    REFUSED = "refused"  #: no node could ever take it, or the line was full
    POISON = "poison"  #: two attempts ended with the death of the node's socket


ARROWS: frozenset[tuple[State, State]] = frozenset(
    {
        (State.CREATED, State.DISPATCHED),
        (State.DISPATCHED, State.ACCEPTED),
        (State.DISPATCHED, State.RUNNING),
        (State.ACCEPTED, State.RUNNING),
        # A superseded attempt: the job goes back to the front of its line.
        (State.DISPATCHED, State.CREATED),
        (State.ACCEPTED, State.CREATED),
        (State.RUNNING, State.CREATED),
        # From CREATED also when the superseded attempt answers before a newer lease was granted.
        (State.CREATED, State.FINISHED),
        (State.DISPATCHED, State.FINISHED),
        (State.ACCEPTED, State.FINISHED),
        (State.RUNNING, State.FINISHED),
        (State.FINISHED, State.RELEASED),
    }
)
