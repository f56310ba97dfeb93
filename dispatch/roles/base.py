"""A role is a background duty done in turns; it is supervised, and says when it last did its duty (DESIGN 6)."""

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from typing import ClassVar

import structlog

from dispatch import metrics
from dispatch.clock import Clock
from dispatch.errors import DependencyDown

log = structlog.get_logger(__name__)


class Backoff:
    """Waiting times in seconds that double from `first` to `most`, each between half of it and the whole."""

    def __init__(self, first: float, most: float) -> None:
        self.first = first
        self.most = most
        self._step = first

    def next(self) -> float:
        """The time to wait now; the one after it is longer."""
        step = self._step
        self._step = min(2 * step, self.most)
        return step * random.uniform(0.5, 1.0)  # noqa: S311  so that those who failed together do not return together

    def reset(self) -> None:
        """It worked."""
        self._step = self.first


class Role(ABC):
    """One background duty; `turn` does it once."""

    name: ClassVar[str]

    def __init__(self, clock: Clock, interval: float) -> None:
        self.clock = clock
        self.interval = interval  #: seconds between two turns; a turn may change it
        self.last_ran: float | None = None  #: when the last turn ended well, on the monotonic clock; None before that
        self._wake = asyncio.Event()

    @abstractmethod
    async def turn(self) -> None:
        """Do the duty once.

        Raises:
            DependencyDown: Redis did not answer; the next turn makes up for it.
        """

    def wake(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    async def run(self) -> None:
        """Turn after turn, without end."""
        backoff = Backoff(0.1, 1.0)
        answered = True
        while True:
            try:
                await self.turn()
            except DependencyDown as error:
                metrics.role_waits.labels(self.name).inc()
                if answered:
                    log.warning("role_waits_for_redis", role=self.name, problem=str(error))
                answered = False
                await self._pause(backoff.next())
                continue
            if not answered:
                log.info("role_goes_on", role=self.name)
            answered = True
            backoff.reset()
            self.last_ran = self.clock.monotonic()
            metrics.role_ran.labels(self.name).set(self.clock.wall_ms() / 1000)
            await self._pause(self.interval)

    async def aclose(self) -> None:  # noqa: B027  most roles have nothing but their turns
        """End what the role started besides its turns; called once, when nothing runs it any more."""

    async def _pause(self, seconds: float) -> None:
        """Until the time is over or somebody wakes the role; at least once round the event loop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()
        await asyncio.sleep(0)


async def supervise(role: Role, clock: Clock) -> None:
    """Run the role until this task is cancelled; start it again when it fails, ever more slowly (0.1 s to 5 s)."""
    backoff = Backoff(0.1, 5.0)
    try:
        while True:
            started = clock.monotonic()
            try:
                await role.run()
            except Exception as error:
                log.exception("role_failed", role=role.name, problem=str(error))
                metrics.role_restarts.labels(role.name).inc()
            if clock.monotonic() - started > 2 * backoff.most:
                backoff.reset()
            await asyncio.sleep(backoff.next())
    finally:
        await role.aclose()
