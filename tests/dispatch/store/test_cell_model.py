"""No order of calls, losses and repetitions breaks a cell: modelled owners, nodes and sessions play with the scripts.

The node is the worst that DESIGN 3 allows: it works on whatever it was sent, across reconnects, and hardly tells.
Nothing here waits: every time that a step gets is "never" or "now", as the rules of its call say.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dispatch.keys import Keys
from dispatch.store.cells import Answer, Cells, Grant, News
from dispatch.store.client import RedisClient
from dispatch.store.script import Call
from tests.dispatch.store.conftest import SERVERS, client_of
from tests.dispatch.store.driver import CELL, NEVER_MS, OK, RETRY, Driver, class_of, next_millisecond, spec_of
from tests.dispatch.store.picture import Picture

T = TypeVar("T")

LIMIT = 2
NODES = ("n1", "n2", "n3")
TOKENS = (",en>es,", ",en>es,es>en,", "")
KINDS = ("en>es|tenant", "es>en|tenant")
#: job -> (session, index, kind): two sessions that speak, and one utterance for two languages.
JOBS = {
    "j0": ("s0", 0, KINDS[0]),
    "j1": ("s0", 1, KINDS[0]),
    "j2": ("s0", 2, KINDS[1]),
    "j3": ("s1", 0, KINDS[0]),
    "j4": ("s1", 1, KINDS[0]),
    "j5": ("s1", 1, KINDS[1]),
}
FAILED = {"outcome": "failed", "reason": "PROCESSING_ERROR", "retry": False, "acked": False}
HASTY = {"unsent_ms": 0, "ack_ms": 0, "ceiling_ms": 0, "grace_ms": 0, "presence_ms": 0}

#: What becomes of an answer: heard; heard, and the call made again; lost; lost, and the call made again.
FATES = ("heard", "twice", "lost", "again")
nodes = st.sampled_from(NODES)
jobs = st.sampled_from(sorted(JOBS))
fates = st.sampled_from(FATES)
tokens = st.sampled_from((*TOKENS[:2], *TOKENS))  # mostly able
at_once = st.booleans()


@dataclass
class Sent:
    """An entry of a connection's table."""

    job: str
    seq: int
    state: str = "sent"
    since: float = field(default_factory=time.monotonic)

    def told(self, lease: str) -> tuple[Any, ...]:
        # One millisecond less: clocks are cut off to whole ones.
        return lease, self.job, self.state, NEVER_MS - (time.monotonic() - self.since) * 1000 - 1, self.seq


@dataclass
class Connection:
    """The owner's side of a node's socket: the second gate."""

    node: str
    epoch: int
    table: dict[str, Sent] = field(default_factory=dict)
    pending: dict[str, Grant] = field(default_factory=dict)
    handled: set[str] = field(default_factory=set)  #: leases sent or refused; a grant of them is an echo
    unreported: set[str] = field(default_factory=set)  #: leases sent, and the cell does not know yet
    indexes: dict[str, int] = field(default_factory=dict)
    seq: int = 0  #: of the last lease sent or refused
    granted: int = 0  #: highest sequence heard of
    acks: bool = False

    def refuses(self, grant: Grant) -> str:
        """Why this grant is not sent; empty when it is."""
        if len(self.table) >= LIMIT:
            return "full"
        if grant.seq < self.seq:
            return "late"  # a beat may have told the cell that nothing below is on its way any more
        if self.indexes.get(grant.session, -1) >= grant.index:
            return "index"
        return ""


@dataclass
class Process:
    """The node itself. It works on until it answers, whoever holds its socket."""

    working: dict[str, str] = field(default_factory=dict)  #: lease -> job
    seq: int = 0  #: the highest that it got


