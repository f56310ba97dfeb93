"""The session connection's table of utterances: each one's single end, in order, and at the latest at its deadline.

The terminal event of an utterance is decided here and nowhere else (P1): the first one wins. Ends are handed out in the
order of `utterance_index`; the wait for an earlier one lasts at most until that one's deadline.
"""

from enum import Enum
from typing import Generic, TypeVar

import msgspec

Frame = TypeVar("Frame")

_ENDED_REMEMBERED = 1024  #: indices whose end is known, for answering repetitions


class Utterance(msgspec.Struct, kw_only=True):
    """One open utterance and the job that works on it."""

    index: int
    target: str  #: target language
    kind: str  #: what the job needs, `tokens|tenant`
    key: str  #: idempotency key of the request
    shared: bool = True  #: others may name this request, too: the client gave it a key
    fingerprint: bytes  #: of the content; tells a repetition from a collision
    body: str  #: JSON members of the assignment, speech included
    trace_id: str
    accepted_at: float  #: monotonic seconds
    deadline_at: float
    job: str
    cell: str
    gen: int = 1
    submitted: bool = False  #: a cell has answered for it at least once
    finished_at: float | None = None  #: when the job was first seen finished without its answer being here
    unheard_since: float | None = None  #: since when Redis does not answer about it
    unable_since: float | None = None  #: since when no connected node could do it
    position: int = 0  #: last told place in the line
    attempt: int = 0  #: last known attempt
    sent_by_client_ms: int | None = None


class _Ended(msgspec.Struct, frozen=True):
    """What is remembered of an utterance that is over."""

    fingerprint: bytes
    key: str
    failed: bool


class Claim(Enum):
    """What a new request for an index is."""

    NEW = "new"
    REPEATED = "repeated"  #: the same request again: its one answer comes or has come
    COLLIDES = "collides"  #: another content under a used index, or another index under a used key
    TOO_MANY = "too_many"


class UtteranceTable(Generic[Frame]):
    """Open utterances by index, and ended ones that wait for their turn. `Frame` is whatever is sent."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._open: dict[int, Utterance] = {}
        self._waiting: dict[int, Frame] = {}
        self._ended: dict[int, _Ended] = {}
        self._index_of: dict[str, int] = {}  # idempotency keys of everything above

    def __len__(self) -> int:
        return len(self._open)

    def claim(self, index: int, fingerprint: bytes, *, key: str = "", retry: bool = False) -> Claim:
        """May an utterance with this index begin? `retry` asks for another go at one that failed.

        A key stands for one request, hence for one index.
        """
        if key and self._index_of.get(key, index) != index:
            return Claim.COLLIDES
        if utterance := self._open.get(index):
            return Claim.REPEATED if utterance.fingerprint == fingerprint else Claim.COLLIDES
        if ended := self._ended.get(index):
            if ended.fingerprint != fingerprint:
                return Claim.COLLIDES
            if index in self._waiting or not (retry and ended.failed):
                return Claim.REPEATED
        # Ends that wait for their turn count as well: they are results in memory.
        return Claim.TOO_MANY if len(self._open) + len(self._waiting) >= self._limit else Claim.NEW

    def begin(self, utterance: Utterance) -> None:
        """Accept it; from now on it gets exactly one end."""
        self._open[utterance.index] = utterance
        self._index_of[utterance.key] = utterance.index

    def get(self, index: int) -> Utterance | None:
        """The utterance, while it is open."""
        return self._open.get(index)

    def open(self) -> list[Utterance]:
        return list(self._open.values())

    def end(self, index: int, frame: Frame, *, failed: bool = False) -> list[Frame] | None:
        """The end of an utterance. Answers the frames whose turn it is now; None when it had ended before."""
        utterance = self._open.pop(index, None)
        if utterance is None:
            return None
        self._ended[index] = _Ended(utterance.fingerprint, utterance.key, failed)
        if len(self._ended) > _ENDED_REMEMBERED:
            oldest = self._ended.pop(next(iter(self._ended)))
            self._index_of.pop(oldest.key, None)
        self._waiting[index] = frame
        lowest = min(self._open, default=None)
        turn = sorted(each for each in self._waiting if lowest is None or each < lowest)
        return [self._waiting.pop(each) for each in turn]

    def overdue(self, now: float) -> list[Utterance]:
        """Open utterances past their deadline, the lowest index first."""
        late = [each for each in self._open.values() if each.deadline_at <= now]
        return sorted(late, key=lambda each: each.index)
