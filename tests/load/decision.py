"""What a dispatch decision costs, by the size of the fleet and the number of classes (P10)."""

import asyncio
import re
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from dispatch.conf import Config
from dispatch.keys import Keys
from dispatch.placement import HINTS
from dispatch.store.cells import Cells, Rules
from dispatch.store.client import RedisClient, command
from dispatch.store.requests import Requests

_CELL = "default#0"
_KIND = "aud:public,pair:en>es,svc:asr,svc:nmt,svc:tts"
_JOBS = 1000  #: decisions per round
_BATCH = 250  #: of them under way together, so that the smallest fleet has the slots
_UNDER_WAY = 64
_OK = {"outcome": "ok", "reason": "", "retry": False, "acked": False}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One fleet: medians over the rounds, in µs."""

    nodes: int
    classes: int
    script_us: float  #: time of job_submit inside Redis
    found: int  #: jobs that got a node, of `jobs`
    jobs: int


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Calls per second from one Python process with 64 under way, in the same minute."""

    bind_and_submit: float
    no_op: float

    @property
    def ratio(self) -> float:
        return self.no_op / self.bind_and_submit


def _tokens(number: int, fitting: bool) -> str:
    pairs = {f"pair:en>{chr(97 + number // 26)}{chr(97 + number % 26)}x"} | ({"pair:en>es"} if fitting else set())
    return f",{','.join(sorted({'aud:public', 'svc:asr', 'svc:nmt', 'svc:tts'} | pairs))},"


def _script_time(info: bytes) -> float:
    """µs spent in scripts, out of INFO commandstats."""
    found = re.search(rb"cmdstat_evalsha:calls=\d+,usec=(\d+)", info)
    return float(found[1]) if found else 0.0


def _spec(number: int, hints: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": f"{_KIND}|default",
        "session": f"s{number}",
        "index": 0,
        "origin": "a",
        "boot": "b",
        "exec_ms": 30_000,
        "orphan_ms": 120_000,
        "hints": list(hints),
    }


class Fleet:
    """A cell full of nodes. `fitting` of the `classes` serve the jobs asked for; nodes are dealt out in turn."""

    def __init__(
        self, client: RedisClient, prefix: str, *, nodes: int, classes: int, usable: int | None = None
    ) -> None:
        self.client = client
        self.nodes = nodes
        self.classes = classes
        self.usable = usable  #: nodes that fit at all; None = every node's class does
        self.cells = Cells(Keys(prefix), Rules.of(Config()))
        self.requests = Requests(Keys(prefix))
        self.hints = [f"c{number:03}" for number in range(min(classes, HINTS))] if usable is None else ["c000"]
        self._done = 0

    async def populate(self) -> None:
        await self.client.run(self.cells.open(_CELL))
        for start in range(0, self.nodes, 500):
            calls = [self._upsert(number) for number in range(start, min(start + 500, self.nodes))]
            await asyncio.gather(*(self.client.run(call) for call in calls))

    def _upsert(self, number: int) -> Any:
        if self.usable is None:
            kind, fitting = number % self.classes, True
        else:
            fitting = number < self.usable
            kind = 0 if fitting else 1 + number % max(1, self.classes - 1)
        node = {"epoch": 1, "owner": "a", "boot": "b", "limit": 64, "acks": False, "table": [], "known": False}
        node |= {"class": f"c{kind:03}", "tokens": _tokens(kind, fitting)}
        return self.cells.upsert(_CELL, f"node-{number}", node)

    async def round(self) -> tuple[float, int]:
        """(µs of one job_submit inside Redis, jobs that were leased) over `_JOBS` jobs, one at a time."""
        spent, found = 0.0, 0
        for start in range(self._done, self._done + _JOBS, _BATCH):
            await self.client.run(command("CONFIG", "RESETSTAT"))
            grants = []
            for number in range(start, start + _BATCH):
                answer = await self.client.run(
                    self.cells.submit(_CELL, f"job-{number}", gen=1, spec=_spec(number, self.hints))
                )
                grants += answer.news.grants
            spent += _script_time(await self.client.run(command("INFO", "commandstats")))
            found += len(grants)
            for grant in grants:
                await self.client.run(
                    self.cells.finish(_CELL, grant.job, node=grant.node, epoch=1, lease=grant.lease, ending=_OK)
                )
        self._done += _JOBS
        return spent / _JOBS, found


async def costs(client: RedisClient, fleets: Sequence[tuple[int, int, int | None]], *, rounds: int) -> list[Cost]:
    """The same decisions in each fleet (nodes, classes, usable nodes), rounds interleaved so that drift hits all."""
    built = [
        Fleet(client, f"bench{number}", nodes=nodes, classes=classes, usable=usable)
        for number, (nodes, classes, usable) in enumerate(fleets)
    ]
    for fleet in built:
        await fleet.populate()
    seen: list[list[tuple[float, int]]] = [[] for _ in built]
    for _ in range(rounds):
        for fleet, rows in zip(built, seen, strict=True):
            rows.append(await fleet.round())
    return [
        Cost(
            nodes=fleet.nodes,
            classes=fleet.classes,
            script_us=round(statistics.median(cost for cost, _ in rows), 1),
            found=sum(found for _, found in rows),
            jobs=_JOBS * rounds,
        )
        for fleet, rows in zip(built, seen, strict=True)
    ]


async def rates(client: RedisClient, *, rounds: int) -> Rate:
    """Bind and submit against a script that does nothing, 64 under way, in turn; medians."""
    fleet = Fleet(client, "rates", nodes=1000, classes=1)
    await fleet.populate()
    no_op = (await client.run(command("SCRIPT", "LOAD", "return 1"))).decode()
    counter = iter(range(10**9))

    async def submit() -> None:
        number = next(counter)
        job = f"job-{number}"
        binding = await client.run(fleet.requests.bind(f"s{number} 0 es", job=job, cell=_CELL, ttl_ms=60_000))
        answer = await client.run(fleet.cells.submit(_CELL, binding.job, gen=1, spec=_spec(number, fleet.hints)))
        grant = answer.news.grants[0]
        done.append(grant)

    async def nothing() -> None:
        await client.run(command("EVALSHA", no_op, 0))

    async def per_second(work: Any, count: int) -> float:
        left = iter(range(count))

        async def loop() -> None:
            for _ in left:
                await work()

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(loop() for _ in range(_UNDER_WAY)))
        return count / (asyncio.get_running_loop().time() - began)

    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        done: list[Any] = []
        found.append((await per_second(submit, 3000), await per_second(nothing, 10_000)))
        for grant in done:
            await client.run(
                fleet.cells.finish(_CELL, grant.job, node=grant.node, epoch=1, lease=grant.lease, ending=_OK)
            )
    return Rate(
        bind_and_submit=round(statistics.median(each for each, _ in found)),
        no_op=round(statistics.median(each for _, each in found)),
    )
