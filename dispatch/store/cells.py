"""The cell scripts as calls, and the shapes of their answers (DESIGN 3).

Every answer carries the cell's incarnation and *news*: leases granted, attempts to stop and jobs ended by this very
call, which the caller passes on to whoever owns the peers concerned.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, get_origin

import msgspec

from dispatch.conf import Config
from dispatch.keys import Keys
from dispatch.store.script import Call, Script

Body = TypeVar("Body")


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """A lease to be sent by the connection that owns (node, epoch), in the order of `seq`."""

    node: str
    owner: str  #: instance that holds the node's socket
    epoch: int
    lease: str
    seq: int
    job: str
    attempt: int  #: 1, 2, … per job; for the eye, never for fencing
    session: str
    index: int
    origin: str  #: instance that holds the session's socket


class Cancel(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that the node should give up; its slot stays held until it says so."""

    node: str
    owner: str
    epoch: int
    lease: str
    job: str
    reason: str


class Ending(msgspec.Struct, frozen=True, array_like=True):
    """A job that ended without an answer of a node; its session has to hear of it."""

    job: str
    session: str
    index: int
    origin: str
    outcome: str
    reason: str


class News(msgspec.Struct, frozen=True, array_like=True):
    """What others have to be told after a call."""

    grants: list[Grant]
    cancels: list[Cancel]
    endings: list[Ending]

    def __bool__(self) -> bool:
        return bool(self.grants or self.cancels or self.endings)


class JobView(msgspec.Struct, frozen=True, array_like=True):
    """What became of a job."""

    state: str
    outcome: str = ""
    reason: str = ""
    lease: str = ""  #: the current lease, or the one whose answer ended the job
    node: str = ""
    position: int = 0  #: in its line, from 1; 0 = does not wait
    attempt: int = 0
    able: int = 0  #: nodes that could do it at all (only told while it waits)


class HeldLease(msgspec.Struct, frozen=True, array_like=True):
    """A slot that the cell holds for a node."""

    lease: str
    job: str
    state: str  #: granted | sent | zombie
    seq: int
    ceiling_left_ms: float


class NodeView(msgspec.Struct, frozen=True, array_like=True):
    """The cell's side of a node, after an upsert."""

    epoch: int
    seq: int
    leases: list[HeldLease]
    over: list[str]  #: leases of the connection's table that have ended


class Zombie(msgspec.Struct, frozen=True, array_like=True):
    """A superseded attempt that the node may still work on."""

    lease: str
    job: str


class Audit(msgspec.Struct, frozen=True, array_like=True):
    """One page of the cell's self-check."""

    cursor: str
    faults: list[str]
    held: int
    waiting: int


class Answer(msgspec.Struct, Generic[Body], frozen=True):
    """What a cell script answered. `word` is one of its RETURNS; `unopened` means that the cell does not exist."""

    word: str
    incarnation: str
    body: Body
    news: News


