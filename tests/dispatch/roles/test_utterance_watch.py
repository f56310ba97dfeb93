"""Utterance watch: what was lost is submitted again, what is finished is fetched, what is overdue ends (P1, P7)."""

import pytest

from dispatch import metrics
from dispatch.errors import DependencyDown
from dispatch.roles.utterance_watch import UtteranceWatch
from dispatch.store.client import command
from tests.dispatch.roles.clients import client_of
from tests.dispatch.service.stand import Stand, until


@pytest.fixture
async def stand(client, prefix, clock):
    stand = await Stand(client, prefix, clock).start()
    yield stand
    await stand.close()


async def waiting(stand: Stand, count: int = 1):
    """A session with so many utterances that a cell has taken in, longer ago than a second."""
    session = await stand.session()
    for index in range(count):
        session.say(index)
    await until(lambda: len([each for each in session.link._table.open() if each.submitted]) == count)
    await stand.later(1.1)
    return session


async def test_nobody_is_asked_about_when_nothing_is_open(stand, monkeypatch):
    await stand.session()
    monkeypatch.setattr(stand.instance.jobs, "states", None)  # would fail
    await stand.watch()


async def test_an_utterance_younger_than_a_second_is_not_asked_about(stand, monkeypatch):
    session = await stand.session()
    session.say(0)
    await until(lambda: session.link._table.get(0).submitted)
    monkeypatch.setattr(stand.instance.jobs, "states", None)
    await stand.watch()


async def test_one_question_per_cell_covers_all_sessions(stand, monkeypatch):
    sessions = [await waiting(stand, 2) for _ in range(3)]
    asked: list[int] = []
    states = stand.instance.jobs.states

    async def counting(cell: str, jobs: list[str]):
        asked.append(len(jobs))
        return await states(cell, jobs)

    monkeypatch.setattr(stand.instance.jobs, "states", counting)
    await stand.watch()
    assert asked == [6]
    assert all(session.ends == [] for session in sessions)


async def test_a_missing_job_is_submitted_again_under_the_same_name(stand):
    session = await waiting(stand)
    job = session.link._table.get(0).job
    await stand.client.run(command("HDEL", stand.core.keys.cell("default#0")["jobs"], job))
    before = metrics.resubmitted._value.get()
    await stand.watch()
    assert list((await stand.until(lambda seen: bool(seen.jobs))).jobs) == [job]
    assert metrics.resubmitted._value.get() == before + 1


async def test_a_missing_cell_is_a_missing_job(stand):
    session = await waiting(stand)
    job = session.link._table.get(0).job
    await stand.empty()
    await stand.watch()
    assert list((await stand.until(lambda seen: bool(seen.jobs))).jobs) == [job]
    assert await stand.client.run(command("EXISTS", stand.core.keys.payload(job)))


async def test_an_end_that_was_not_heard_of_is_found(stand):
    session = await waiting(stand)
    utterance = session.link._table.get(0)
    await stand.core.ask("default#0", stand.core.cells.cancel("default#0", utterance.job, reason="x"))
    await stand.watch()
    assert await session.until_ends(1) == [(0, "SESSION_CLOSED")]


async def test_the_deadline_is_kept_without_redis(prefix, clock, single_redis):
    async with client_of(single_redis, timeout_ms=200) as client:
        stand = await Stand(client, prefix, clock).start()
        await stand.node()
        session = await waiting(stand)
        single_redis.kill()
        clock.advance(58.8)
        with pytest.raises(DependencyDown):
            await stand.watch()
        notice = await session.frame("ui_event", event="DELAYED")
        assert notice["error_code"] == "SCHEDULER_DEPENDENCY_DOWN"
        assert session.ends == []
        clock.advance(0.2)
        await stand.watch()
        assert await session.until_ends(1) == [(0, "SCHEDULER_DEPENDENCY_DOWN")]
        single_redis.start()
        await stand.close()


async def test_a_silent_redis_is_never_taken_for_the_lack_of_a_node(prefix, clock, single_redis):
    async with client_of(single_redis, timeout_ms=200) as client:
        stand = await Stand(client, prefix, clock).start()
        session = await waiting(stand)  # nobody could do it, when the cell was last asked
        single_redis.kill()
        with pytest.raises(DependencyDown):
            await stand.watch()
        clock.advance(20)
        with pytest.raises(DependencyDown):
            await stand.watch()
        assert session.ends == []
        single_redis.start()
        await stand.close()


async def test_a_watch_without_an_answer_delays_every_page(prefix, clock, single_redis, monkeypatch):
    monkeypatch.setattr("dispatch.roles.utterance_watch._PAGE", 1)
    async with client_of(single_redis, timeout_ms=200) as client:
        stand = await Stand(client, prefix, clock).start()
        session = await waiting(stand, 3)
        single_redis.kill()
        with pytest.raises(DependencyDown):
            await stand.watch()
        await session.frame("ui_event", 3, event="DELAYED")
        single_redis.start()
        await stand.close()


async def test_what_is_heard_again_is_delayed_no_more(prefix, clock, single_redis):
    async with client_of(single_redis, timeout_ms=200) as client:
        stand = await Stand(client, prefix, clock).start()
        session = await waiting(stand)
        single_redis.pause()
        with pytest.raises(DependencyDown):
            await stand.watch()
        single_redis.resume()
        utterance = session.link._table.get(0)
        assert utterance.unheard_since is not None

        async def heard() -> bool:
            try:
                await stand.watch()
            except DependencyDown:
                return False
            return utterance.unheard_since is None

        await until(heard)
        await stand.close()


async def test_a_turn_is_a_second(stand):
    assert stand.role(UtteranceWatch).interval == 1.0
