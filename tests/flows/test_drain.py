"""An instance that is told to stop lets running work end and sends everybody elsewhere."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.instances import Backend, InstanceProcess
from tests.flows.peers import Peer
from tests.flows.stage import Stage

RESTART = 1012


@pytest.fixture(params=["daphne", "uvicorn"])
def leaving(request: pytest.FixtureRequest, backend: Backend, home: Path) -> Iterator[InstanceProcess]:
    """A third instance, which the story stops."""
    instance = InstanceProcess("leaving", backend, home, kind=request.param)
    try:
        instance.wait_ready()
        yield instance
    finally:
        instance.kill()


async def test_a_stopped_instance_ends_its_work_first(stage: Stage, leaving: InstanceProcess):
    here, idle = await stage.node(leaving, limit=3), await stage.session(leaving)
    session, elsewhere = await stage.session(leaving), await stage.session(stage.a)
    await session.say(0)
    await elsewhere.say(0)
    jobs = [await here.assignment(), await here.assignment()]
    await session.say(1)
    jobs.append(await here.assignment())
    afar = await stage.node(stage.b, limit=1)
    await session.say(2)
    job_afar = await afar.assignment()

    leaving.terminate()
    assert await idle.closed() == RESTART
    assert await asyncio.to_thread(leaving.readyz) == (503, ["draining"])
    late = await stage.open(Peer, leaving)
    assert await late.closed() == RESTART
    await here.answer(jobs.pop())
    await elsewhere.say(1)
    await elsewhere.expect("ui_event", event="QUEUED")  # there is a free slot, but it is leaving

    await afar.answer(job_afar)
    for job in jobs:
        await here.answer(job)
    for index in range(3):
        await session.result(index)
    await elsewhere.result(0)
    assert await session.closed() == RESTART
    assert await here.closed() == RESTART
    assert here.of("job_assign") == []
    assert await asyncio.to_thread(leaving.wait_exit) == 0
    assert leaving.errors() == []
    await afar.answer(await afar.assignment(session_id=elsewhere.session_id))
    await elsewhere.result(1)