NO_NEWS = News([], [], [])
_EMPTY = msgspec.msgpack.encode([])
_no_news = msgspec.msgpack.encode(NO_NEWS)
_news = msgspec.msgpack.Decoder(News)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that cell scripts go by; times in ms."""

    unsent_ms: int  #: a granted lease must be sent within this time
    ack_ms: int  #: a node that has acknowledged before must do so within this time
    ceiling_ms: int  #: the longest time an attempt may hold its slot, from its sending
    stale_ms: int  #: a node without a beat for this long is skipped
    grace_ms: int  #: how long a gone node's class still counts as able
    unclaimed_ms: int  #: how long a finished job waits for its session
    retention_ms: int  #: how long a released record answers repeated requests
    presence_ms: int  #: an instance's presence TTL
    young_ms: int  #: a cell younger than this queues instead of refusing
    sample: int  #: nodes looked at in one draw
    max_waiting: int  #: waiting jobs of a cell
    tries: int  #: attempts of a job that count

    @classmethod
    def of(cls, config: Config) -> "Rules":
        """The rules that this configuration gives."""
        scheduler = config.scheduler
        return cls(
            unsent_ms=scheduler.job_timeout.unsent_ms,
            ack_ms=scheduler.job_timeout.ack_timeout_ms,
            ceiling_ms=scheduler.job_timeout.lease_ceiling_seconds * 1000,
            stale_ms=scheduler.node_health.heartbeat_interval_seconds * 3000,
            grace_ms=scheduler.job_timeout.pending_timeout_seconds * 1000,
            unclaimed_ms=(scheduler.utterance_deadline_seconds + 60) * 1000,
            retention_ms=(scheduler.task_binding.lease_seconds + 60) * 1000,
            presence_ms=scheduler.heartbeat_interval_seconds * 2000,
            young_ms=scheduler.heartbeat_interval_seconds * 2000,
            sample=scheduler.phase3.random_sample_size,
            max_waiting=scheduler.pending_queue.max_per_cell,
            tries=scheduler.job_timeout.failover_max_attempts + 1,
        )


def _reader(body: type[Body]) -> Any:
    """A function that reads `{word, incarnation, packed body, packed news}`.

    Lua packs an empty table as an empty list: no body, unless lists are expected.
    """
    decode = msgspec.msgpack.Decoder(body).decode
    may_be_empty = get_origin(body) is list

    def read(reply: list[Any]) -> Answer[Any]:
        word = reply[0].decode()
        if word == "unopened":
            return Answer(word, "", None, NO_NEWS)
        packed = reply[2]
        if word in ("fenced", "stale_epoch"):
            value: Any = msgspec.msgpack.decode(packed)
        else:
            value = decode(packed) if may_be_empty or packed != _EMPTY else None
        news = reply[3] if len(reply) > 3 else _no_news
        return Answer(word, reply[1].decode(), value, NO_NEWS if news == _no_news else _news.decode(news))

    return read


_read_job = _reader(JobView)
_read_nothing = _reader(type(None))
_read_words = _reader(list[str])
_read_node = _reader(NodeView)
_read_zombies = _reader(list[Zombie])
_read_count = _reader(tuple[int])
_read_audit = _reader(Audit)
_read_states = _reader(list[list[Any]])


def _opened(reply: list[Any]) -> str:
    return str(reply[1].decode())


def nonce() -> str:
    """64 random bits: they seed the sampling, and the lease ids of the call begin with them."""
    return secrets.token_hex(8)


class Cells:
    """Builds the calls of one cell after the other; knows the keys and the rules, holds no connection."""

    def __init__(self, keys: Keys, rules: Rules, *, nonce: Callable[[], str] = nonce) -> None:
        self._keys = keys
        self.rules = rules
        self._nonce = nonce
        self._rules = msgspec.msgpack.encode(rules)
        self._script = {name: Script.load(name) for name in SCRIPTS}

    def _call(self, name: str, cell: str, read: Any, **args: Any) -> Call[Any]:
        script = self._script[name]
        declared = {argument for argument, _ in script.args}
        if "rules" in declared:
            args["rules"] = self._rules
        if "nonce" in declared:
            args["nonce"] = self._nonce()
        return script.call(keys=self._keys.cell(cell), read=read, **args)

    def open(self, cell: str) -> Call[str]:
        """Create the cell if it does not exist; answers its incarnation."""
        return self._call("cell_open", cell, _opened)

    def upsert(self, cell: str, node: str, spec: dict[str, Any]) -> Call[Answer[NodeView]]:
        """Put a node in or refresh it; `spec` as in node_upsert.lua."""
        return self._call("node_upsert", cell, _read_node, id=node, spec=spec)

    def remove(self, cell: str, node: str, *, epoch: int, unsent: Sequence[str]) -> Call[Answer[None]]:
        """Take a node out whose socket closed."""
        return self._call("node_remove", cell, _read_nothing, id=node, epoch=epoch, unsent=unsent)

    def beat(self, cell: str, node: str, beat: dict[str, Any]) -> Call[Answer[list[Zombie]]]:
        """Take a heartbeat; `beat` as in node_beat.lua."""
        return self._call("node_beat", cell, _read_zombies, id=node, beat=beat)

    def submit(self, cell: str, job: str, *, gen: int, spec: dict[str, Any]) -> Call[Answer[JobView]]:
        """Take a job in or say what became of it; `spec` as in job_submit.lua."""
        return self._call("job_submit", cell, _read_job, id=job, gen=gen, spec=spec)

    def sent(self, cell: str, node: str, *, epoch: int, leases: Sequence[str]) -> Call[Answer[list[str]]]:
        """These leases went out to the node."""
        return self._call("job_sent", cell, _read_words, node_id=node, epoch=epoch, leases=leases)

    def event(
        self, cell: str, node: str, *, epoch: int, events: Sequence[tuple[str, str, str, str]]
    ) -> Call[Answer[list[str]]]:
        """What happened to these leases: (job, lease, acked|started|progress|not_sent, reason)."""
        return self._call("job_event", cell, _read_words, node_id=node, epoch=epoch, events=events)

    def finish(
        self, cell: str, job: str, *, node: str, epoch: int, lease: str, ending: dict[str, Any]
    ) -> Call[Answer[list[str]]]:
        """The node answered; `ending` is {outcome, reason, retry, acked}."""
        return self._call(
            "job_finish", cell, _read_words, node_id=node, epoch=epoch, id=job, lease=lease, ending=ending
        )

    def release(self, cell: str, jobs: Sequence[str]) -> Call[Answer[None]]:
        """The sessions have these results."""
        return self._call("job_release", cell, _read_nothing, ids=jobs)

    def cancel(self, cell: str, job: str, *, reason: str) -> Call[Answer[list[str]]]:
        """Nobody wants this job any more."""
        return self._call("job_cancel", cell, _read_words, id=job, reason=reason)

    def states(self, cell: str, jobs: Sequence[str]) -> Call[Answer[list[list[Any]]]]:
        """What became of these jobs, in this order; an empty list for one that is not here."""
        return self._call("jobs_state", cell, _read_states, ids=jobs)

    def due(self, cell: str, *, limit: int = 64) -> Call[Answer[tuple[int]]]:
        """Repair up to `limit` overdue steps."""
        return self._call("jobs_due", cell, _read_count, limit=limit)

    def audit(self, cell: str, cursor: str = "0") -> Call[Answer[Audit]]:
        """Recompute a page of what the cell keeps."""
        return self._call("cell_audit", cell, _read_audit, cursor=cursor)


SCRIPTS = (
    "cell_open",
    "node_upsert",
    "node_remove",
    "node_beat",
    "job_submit",
    "job_sent",
    "job_event",
    "job_finish",
    "job_release",
    "job_cancel",
    "jobs_state",
    "jobs_due",
    "cell_audit",
)
