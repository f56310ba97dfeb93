"""Work that goes on by itself: kept until it ends, waited for when asked, and heard of when it fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from dispatch import metrics

log = structlog.get_logger(__name__)


class Tasks:
    """The tasks of one owner; `owner` names it in logs and metrics."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begin it. A failure that it does not handle is logged and counted, since nobody waits for its answer."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    async def quiet(self) -> None:
        """Waits until everything begun so far, and what that begins, has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            metrics.tasks_failed.labels(self._owner).inc()
            log.error("task_failed", owner=self._owner, exc_info=error)
