"""Takes overdue steps of cells: often for those this instance wins by rendezvous, now and then for all the others.

Any instance may take any step, since each is repaired inside the script that takes it; the rendezvous only spares
Redis the same question from everybody (DESIGN 3, "Who looks").
"""

import hashlib
from collections.abc import Iterable

from dispatch import metrics
from dispatch.roles.base import Role
from dispatch.service.core import Core
from dispatch.service.courier import Courier
from dispatch.store.presence import Presence

_OTHERS_SECONDS = 5.0
_COUNT_SECONDS = 1.0  #: how often the living instances are counted
_PAGES = 8  #: pages of 64 steps taken from one cell in one turn


class DueKeeper(Role):
    """One turn asks the cells that are due for a look."""

    name = "due_keeper"

    def __init__(self, core: Core, courier: Courier, presence: Presence) -> None:
        super().__init__(core.clock, core.config.scheduler.job_timeout.scan_interval_ms / 1000)
        self._core = core
        self._courier = courier
        self._presence = presence
        self._living: set[str] = {core.instance}
        self._counted: float | None = None
        self._looked: dict[str, float] = {}

    async def turn(self) -> None:
        now = self._core.clock.monotonic()
        if self._counted is None or now - self._counted >= _COUNT_SECONDS:
            boots = await self._core.client.run(self._presence.instances())
            self._living = {each.instance for each in boots if each.age_ms < self._presence.ttl_ms} | {
                self._core.instance
            }
            self._counted = now
        for cell in list(self._core.incarnations):
            if self.looks_after(cell) or now - self._looked.get(cell, 0.0) >= _OTHERS_SECONDS:
                self._looked[cell] = now
                await self._take(cell)

    def looks_after(self, cell: str) -> bool:
        """Whether this instance wins the cell among those that live."""
        return winner(cell, self._living) == self._core.instance

    async def _take(self, cell: str) -> None:
        for _ in range(_PAGES):
            answer = await self._core.ask(cell, self._core.cells.due(cell))
            self._courier.pass_on(answer.news)
            taken = answer.body[0]
            metrics.due_steps.inc(taken)
            if taken < 64:
                return


def winner(cell: str, instances: Iterable[str]) -> str:
    """The instance that looks after this cell: highest random weight, the same on every instance."""
    return max(instances, key=lambda each: hashlib.blake2b(f"{cell} {each}".encode(), digest_size=8).digest())
