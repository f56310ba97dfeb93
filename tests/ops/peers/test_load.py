"""The crowd against a scheduler that plays the protocol from the page."""

from collections.abc import AsyncIterator

import pytest

from ops.peers import load
from ops.peers.wire import WireError
from tests.ops.peers.scheduler import Frame, Scheduler, running


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with running() as scheduler:
        yield scheduler


def kinds(scheduler: Scheduler) -> list[str]:
    return [frame["type"] for frame in scheduler.heard]


async def test_a_closed_loop_ends_after_its_jobs_and_times_every_stage(scheduler: Scheduler) -> None:
    report = await load.measure([scheduler.url], nodes=2, sessions=3, jobs=40, inflight=7, warm_up=5)
    assert (report.submitted, report.completed, report.errors) == (40, 40, {})
    assert (report.nodes, report.sessions, report.inflight, report.rate) == (2, 3, 7, None)
    assert tuple(report.stages) == load.STAGES
    assert all(0 < stage.p50_ms <= stage.p95_ms <= stage.p99_ms <= stage.max_ms for stage in report.stages.values())
    parts = sum(report.stages[name].p50_ms for name in load.STAGES[:3])
    assert parts == pytest.approx(report.stages["total"].p50_ms, rel=0.5)
    assert kinds(scheduler).count("utterance") == 45
    assert "job_ack" not in kinds(scheduler)


async def test_indices_rise_within_each_session_over_all_runs(scheduler: Scheduler) -> None:
    async with load.Crowd([scheduler.url], nodes=1, sessions=2) as crowd:
        await crowd.closed(inflight=2, jobs=6)
        await crowd.closed(inflight=2, jobs=6)
    for session_id in scheduler.sessions:
        sent = [frame for frame in scheduler.heard if frame["type"] == "utterance"]
        indices = [frame["utterance_index"] for frame in sent if frame["session_id"] == session_id]
        assert indices == list(range(len(indices)))


async def test_an_open_loop_submits_at_its_rate_and_waits_for_the_last(scheduler: Scheduler) -> None:
    report = await load.measure([scheduler.url], nodes=1, sessions=4, rate=200, seconds=0.25, warm_up=1)
    assert (report.submitted, report.completed, report.inflight) == (50, 50, None)
    assert 0.2 < report.wall_s < 2


async def test_a_closed_loop_ends_after_its_seconds(scheduler: Scheduler) -> None:
    report = await load.measure([scheduler.url], nodes=1, sessions=2, seconds=0.2, inflight=2, warm_up=1)
    assert report.submitted == report.completed > 0
    assert 0.2 <= report.wall_s < 2


async def test_acks_come_before_the_result_when_asked_for(scheduler: Scheduler) -> None:
    await load.measure([scheduler.url], nodes=1, sessions=1, jobs=1, inflight=1, warm_up=0, acks=True)
    told = [kind for kind in kinds(scheduler) if kind.startswith("job_")]
    assert told == ["job_ack", "job_started", "job_result"]


async def test_crossing_puts_nodes_on_the_last_and_sessions_on_the_first() -> None:
    async with running() as first, running() as last:
        crowd = load.Crowd([first.url, last.url], nodes=2, sessions=3, cross=True)
        async with crowd:
            assert (len(first.sessions), len(first.nodes)) == (3, 0)
            assert (len(last.sessions), len(last.nodes)) == (0, 2)


async def test_other_endings_are_counted_by_code_and_do_not_stop_the_loop(scheduler: Scheduler) -> None:
    def answer(role: str, frame: Frame) -> list[Frame] | None:
        if frame["type"] != "utterance":
            return None
        index = frame["utterance_index"]
        if index % 3 == 0:
            return [{"type": "error", "code": "JOB_TIMEOUT", "message": "", "details": {"utterance_index": index}}]
        if index % 3 == 1:
            return [{"type": "missing_result", "utterance_index": index, "reason": "timeout"}]
        return None

    scheduler.answer = answer
    report = await load.measure([scheduler.url], nodes=1, sessions=1, jobs=9, inflight=1, warm_up=0)
    assert (report.completed, report.errors) == (3, {"JOB_TIMEOUT": 3, "missing_result: timeout": 3})


async def test_what_never_ends_is_counted_as_lost(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LATE_SECONDS", 0.05)
    scheduler.answer = lambda role, frame: [] if frame["type"] == "utterance" else None
    report = await load.measure([scheduler.url], nodes=1, sessions=1, jobs=3, inflight=3, warm_up=0)
    assert (report.completed, report.errors, report.stages) == (0, {load.LOST: 3}, {})


async def test_a_peer_that_is_refused_is_told(scheduler: Scheduler) -> None:
    error = {"type": "error", "code": "NO_GPU_AVAILABLE", "message": "a node needs at least one GPU"}
    scheduler.answer = lambda role, frame: [error] if role == "node" else None
    with pytest.raises(WireError, match="refuses a peer: NO_GPU_AVAILABLE"):
        await load.measure([scheduler.url], nodes=1, sessions=1, jobs=1)


async def test_a_socket_that_closes_spoils_the_run(scheduler: Scheduler) -> None:
    async with load.Crowd([scheduler.url], nodes=1, sessions=1) as crowd:
        scheduler.answer = lambda role, frame: []
        await next(iter(scheduler.sessions.values())).close()
        with pytest.raises(WireError, match="/ws/session closed a peer's connection"):
            await crowd.closed(inflight=1, jobs=1)


async def test_the_race_gives_the_figures_under_the_other_peers_names(scheduler: Scheduler) -> None:
    result = (await load.race([scheduler.url], nodes=1, sessions=4)).as_result("words")
    assert (result["n_seq"], result["thr_jobs"], result["errors"]) == (1000, 3000, {})
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["thr_per_s"] > 0
