"""Due keeper: overdue steps are taken, the own cells often and the others now and then (DESIGN 3, "Who looks")."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch import metrics
from dispatch.placement import DEFAULT_CELL
from dispatch.roles.due_keeper import DueKeeper, winner
from dispatch.store.client import command
from tests.dispatch.service.stand import Stand, until


@pytest.fixture
async def build(client, prefix, clock):
    stands: list[Stand] = []

    async def build(name: str = "a", **changes: object) -> Stand:
        stands.append(Stand(client, prefix, clock, name, **changes))
        return await stands[-1].start()

    yield build
    for stand in stands:
        await stand.close()


@pytest.fixture
async def stand(build):
    return await build()


def asked(stand: Stand, monkeypatch) -> Counter[str]:
    """How often each cell is asked from now on."""
    counted: Counter[str] = Counter()
    keeper = stand.role(DueKeeper)
    take = keeper._take

    async def counting(cell: str) -> None:
        counted[cell] += 1
        await take(cell)

    monkeypatch.setattr(keeper, "_take", counting)
    return counted


# --- the rendezvous -----------------------------------------------------------------------------------------------

names = st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=6)


@given(names, st.text("xyz#0", min_size=1))
def test_everybody_names_the_same_winner_and_only_its_own_death_changes_it(instances, cell):
    chosen = winner(cell, instances)
    assert chosen in instances
    assert winner(cell, sorted(instances, reverse=True)) == chosen
    for other in instances - {chosen}:
        assert winner(cell, instances - {other}) == chosen


def test_cells_are_spread_over_the_instances():
    won = Counter(winner(f"pool#{number}", ["a", "b", "c"]) for number in range(300))
    assert min(won.values()) > 60


async def test_the_winner_asks_in_every_turn_and_the_others_every_five_seconds(build, monkeypatch):
    stands = {"a": await build("a"), "b": await build("b")}
    mine = winner(DEFAULT_CELL, stands)
    (loser,) = stands.keys() - {mine}
    counts = {name: asked(stand, monkeypatch) for name, stand in stands.items()}
    for _ in range(12):
        for stand in stands.values():
            await stand.take_due()
            await stand.instance.presence_keeper.turn()
        stands["a"].clock.advance(1)
    assert counts[mine][DEFAULT_CELL] == 12
    assert counts[loser][DEFAULT_CELL] == 3  # at 0, 5 and 10 s


async def test_who_is_left_alone_asks_in_every_turn(build, monkeypatch):
    stands = {"a": await build("a"), "b": await build("b")}
    mine = winner(DEFAULT_CELL, stands)
    (loser,) = stands.keys() - {mine}
    await stands[mine].instance.presence_keeper.leave()
    counted = asked(stands[loser], monkeypatch)
    for _ in range(3):
        await stands[loser].take_due()
        stands[loser].clock.advance(1)
    assert counted[DEFAULT_CELL] == 3


# --- what it takes ------------------------------------------------------------------------------------------------


async def test_a_lease_that_nobody_sends_goes_to_another_node(build):
    stand = await build("a", **{"job_timeout.unsent_ms": 50})
    mute = await stand.node("n1")
    mute.link._pushed = False  # grants come, and nothing goes out
    session = await stand.session()
    session.say(0)
    await until(lambda: bool(mute.link._queue))
    other = await stand.node("n2")

    async def moved() -> bool:
        await stand.take_due()
        return bool(other.assignments)

    await until(moved)
    other.answer(other.assignments[0])
    assert await session.until_ends(1) == [(0, "result")]
    assert mute.assignments == []


async def test_an_attempt_past_its_time_is_stopped_and_done_elsewhere(build):
    stand = await build("a", job_timeout_seconds=1)
    slow = await stand.node("n1")
    session = await stand.session()
    session.say(0)
    await slow.assigned()
    await stand.until(lambda seen: any(held["state"] == "sent" for held in seen.held.values()))
    other = await stand.node("n2")
    await _overdue(stand, "lease ")
    await stand.take_due()
    await slow.frame("job_cancel", reason="job_timeout")
    other.answer(await other.assigned())
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_job_that_all_attempts_missed_ends_here_and_is_told(stand):
    session = await stand.session()
    session.say(0)
    await session.frame("ui_event", event="QUEUED")
    await _overdue(stand, "job ")
    await stand.take_due()
    assert await session.until_ends(1) == [(0, "JOB_TIMEOUT")]


async def test_more_than_a_page_is_taken_in_one_turn(stand):
    due = stand.core.keys.cell(DEFAULT_CELL)["due"]
    for number in range(200):
        await stand.client.run(command("ZADD", due, 1, f"job nobody-{number}"))
    before = metrics.due_steps._value.get()
    await stand.take_due()
    assert metrics.due_steps._value.get() == before + 200
    assert await stand.client.run(command("ZCARD", due)) == 1


async def _overdue(stand: Stand, what: str) -> None:
    """The time of these steps has come."""
    due = stand.core.keys.cell(DEFAULT_CELL)["due"]
    for step in await stand.client.run(command("ZRANGE", due, 0, -1)):
        if step.decode().startswith(what):
            await stand.client.run(command("ZADD", due, 1, step))