class CellMachine(RuleBasedStateMachine):
    client: RedisClient
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        # The same steps have to lead to the same cell, else a failure could not be shrunk.
        numbers = random.Random(0)  # noqa: S311  no secret
        self.patient = Driver(self.client, Keys("m"), nonce=lambda: f"{numbers.getrandbits(64):016x}")
        self.hasty = self.patient.under(**HASTY)
        self.epochs = itertools.count(1)
        self.processes = {node: Process() for node in NODES}
        self.connections: dict[str, Connection] = {}
        self.half_open: list[Connection] = []
        self.orphans: list[tuple[str, str]] = []  #: attempts (node, lease) that were sent, and nobody could say so
        self.generations = dict.fromkeys(JOBS, 1)
        self.accepted: set[str] = set()
        self.now = self.wait(self._empty())

    async def _empty(self) -> Picture:
        await self.patient.empty()
        await self.patient.run(self.patient.cells.open(CELL))
        return await self.patient.picture()

    # ------------------------------------------------------------ the wire

    def wait(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def driver(self, hasty: bool) -> Driver:
        return self.hasty if hasty else self.patient

    def cells(self, hasty: bool = False) -> Cells:
        return self.driver(hasty).cells

    def call(self, call: Call[Any]) -> Any:
        """Every call gets a millisecond of its own, else it would be chance which of two steps is the older one."""
        next_millisecond()
        return self.wait(self.patient.run(call))

    def make(self, call: Call[Any], fate: str = "heard") -> Any:
        """Make a call; its answer, or None when that was lost."""
        answer = self.call(call)
        if fate in ("heard", "twice"):
            self.hear(answer.news)
        if fate in ("twice", "again"):
            again = self.call(call)
            self.hear(again.news)
            answer = again if fate == "again" else answer
        return None if fate == "lost" else answer

    def hear(self, news: News) -> None:
        for grant in news.grants:
            for connection in (*self.connections.values(), *self.half_open):
                if (connection.node, connection.epoch) == (grant.node, grant.epoch):
                    connection.granted = max(connection.granted, grant.seq)
                    if grant.lease not in connection.handled:
                        connection.pending[grant.lease] = grant

    # ------------------------------------------------------------ nodes

    @initialize(tokens=st.tuples(tokens, tokens, tokens), submits=st.sets(jobs))
    def begin(self, tokens: Sequence[str], submits: set[str]) -> None:
        """Three nodes, and work for them, so that most steps find something to do."""
        for node, able in zip(NODES, tokens, strict=True):
            self.register(node, able, says=False, fate="heard")
        for job in sorted(submits):
            self.submit(job, afresh=False, runs_out=False, stays_unsent=False, orphan=False, fate="heard")
        self.now = self.wait(self.patient.picture())

    def upsert(
        self, connection: Connection, tokens: str, *, known: Sequence[str] | bool = False, fate: str = "heard"
    ) -> Answer[Any]:
        spec = {
            "epoch": connection.epoch,
            "owner": f"owner-{connection.epoch}",
            "boot": "boot",
            "limit": LIMIT,
            "class": class_of(tokens),
            "tokens": tokens,
            "acks": connection.acks,
            "seq": connection.granted,
            "table": [sent.told(lease) for lease, sent in connection.table.items()],
            "known": known,
        }
        answer: Answer[Any] = self.make(self.cells().upsert(CELL, connection.node, spec), fate)
        for lease in answer.body.over:
            connection.table.pop(lease, None)
        connection.granted = max(connection.granted, answer.body.seq)
        for held in answer.body.leases:
            if held.ceiling_left_ms > 0:
                connection.table.setdefault(held.lease, Sent(held.job, held.seq, held.state))
        return answer

    @rule(
        node=nodes,
        tokens=tokens,
        says=st.sampled_from((False, False, True)),
        fate=st.sampled_from(("heard", "twice", "again")),
    )
    def register(self, node: str, tokens: str, says: bool, fate: str) -> None:
        """A new connection, perhaps while the old one still looks alive. Some nodes say what they work on."""
        if node in self.connections:
            old = self.connections.pop(node)
            self.half_open.append(old)
            self.orphans += [(node, lease) for lease in old.unreported]
        if says:  # then it has left its other sockets for good
            self.half_open = [connection for connection in self.half_open if connection.node != node]
        connection = self.connections[node] = Connection(node, next(self.epochs))
        known = list(self.processes[node].working) if says else False
        assert self.upsert(connection, tokens, known=known, fate=fate).word == "ok"

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), tokens=tokens, fate=st.sampled_from(("heard", "twice", "again")))
    def refresh(self, data: st.DataObject, tokens: str, fate: str) -> None:
        """The owner pushes its node again, as it does at any doubt."""
        connection = data.draw(st.sampled_from(list(self.connections.values())))
        assert self.upsert(connection, tokens, fate=fate).word == "ok"

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), tokens=tokens, counts=st.booleans(), says=st.booleans(), fate=fates)
    def beat(self, data: st.DataObject, tokens: str, counts: bool, says: bool, fate: str) -> None:
        self._beat(data.draw(st.sampled_from(list(self.connections.values()))), tokens, counts, says, fate)

    def _beat(self, connection: Connection, tokens: str, counts: bool, says: bool, fate: str = "heard") -> None:
        process = self.processes[connection.node]
        body = {
            "epoch": connection.epoch,
            "class": class_of(tokens),
            "tokens": tokens,
            "running": len(process.working) if counts else 0,
            "seq": process.seq,
            "known": list(process.working) if says else False,
        }
        self.make(self.cells().beat(CELL, connection.node, body), fate)
        if says:
            connection.table = {
                lease: sent
                for lease, sent in connection.table.items()
                if lease in process.working or sent.seq > process.seq
            }

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), dies=st.booleans(), hasty=at_once, fate=fates)
    def lose(self, data: st.DataObject, dies: bool, hasty: bool, fate: str) -> None:
        """The socket closes; when the instance died, nobody says so, and what was not sent is unknown."""
        connection = self.connections.pop(data.draw(st.sampled_from(list(self.connections))))
        if dies:
            self.orphans += [(connection.node, lease) for lease in connection.unreported]
        else:
            self.report_sent(connection)
            call = self.cells(hasty).remove(
                CELL, connection.node, epoch=connection.epoch, unsent=list(connection.pending)
            )
            if hasty:
                self.pass_time()
            self.make(call, fate)

    @precondition(lambda self: self.half_open)
    @rule(fate=fates)
    def lose_half_open(self, fate: str) -> None:
        """The old socket is noticed to be dead long after the node came back."""
        connection = self.half_open.pop(0)
        call = self.cells().remove(CELL, connection.node, epoch=connection.epoch, unsent=list(connection.pending))
        answer = self.make(call, fate)
        assert answer is None or answer.word in ("fenced", "missing", "ok")

    # ------------------------------------------------------------ jobs

    @rule(job=jobs, afresh=st.booleans(), runs_out=at_once, stays_unsent=at_once, orphan=at_once, fate=fates)
    def submit(self, job: str, afresh: bool, runs_out: bool, stays_unsent: bool, orphan: bool, fate: str) -> None:
        """A session submits; afresh: whatever was of the job before, this is a new generation of it."""
        self.generations[job] += afresh
        session, index, kind = JOBS[job]
        times = {"exec_ms": 0 if runs_out else NEVER_MS, "orphan_ms": 0 if orphan else NEVER_MS}
        spec = spec_of(job, kind=kind, session=session, index=index, **times)
        rules = {"unsent_ms": 0 if stays_unsent else NEVER_MS}
        answer = self.make(
            self.patient.under(**rules).cells.submit(CELL, job, gen=self.generations[job], spec=spec), fate
        )
        if answer is not None:
            assert answer.word in ("assigned", "queued", "refused", "finished")
            self.accepted.add(job)

    @precondition(lambda self: any(connection.pending for connection in self.connections.values()))
    @rule(data=st.data(), reports=st.booleans(), expires=at_once, fate=fates)
    def send(self, data: st.DataObject, reports: bool, expires: bool, fate: str) -> None:
        able = [connection for connection in self.connections.values() if connection.pending]
        connection = data.draw(st.sampled_from(able))
        for _ in range(data.draw(st.integers(1, LIMIT))):
            if connection.pending:
                self._send(connection, reports=reports or expires, expires=expires, fate=fate)

    @precondition(lambda self: any(connection.pending for connection in self.half_open))
    @rule(fate=fates)
    def send_half_open(self, fate: str) -> None:
        """The old owner does not know yet; the process still reads that socket."""
        connection = next(connection for connection in self.half_open if connection.pending)
        self._send(connection, reports=True, expires=False, fate=fate)

    def _send(self, connection: Connection, *, reports: bool, expires: bool, fate: str = "heard") -> None:
        lease, grant = min(connection.pending.items(), key=lambda item: item[1].seq)
        reason = connection.refuses(grant)
        if reason:
            self.refuse(connection, grant, reason, fate)
            return
        del connection.pending[lease]
        connection.handled.add(lease)
        connection.seq, connection.indexes[grant.session] = grant.seq, grant.index
        process = self.processes[connection.node]
        process.seq = grant.seq
        if not expires:  # else both the table and the process have given it up by now
            connection.table[lease] = Sent(grant.job, grant.seq)
            process.working[lease] = grant.job
        if expires:
            self.report_sent(connection)  # what went before does not expire
        connection.unreported.add(lease)
        if reports:
            self.report_sent(connection, expires=expires, fate=fate)

    def report_sent(self, connection: Connection, *, expires: bool = False, fate: str = "heard") -> None:
        leases = sorted(connection.unreported)
        if not leases:
            return
        connection.unreported.clear()
        cells = self.patient.under(ceiling_ms=0 if expires else NEVER_MS).cells
        self.make(cells.sent(CELL, connection.node, epoch=connection.epoch, leases=leases), fate)

    @precondition(lambda self: any(connection.pending for connection in self.connections.values()))
    @rule(data=st.data(), reason=st.sampled_from(("full", "index")), fate=fates)
    def refuse_one(self, data: st.DataObject, reason: str, fate: str) -> None:
        able = [connection for connection in self.connections.values() if connection.pending]
        connection = data.draw(st.sampled_from(able))
        self.refuse(connection, data.draw(st.sampled_from(list(connection.pending.values()))), reason, fate)

    def refuse(self, connection: Connection, grant: Grant, reason: str, fate: str) -> None:
        """The gate says no; a full one hands its table back first."""
        if reason == "full" and connection in self.connections.values():
            self.upsert(connection, self.tokens_of(connection.node))
        connection.pending.pop(grant.lease, None)
        connection.table.pop(grant.lease, None)  # where an upsert may have told of it as a zombie
        connection.handled.add(grant.lease)
        connection.seq = max(connection.seq, grant.seq)
        events = [(grant.job, grant.lease, "not_sent", reason)]
        self.make(self.cells().event(CELL, connection.node, epoch=connection.epoch, events=events), fate)

    @precondition(lambda self: self.at_work())
    @rule(data=st.data(), event=st.sampled_from(("acked", "started", "progress")), fate=fates)
    def report(self, data: st.DataObject, event: str, fate: str) -> None:
        connection, lease, job = data.draw(st.sampled_from(self.at_work()))
        connection.acks |= event == "acked"
        events = [(job, lease, event, "")]
        self.make(self.cells().event(CELL, connection.node, epoch=connection.epoch, events=events), fate)

    @precondition(lambda self: self.at_work())
    @rule(
        data=st.data(), ending=st.sampled_from((OK, FAILED, RETRY)), fate=st.sampled_from(("heard", "twice", "again"))
    )
    def finish(self, data: st.DataObject, ending: dict[str, Any], fate: str) -> None:
        self._finish(*data.draw(st.sampled_from(self.at_work())), ending=ending, fate=fate)

    def _finish(
        self, connection: Connection, lease: str, job: str, *, ending: dict[str, Any] = OK, fate: str = "heard"
    ) -> None:
        for old in self.half_open:
            if old.node == connection.node:  # it gave this answer on its old socket, too
                late = self.cells().finish(CELL, job, node=old.node, epoch=old.epoch, lease=lease, ending=OK)
                assert self.make(late).word == "fenced"
        del self.processes[connection.node].working[lease]
        connection.table.pop(lease, None)
        before = self.wait(self.patient.picture()).jobs.get(job)
        call = self.cells().finish(CELL, job, node=connection.node, epoch=connection.epoch, lease=lease, ending=ending)
        answer = self.make(call, fate)
        if before is not None and before["lease"] == lease:
            assert answer.word in ("applied", "already", "retried", "stale_lease")
            assert answer.word != "stale_lease" or (ending["retry"] and fate == "again")

    @rule(jobs=st.sets(jobs, min_size=1), cancels=st.booleans(), fate=fates)
    def leave(self, jobs: set[str], cancels: bool, fate: str) -> None:
        """A session goes, or has its results."""
        if cancels:
            self.make(self.cells().cancel(CELL, min(jobs), reason="USER_LEFT"), fate)
        else:
            self.make(self.cells().release(CELL, sorted(jobs)), fate)

    @rule(jobs=st.sets(jobs, min_size=3), afresh=st.booleans(), fate=fates)
    def submit_many(self, jobs: set[str], afresh: bool, fate: str) -> None:
        for job in sorted(jobs):
            self.submit(job, afresh, runs_out=False, stays_unsent=False, orphan=False, fate=fate)

    @rule(reports=st.booleans(), fate=fates)
    def send_all(self, reports: bool, fate: str) -> None:
        for connection in self.connections.values():
            while connection.pending:
                self._send(connection, reports=reports, expires=False, fate=fate)

    @precondition(lambda self: self.at_work())
    @rule(data=st.data())
    def finish_many(self, data: st.DataObject) -> None:
        for work in data.draw(st.permutations(self.at_work()))[:3]:
            self._finish(*work)

    @rule(hasty=at_once, fate=fates)
    def due(self, hasty: bool, fate: str) -> None:
        """Somebody looks."""
        if hasty:
            self.pass_time()
        self.make(self.cells(hasty).due(CELL), fate)

    def pass_time(self) -> None:
        """Longer than an owner may sit on a grant or a report, and than an attempt may take that nobody reported."""
        self.give_up_pending()
        for connection in self.connections.values():
            self.report_sent(connection)
        for node, lease in self.orphans:
            self.processes[node].working.pop(lease, None)
        self.orphans.clear()

    def give_up_pending(self) -> None:
        for connection in (*self.connections.values(), *self.half_open):
            connection.pending.clear()

    # ------------------------------------------------------------ loss of all data

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), busy=st.booleans())
    def flushall(self, data: st.DataObject, busy: bool) -> None:
        """Owners push what they hold and sessions submit again, in any order."""
        if busy:
            self.submit_many(set(JOBS), afresh=False, fate="heard")
            self.send_all(reports=True, fate="heard")
            self.all_is_well()
        over = {job for job, record in self.now.jobs.items() if record["state"] in ("FINISHED", "RELEASED")}
        tokens = {node: self.tokens_of(node) for node in self.connections}
        self.give_up_pending()  # they were of the cell that is no more
        for node, process in self.processes.items():
            if node not in self.connections:  # DESIGN P2: its owner is gone *and* the data is lost
                process.working.clear()
        self.wait(self.patient.empty())
        self.half_open.clear()
        self.accepted -= over
        for name in data.draw(st.permutations([*self.connections, *sorted(self.accepted)])):
            if name in self.connections:
                assert self.upsert(self.connections[name], tokens[name]).word == "ok"
            else:
                self.submit(name, afresh=False, runs_out=False, stays_unsent=False, orphan=False, fate="heard")

    # ------------------------------------------------------------ what must always be true

    @invariant()
    def all_is_well(self) -> None:
        """The cell is true and takes no connection for gone; work is within limits, and held; no job is lost."""
        self.now = self.wait(self.patient.check())
        for node, connection in self.connections.items():
            record = self.now.nodes[node]
            assert (record["epoch"], record["gone"]) == (connection.epoch, 0)
        for node, process in self.processes.items():
            assert len(process.working) <= LIMIT, f"{node} works on {process.working}"
            for lease in process.working:
                assert (node, lease) in self.now.held, f"{node} works on {lease}, and the cell does not hold it"
        assert self.accepted <= set(self.now.jobs)

    def at_work(self) -> list[tuple[Connection, str, str]]:
        return [
            (connection, lease, job)
            for node, connection in self.connections.items()
            for lease, job in self.processes[node].working.items()
        ]

    def tokens_of(self, node: str) -> str:
        record = self.now.nodes.get(node)
        if record is None or not record["class"]:
            return ""
        return str(self.now.parts["classes"][record["class"]], "utf-8")

    def teardown(self) -> None:
        """Whatever happened: when every node answers and every session has its results, nothing is left."""
        for node in NODES:
            self.register(node, TOKENS[1], says=True, fate="heard")
        waited: list[str] | None = None
        while self.now.held or self.now.waiting != waited:
            waited = self.now.waiting
            for connection in self.connections.values():
                self._beat(connection, TOKENS[1], counts=True, says=True)
                while connection.pending:
                    self._send(connection, reports=True, expires=False)
            for work in self.at_work():
                self._finish(*work)
            self.all_is_well()
        self.wait(self._clear())

    async def _clear(self) -> None:
        for node, connection in self.connections.items():
            await self.hasty.remove(node, epoch=connection.epoch)
        while (await self.hasty.due()).body[0]:
            pass
        for job in (await self.patient.check()).jobs:  # afresh, since some are on record for ever
            session, index, _ = JOBS[job]
            answer = await self.patient.submit(job, gen=self.generations[job] + 1, session=session, index=index)
            assert answer.word == "refused"
        await self.hasty.under(retention_ms=0).release(*JOBS)
        while (await self.hasty.due()).body[0]:
            pass
        left = await self.patient.check()
        assert left.is_empty, left.parts


@pytest.mark.parametrize("server", SERVERS)
def test_no_order_of_events_breaks_a_cell(server: str, request: pytest.FixtureRequest):
    loop = asyncio.new_event_loop()
    client = client_of(request.getfixturevalue(server))
    machine = type("Machine", (CellMachine,), {"client": client, "loop": loop})
    try:
        run_state_machine_as_test(machine, settings=SETTINGS)
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
