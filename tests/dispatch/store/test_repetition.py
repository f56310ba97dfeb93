"""Any call may be made twice, since an answer may be lost: the second answer is as useful as the first (DESIGN 3)."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dispatch.store.cells import SCRIPTS, Answer
from dispatch.store.script import Call
from tests.dispatch.store.driver import CELL, OK, TOKENS, Driver, class_of, spec_of

Case = Callable[[Driver], Awaitable[tuple[Call[Any], list[str]]]]


async def cell_open(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.empty()
    return cell.cells.open(CELL), []


async def node_upsert(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.under(young_ms=1_000_000).submit()
    spec = {"epoch": 1, "owner": "a", "boot": "b", "limit": 2, "class": class_of(TOKENS), "tokens": TOKENS}
    told = {"acks": False, "seq": 0, "table": [("l", "lost", "sent", 1e6, 1)], "known": False}
    return cell.cells.upsert(CELL, "n1", spec | told), ["ok", "ok"]


async def node_remove(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node(limit=2)
    sent, unsent = await cell.leased("j1"), await cell.leased("j2")
    await cell.sent(sent)
    return cell.cells.remove(CELL, "n1", epoch=1, unsent=[unsent.lease]), ["ok", "ok"]


async def node_beat(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node(limit=3)
    lost, zombie, _ = [await cell.leased(job) for job in ("j1", "j2", "j3")]
    await cell.sent(lost, zombie)
    await cell.cancel("j2")
    beat = {"epoch": 1, "class": class_of(TOKENS), "tokens": TOKENS, "running": 1, "seq": 2, "known": [zombie.lease]}
    return cell.cells.beat(CELL, "n1", beat), ["ok", "ok"]


async def job_submit(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node()
    return cell.cells.submit(CELL, "j1", gen=1, spec=spec_of("j1")), ["assigned", "assigned"]


async def job_sent(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node(limit=2)
    grant = await cell.leased("j1")
    await cell.leased("j2")
    return cell.cells.sent(CELL, "n1", epoch=1, leases=[grant.lease]), ["ok", "ok"]


async def job_event(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node(limit=3)
    acked, started, refused = [await cell.leased(job) for job in ("j1", "j2", "j3")]
    events = [
        ("j1", acked.lease, "acked", ""),
        ("j2", started.lease, "started", ""),
        ("j3", refused.lease, "not_sent", "full"),
    ]
    return cell.cells.event(CELL, "n1", epoch=1, events=events), ["ok", "ok"]


async def job_finish(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node()
    grant = await cell.leased("j1")
    await cell.submit("j2")
    call = cell.cells.finish(CELL, "j1", node="n1", epoch=1, lease=grant.lease, ending=OK)
    return call, ["applied", "already"]


async def job_release(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node()
    await cell.finish(await cell.leased())
    return cell.cells.release(CELL, ["j1"]), ["ok", "ok"]


async def job_cancel(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node()
    await cell.leased()
    return cell.cells.cancel(CELL, "j1", reason="USER_LEFT"), ["applied", "already"]


async def jobs_state(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.submit()
    return cell.cells.states(CELL, ["j1", "nobody"]), ["ok", "ok"]


async def jobs_due(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node()
    await cell.under(unsent_ms=0).leased()
    return cell.cells.due(CELL), ["ok", "ok"]


async def cell_audit(cell: Driver) -> tuple[Call[Any], list[str]]:
    await cell.node()
    return cell.cells.audit(CELL), ["ok", "ok"]


CASES: tuple[Case, ...] = (
    cell_open,
    node_upsert,
    node_remove,
    node_beat,
    job_submit,
    job_sent,
    job_event,
    job_finish,
    job_release,
    job_cancel,
    jobs_state,
    jobs_due,
    cell_audit,
)

#: What a repetition cannot say again: it was told to whom it concerns, who asks for it in his own next call.
ONCE = {"jobs_due", "job_cancel"}


def test_every_script_has_its_case():
    assert {case.__name__ for case in CASES} == set(SCRIPTS)


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
async def test_a_call_made_twice_changes_the_cell_once_and_answers_alike(cell: Driver, case: Case):
    call, words = await case(cell)
    first = await cell.client.run(call)
    between = await cell.check()
    second = await cell.client.run(call)
    after = await cell.check()
    assert _lasting(after.parts) == _lasting(between.parts)
    if not isinstance(first, Answer):
        assert first == second
        return
    assert [first.word, second.word] == words
    assert first.incarnation == second.incarnation
    if case.__name__ not in ONCE:
        assert {grant.lease for grant in second.news.grants} >= {grant.lease for grant in first.news.grants}


def _lasting(parts: dict[str, Any]) -> dict[str, Any]:
    """Everything but the times at which somebody was heard of or has to be looked at."""
    seen = {name: dict(part) for name, part in parts.items()}
    seen["nodes"] = {node: record | {"beat": 0} for node, record in seen["nodes"].items()}
    seen["due"] = dict.fromkeys(seen["due"])
    return seen
