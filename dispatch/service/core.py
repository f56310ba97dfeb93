"""What every service stands on: one Redis client, the call factories, the sockets open here, and who we are.

Also keeps the incarnation of every cell: a changed one means that Redis lost its data, and whoever owns nodes or
sessions is told at once (DESIGN 3, P8).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from dispatch.clock import Clock
from dispatch.conf import Config
from dispatch.keys import Keys
from dispatch.store.cells import Answer, Cells, Rules
from dispatch.store.client import RedisClient, command, mapping
from dispatch.store.owners import Owners
from dispatch.store.payloads import Payloads
from dispatch.store.requests import Requests
from dispatch.store.script import Call
from dispatch.store.sessions import Sessions

log = structlog.get_logger(__name__)
Body = TypeVar("Body")


class Core:
    """Handed to services and roles; no globals, so that two instances fit in one test."""

    def __init__(
        self, *, instance: str, boot: str, config: Config, client: RedisClient, clock: Clock, fresh: Callable[[], bool]
    ) -> None:
        scheduler = config.scheduler
        self.instance = instance
        self.boot = boot
        self.config = config
        self.client = client
        self.clock = clock
        self.fresh = fresh  #: False = our presence is in doubt: take no lease, send no assignment (DESIGN 5)
        self.keys = Keys(scheduler.phase2.redis.key_prefix)
        self.cells = Cells(self.keys, Rules.of(config))
        self.owners = Owners(self.keys, ttl_ms=scheduler.phase2.owner_ttl_seconds * 1000)
        self.payloads = Payloads(self.keys)
        self.requests = Requests(self.keys)
        self.sessions = Sessions(self.keys, ttl_ms=(scheduler.task_binding.lease_seconds + 60) * 1000)
        self.incarnations: dict[str, str] = {}
        self.on_data_loss: list[Callable[[], None]] = []

    @property
    def payload_ttl_ms(self) -> int:
        """How long speech and results may lie in Redis: the deadline and a minute (DESIGN 3)."""
        return (self.config.scheduler.utterance_deadline_seconds + 60) * 1000

    async def ask(self, cell: str, call: Call[Answer[Body]], *before: Call[Any]) -> Answer[Body]:
        """Run a cell script, opening the cell first where it does not exist; `before` travels in front of it.

        Raises:
            DependencyDown: Redis did not answer; the outcome is unknown.
        """
        if before and not self.client.ordered:
            # A fresh key in a migrating slot would stop the script on a cluster: wait for it (DESIGN 3).
            await self.client.flush(*before)
            before = ()
        answer: Answer[Body] = (await self.client.flush(*before, call))[-1]
        while answer.word == "unopened":  # it may be lost again in between
            self.note(cell, await self.client.run(self.cells.open(cell)))
            answer = await self.client.run(call)
        self.note(cell, answer.incarnation)
        return answer

    def note(self, cell: str, incarnation: str) -> None:
        """A cell has answered under this incarnation."""
        known = self.incarnations.get(cell)
        if known == incarnation or not incarnation:
            return
        self.incarnations[cell] = incarnation
        if known is not None:
            log.warning("cell_lost_its_data", cell=cell, incarnation=incarnation, before=known)
            self.lost_data()

    def lost_data(self) -> None:
        """Redis has lost what it knew: everybody here pushes it again."""
        for react in self.on_data_loss:
            react()

    async def publish_cells(self) -> None:
        """Put our cells into the shared list, and learn of new ones and of new incarnations."""
        there = mapping(await self.client.run(command("HGETALL", self.keys.cells)))
        for cell, incarnation in there.items():
            # Incarnations are times: an older one in the list is a late writer's, a newer one is data loss.
            if int(incarnation) > int(self.incarnations.get(cell, 0)):
                self.note(cell, incarnation)
        missing = [pair for cell, mine in self.incarnations.items() if there.get(cell) != mine for pair in (cell, mine)]
        if missing:
            await self.client.run(command("HSET", self.keys.cells, *missing))
