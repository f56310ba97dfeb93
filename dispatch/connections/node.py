"""The owner connection's own table of leases: the second gate before a node (DESIGN 3).

Only this connection sends assignments to its node, each once, in the node's lease sequence, never beyond the limit.
It holds what it sent until the node answers or the ceiling passes by its own clock, whatever Redis has forgotten.
"""

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum

import msgspec

from dispatch.store.cells import Grant, HeldLease

_SESSIONS_REMEMBERED = 1024  #: sessions whose highest index is kept, the latest ones
_LEASES_REMEMBERED = 512  #: leases that were sent or declined; an answer that is under way may still grant them


class Entry(msgspec.Struct, kw_only=True):
    """One slot of the node."""

    lease: str
    seq: int  #: in the node's sequence of leases
    job: str
    session: str
    index: int
    origin: str  #: instance of the session
    attempt: int = 1
    state: str = "sent"  #: sent | zombie
    ceiling_at: float  #: seconds, this process's monotonic clock
    told_to_stop: bool = False
    acked: bool = False

    @property
    def name(self) -> str:
        """The job id that the node sees. It names the lease, since nodes ignore an id they have seen (PROTOCOL 9.2)."""
        return f"{self.job}-{self.lease}"


def lease_of(name: str) -> str:
    """The lease that a job id of a node names (`Entry.name`), whoever sent it."""
    return name.rpartition("-")[2]


class Gate(Enum):
    """What to do with a grant."""

    SEND = "send"
    HOLD = "hold"  #: an earlier lease of the sequence is still under way
    KNOWN = "known"  #: sent or declined before
    LATE = "late"  #: a later one was sent, so a beat under way may say that the node does not know of this one
    OTHER_EPOCH = "other_epoch"  #: meant for another connection: dropped and counted
    FULL = "full"  #: the table knows of more than the cell does
    INDEX = "index"  #: the node has had a later utterance of this session


class LeaseTable:
    """What this node holds. `epoch` and `limit` are those of the connection; `ceiling` in seconds."""

    def __init__(self, *, epoch: int, limit: int, ceiling: float) -> None:
        self.epoch = epoch
        self.limit = limit
        self._ceiling = ceiling
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, Entry] = {}  #: of the slots that the node has not answered
        self._next_seq = 1
        self._highest: OrderedDict[str, int] = OrderedDict()
        self._decided: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def seq(self) -> int:
        """The highest sequence that was dealt with."""
        return self._next_seq - 1

    @property
    def working(self) -> bool:
        """True while the node owes an answer to a current attempt."""
        return any(entry.state == "sent" for entry in self._entries.values())

    def adopt(self, leases: Iterable[HeldLease], over: Iterable[str], *, seq: int, first: bool, now: float) -> None:
        """Drop what the cell says is over; at the `first` answer take in what it holds, before anything is sent.

        Later answers tell nothing new: what they hold and this table does not is on its way out (answered meanwhile) or
        in (granted), and taking it in would hold a slot for nobody.
        """
        for lease in over:
            self.end(lease)
        if not first:
            return
        for held in leases:
            if held.state == "granted" or held.lease in self._entries:
                continue
            left = held.ceiling_left_ms / 1000 or self._ceiling
            self._add(
                Entry(
                    lease=held.lease,
                    seq=held.seq,
                    job=held.job,
                    session="",
                    index=-1,
                    origin="",
                    state=held.state,
                    ceiling_at=now + left,
                )
            )
        granted = [held.seq for held in leases if held.state == "granted"]
        self._next_seq = min(granted) if granted else seq + 1

    def offer(self, grant: Grant, *, patient: bool = True) -> Gate:
        """May this be sent now? With `patient` false a gap in the sequence is no longer waited for."""
        if grant.epoch != self.epoch:
            return Gate.OTHER_EPOCH
        if grant.lease in self._decided:
            return Gate.KNOWN
        if grant.seq < self._next_seq:
            return Gate.LATE
        if grant.seq > self._next_seq and patient:
            return Gate.HOLD
        if grant.index <= self._highest.get(grant.session, -1):
            return Gate.INDEX
        # An answered slot is free at the node, though its cell may not have said so yet.
        if len(self._names) >= self.limit:
            return Gate.FULL
        return Gate.SEND

    def decline(self, grant: Grant) -> None:
        """This grant is not sent, and never will be: the cell, told so, gives its slot away."""
        self.forbid(grant.lease)
        self._next_seq = max(self._next_seq, grant.seq + 1)

    def forbid(self, lease: str) -> None:
        """A lease that was not sent and must not be any more, whenever its grant comes."""
        self._decided[lease] = None
        if len(self._decided) > _LEASES_REMEMBERED:
            self._decided.popitem(last=False)

    def sent(self, grant: Grant, *, now: float) -> Entry:
        """Note a grant as sent."""
        entry = Entry(
            lease=grant.lease,
            seq=grant.seq,
            job=grant.job,
            session=grant.session,
            index=grant.index,
            origin=grant.origin,
            attempt=grant.attempt,
            ceiling_at=now + self._ceiling,
        )
        self._add(entry)
        self.decline(grant)  # once more
        self._highest[grant.session] = grant.index
        self._highest.move_to_end(grant.session)
        if len(self._highest) > _SESSIONS_REMEMBERED:
            self._highest.popitem(last=False)
        return entry

    def named(self, name: str) -> Entry | None:
        """The slot that the node means by its job id; None for an answer nobody waits for."""
        return self._names.get(name)

    def answered(self, entry: Entry) -> None:
        """The node has answered: its name means nothing any more, while the slot stays until the cell has freed it."""
        self._names.pop(entry.name, None)

    def get(self, lease: str) -> Entry | None:
        return self._entries.get(lease)

    def bury(self, lease: str) -> None:
        """The attempt no longer counts; the slot stays held."""
        if entry := self._entries.get(lease):
            entry.state = "zombie"

    def end(self, lease: str) -> Entry | None:
        """The slot is free."""
        entry = self._entries.pop(lease, None)
        if entry is not None:
            self._names.pop(entry.name, None)
        return entry

    def past_ceiling(self, now: float) -> list[Entry]:
        """Ends and answers the slots whose time is up."""
        late = [entry for entry in self._entries.values() if entry.ceiling_at <= now]
        for entry in late:
            self.end(entry.lease)
        return late

    def table(self, now: float) -> list[tuple[str, str, str, int, int]]:
        """What `node_upsert` is told: (lease, job, sent|zombie, ms left to the ceiling, seq)."""
        return [
            (entry.lease, entry.job, entry.state, max(1, round((entry.ceiling_at - now) * 1000)), entry.seq)
            for entry in self._entries.values()
        ]

    def leases_of(self, names: Iterable[str] | None) -> list[str] | bool:
        """The leases behind job ids that the node reports; False when it does not report.

        An answered one counts as reported, since its answer is still on the way to the cell.
        """
        if names is None:
            return False
        reported = set(names)
        return [
            entry.lease for entry in self._entries.values() if entry.name in reported or entry.name not in self._names
        ]

    def _add(self, entry: Entry) -> None:
        self._entries[entry.lease] = entry
        self._names[entry.name] = entry
