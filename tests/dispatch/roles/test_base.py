"""Roles: turns go on when Redis is silent, a broken role is started again, an end is an end."""

import asyncio

import pytest

from dispatch.clock import SystemClock
from dispatch.errors import DependencyDown
from dispatch.roles.base import Backoff, Role, supervise


class Scripted(Role):
    """Does per turn what the test wrote down, then waits to be woken."""

    name = "scripted"

    def __init__(self, *turns: Exception | None, interval: float = 3600.0) -> None:
        super().__init__(SystemClock(), interval)
        self.script = list(turns)
        self.turns = 0
        self.began = asyncio.Event()
        self.through = asyncio.Event()
        self.closed = False

    async def turn(self) -> None:
        self.turns += 1
        self.began.set()
        step = self.script.pop(0)
        if not self.script:
            self.through.set()
            self.script.append(None)
        if step is not None:
            raise step

    async def aclose(self) -> None:
        self.closed = True


async def running(role: Role) -> "asyncio.Task[None]":
    return asyncio.create_task(supervise(role, role.clock))


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_silent_redis_costs_a_quick_retry_and_no_restart():
    role = Scripted(DependencyDown("no answer"), DependencyDown("no answer"), None)
    task = await running(role)
    await asyncio.wait_for(role.through.wait(), 5)
    await ended(task)
    assert role.turns == 3
    assert role.last_ran is not None


async def test_a_role_that_breaks_is_started_again():
    role = Scripted(ValueError("bug"), None)
    task = await running(role)
    await asyncio.wait_for(role.through.wait(), 5)
    await ended(task)
    assert role.turns == 2


async def test_only_a_turn_that_ended_well_counts_as_ran():
    role = Scripted(DependencyDown("no answer"))
    task = await running(role)
    await asyncio.wait_for(role.through.wait(), 5)
    assert role.last_ran is None
    await ended(task)


async def test_a_role_takes_its_turn_when_it_is_woken():
    role = Scripted(None, None)
    task = await running(role)
    await role.began.wait()
    role.wake()
    await asyncio.wait_for(role.through.wait(), 5)
    await ended(task)


async def test_a_cancelled_role_is_closed():
    role = Scripted(None)
    task = await running(role)
    await role.through.wait()
    await ended(task)
    assert role.closed


async def test_a_role_that_breaks_while_it_ends_is_closed_too():
    role = Scripted(ValueError("bug"))
    task = await running(role)
    await role.through.wait()
    await ended(task)
    assert role.closed


def test_waiting_times_double_up_to_the_limit_and_start_anew():
    backoff = Backoff(0.1, 5.0)
    for step in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        assert step / 2 <= backoff.next() <= step
    backoff.reset()
    assert backoff.next() <= 0.1
