"""Drives one cell from a test: short calls with sensible defaults, under rules whose every time is never or at once."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from dispatch.keys import Keys
from dispatch.store.cells import Answer, Audit, Cells, Grant, HeldLease, JobView, NodeView, Rules, Zombie, nonce
from dispatch.store.client import RedisClient
from dispatch.store.script import Call
from tests.dispatch.store.picture import Picture, picture

T = TypeVar("T")

CELL = "default#0"
NEVER_MS = 10_000_000
KIND = "en>es|tenant"
TOKENS = ",en>es,"
OK = {"outcome": "ok", "reason": "", "retry": False, "acked": False}
RETRY = {"outcome": "failed", "reason": "MODEL_NOT_AVAILABLE", "retry": True, "acked": False}

#: Nothing becomes due, and the cell counts as old.
PATIENT = Rules(
    unsent_ms=NEVER_MS,
    ack_ms=NEVER_MS,
    ceiling_ms=NEVER_MS,
    stale_ms=NEVER_MS,
    grace_ms=NEVER_MS,
    unclaimed_ms=NEVER_MS,
    retention_ms=NEVER_MS,
    presence_ms=1000,
    young_ms=0,
    sample=4,
    max_waiting=100,
    tries=3,
)


class Driver:
    """One cell as its callers see it. `under(ceiling_ms=0)` is the same cell under other rules."""

    def __init__(
        self, client: RedisClient, keys: Keys, rules: Rules = PATIENT, *, nonce: Callable[[], str] = nonce
    ) -> None:
        self.client = client
        self.keys = keys
        self.rules = rules
        self.nonce = nonce
        self.cells = Cells(keys, rules, nonce=nonce)

    def under(self, **rules: int) -> "Driver":
        return Driver(self.client, self.keys, msgspec.structs.replace(self.rules, **rules), nonce=self.nonce)

    async def run(self, call: Call[T]) -> T:
        """Run a call; a cell that is missing is opened, as callers do."""
        answer = await self.client.run(call)
        if isinstance(answer, Answer) and answer.word == "unopened":
            await self.client.run(self.cells.open(CELL))
            answer = await self.client.run(call)
        return answer

    async def empty(self) -> None:
        """Lose all data."""
        target = {"target_nodes": "primaries"} if not self.client.ordered else {}
        await self.client.reader.execute_command("FLUSHALL", **target)

    async def picture(self) -> Picture:
        return await picture(self.client, self.keys, CELL)

    async def check(self) -> Picture:
        """Read the cell; nothing in it may be untrue, and its own audit has to agree."""
        seen = await self.picture()
        faults = seen.faults()
        assert not faults, "; ".join(faults)
        audit: Answer[Audit] = await self.run(self.cells.audit(CELL))
        assert audit.body.faults == []
        return seen

    async def node(
        self,
        node: str = "n1",
        *,
        epoch: int = 1,
        limit: int = 1,
        tokens: str = TOKENS,
        owner: str = "a",
        acks: bool = False,
        seq: int = 0,
        table: Sequence[tuple[Any, ...]] = (),
        known: Sequence[str] | bool = False,
    ) -> Answer[NodeView]:
        return await self.run(
            self.cells.upsert(
                CELL,
                node,
                {
                    "epoch": epoch,
                    "owner": owner,
                    "boot": "boot",
                    "limit": limit,
                    "class": class_of(tokens),
                    "tokens": tokens,
                    "acks": acks,
                    "seq": seq,
                    "table": table,
                    "known": known,
                },
            )
        )

    async def remove(self, node: str = "n1", *, epoch: int = 1, unsent: Sequence[str] = ()) -> Answer[None]:
        return await self.run(self.cells.remove(CELL, node, epoch=epoch, unsent=unsent))

    async def beat(
        self,
        node: str = "n1",
        *,
        epoch: int = 1,
        tokens: str = TOKENS,
        running: int = 0,
        seq: int = 0,
        known: Sequence[str] | bool = False,
    ) -> Answer[list[Zombie]]:
        beat = {
            "epoch": epoch,
            "class": class_of(tokens),
            "tokens": tokens,
            "running": running,
            "seq": seq,
            "known": known,
        }
        return await self.run(self.cells.beat(CELL, node, beat))

    async def submit(self, job: str = "j1", *, gen: int = 1, **spec: Any) -> Answer[JobView]:
        return await self.run(self.cells.submit(CELL, job, gen=gen, spec=spec_of(job, **spec)))

    async def sent(self, *grants: Grant) -> Answer[list[str]]:
        leases = [grant.lease for grant in grants]
        return await self.run(self.cells.sent(CELL, grants[0].node, epoch=grants[0].epoch, leases=leases))

    async def event(self, grant: Grant, event: str, reason: str = "") -> Answer[list[str]]:
        events = [(grant.job, grant.lease, event, reason)]
        return await self.run(self.cells.event(CELL, grant.node, epoch=grant.epoch, events=events))

    async def finish(self, grant: Grant, ending: dict[str, Any] = OK, *, epoch: int | None = None) -> Answer[list[str]]:
        call = self.cells.finish(
            CELL, grant.job, node=grant.node, epoch=epoch or grant.epoch, lease=grant.lease, ending=ending
        )
        return await self.run(call)

    async def cancel(self, job: str = "j1", reason: str = "USER_LEFT") -> Answer[list[str]]:
        return await self.run(self.cells.cancel(CELL, job, reason=reason))

    async def release(self, *jobs: str) -> Answer[None]:
        return await self.run(self.cells.release(CELL, jobs))

    async def state(self, job: str = "j1") -> JobView:
        answer = await self.run(self.cells.states(CELL, [job]))
        return msgspec.convert(answer.body[0], JobView)

    async def due(self, limit: int = 64) -> Answer[tuple[int]]:
        return await self.run(self.cells.due(CELL, limit=limit))

    async def leased(self, job: str = "j1", **spec: Any) -> Grant:
        """Submit a job that gets a slot at once."""
        (grant,) = (await self.submit(job, **spec)).news.grants
        return grant


def next_millisecond() -> None:
    """Return when the clock shows another one, so that what follows is younger than what went before."""
    last = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == last:
        pass


def class_of(tokens: str) -> str:
    """A class is named after its tokens; without any it serves nothing."""
    return f"class{tokens.strip(',').replace(',', '+')}" if tokens else ""


def spec_of(job: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": KIND,
        "session": f"session-{job}",
        "index": 0,
        "origin": "a",
        "boot": "boot",
        "exec_ms": NEVER_MS,
        "orphan_ms": NEVER_MS,
        "hints": [],
    } | spec


def table_of(*held: Grant | HeldLease, state: str = "sent") -> list[tuple[str, str, str, float, int]]:
    """What the owner connection tells of attempts that it sent and that have not ended."""
    return [(each.lease, each.job, state, float(PATIENT.ceiling_ms), each.seq) for each in held]
