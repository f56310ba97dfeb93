"""Recomputes, a page at a time, what the cells keep about their nodes, and reports what is not true.

Nothing should ever be found: every figure of a cell is changed by the same script as what it counts. A fault is a bug
of ours, said aloud before a slot is missed (DESIGN 3, `cell_audit`).
"""

from collections.abc import Callable

import structlog

from dispatch import metrics
from dispatch.roles.base import Role
from dispatch.service.core import Core

log = structlog.get_logger(__name__)

_SECONDS = 5.0
_THROUGH = "0"


class Auditor(Role):
    """One turn audits the next page of each cell that this instance looks after."""

    name = "auditor"

    def __init__(self, core: Core, looks_after: Callable[[str], bool]) -> None:
        super().__init__(core.clock, _SECONDS)
        self._core = core
        self._looks_after = looks_after
        self._cursors: dict[str, str] = {}

    async def turn(self) -> None:
        for cell in list(self._core.incarnations):
            if not self._looks_after(cell):
                self._cursors.pop(cell, None)
                continue
            answer = await self._core.ask(cell, self._core.cells.audit(cell, self._cursors.get(cell, _THROUGH)))
            self._cursors[cell] = answer.body.cursor
            for fault in answer.body.faults:
                metrics.cell_faults.inc()
                log.error("cell_fault", cell=cell, fault=fault)
