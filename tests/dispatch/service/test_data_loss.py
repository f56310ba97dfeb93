"""Redis loses everything under load: what is open heals, ends once, and no node gets more than its limit (P8)."""

import pytest

from dispatch import metrics
from dispatch.store.client import command
from tests.dispatch.service.stand import Frame, Node, Stand, until


async def noticed(*stands: Stand) -> None:
    """What an instance does by itself within a second: it reads the list of cells, keeps its owners, and watches."""
    for stand in stands:
        await stand.later(1.1 if stand is stands[0] else 0)
        await stand.core.publish_cells()
        await stand.take_due()
        stand.instance.owner_keeper.hurry()
        await stand.instance.owner_keeper.turn()
        await stand.watch()


async def test_a_connected_node_is_pushed_again_and_owned_again(stand):
    node = await stand.node()
    await stand.empty()
    await noticed(stand)
    seen = await stand.until(lambda seen: seen.nodes.get("n1", {}).get("class", "") != "")
    assert seen.nodes["n1"]["epoch"] == node.link.epoch
    assert await stand.client.run(stand.core.owners.owner(node.link.owner_key)) == "a"
    assert node.port.closed is None
    await stand.audit()


async def test_a_connected_node_is_on_the_list_of_connected_ones_again(stand):
    await stand.node()
    await stand.empty()
    await noticed(stand)
    nodes_all = stand.core.keys.nodes_all
    await stand.until(lambda seen: "n1" in seen.nodes)
    assert await stand.client.run(command("SISMEMBER", nodes_all, "n1"))


async def test_an_attempt_under_way_is_adopted_and_its_answer_counts(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    await stand.empty()
    await noticed(stand)
    seen = await stand.until(lambda seen: [job["state"] for job in seen.jobs.values()] == ["DISPATCHED"])
    assert [held["state"] for held in seen.held.values()] == ["sent"]
    node.answer(assign)
    assert await session.until_ends(1) == [(0, "result")]
    assert len(node.assignments) == 1
    await stand.until(lambda seen: not seen.held)
    await stand.audit()


async def test_a_node_holds_its_slots_through_the_loss_whoever_asks_for_work_first(stand):
    node = await stand.node(limit=1)
    busy, waiting = await stand.session(), await stand.session()
    busy.say(0)
    assign = await node.assigned()
    await stand.empty()
    waiting.say(0)
    await waiting.frame("ui_event", event="QUEUED")
    await noticed(stand)
    await stand.until(lambda seen: len(seen.held) == 1)
    assert len(node.assignments) == 1
    node.answer(assign)
    node.answer(await node.assigned(2))
    assert await busy.until_ends(1) == [(0, "result")]
    assert await waiting.until_ends(1) == [(0, "result")]
    await stand.audit()


async def test_what_waited_keeps_its_order_and_is_not_overtaken_by_what_is_said_after_the_loss(stand):
    """A node that has had the later utterance would refuse the earlier ones for good."""
    node, session = await stand.node(limit=1), await stand.session()
    for index in range(4):
        session.say(index)
    assign = await node.assigned()
    await session.frame("ui_event", event="QUEUED", queue_position=3)
    await stand.empty()
    session.say(4)
    node.answer(assign)
    await noticed(stand)
    for nth in range(2, 6):
        node.answer(await node.assigned(nth))
    assert await session.until_ends(5) == [(index, "result") for index in range(5)]
    assert [each["utterance_index"] for each in node.assignments] == [0, 1, 2, 3, 4]
    await stand.audit()


async def test_an_answer_that_is_the_first_to_meet_the_loss_is_told_and_frees_its_slot(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    assign = await node.assigned()
    await stand.empty()
    node.answer(assign)
    assert await session.until_ends(1) == [(0, "result")]
    await stand.until(lambda seen: "n1" in seen.nodes and not seen.held)
    assert not node.link.table
    session.say(1)
    node.answer(await node.assigned(2))
    assert await session.until_ends(2) == [(0, "result"), (1, "result")]
    await stand.audit()


async def test_an_answer_for_a_session_elsewhere_survives_the_loss_too(stand, build):
    other = await build("b")
    node, session = await other.node(), await stand.session()
    session.say(0)
    await until(lambda: session.link._table.get(0).submitted)
    await stand.instance.courier.quiet()
    await other.read_inbox()
    assign = await node.assigned()
    await stand.empty()
    node.answer(assign)
    await until(lambda: not node.link.table)
    await other.instance.courier.quiet()
    await stand.read_inbox()
    assert await session.until_ends(1) == [(0, "result")]


async def test_a_node_that_reports_its_work_by_sequence_keeps_what_it_was_given_after_the_loss(stand):
    node = await stand.node(limit=4)
    session = await stand.session()
    for index in range(3):
        session.say(index)
    for nth in range(1, 4):
        node.answer(await node.assigned(nth))
    await session.until_ends(3)
    await stand.empty()
    await noticed(stand)
    await stand.until(lambda seen: seen.nodes.get("n1", {}).get("class", "") != "")
    # The beat was on its way before the node got the next job: it names nothing, and echoes the sequence it knows.
    session.say(3)
    await node.assigned(4)
    await stand.until(lambda seen: any(held["state"] == "sent" for held in seen.held.values()))
    node.beat(assign_seq=3, running_job_ids=())
    await until(lambda: node.link._beating.done())
    assert len((await stand.audit()).held) == 1
    node.answer(node.assignments[3])
    assert (await session.until_ends(4))[3] == (3, "result")
    assert len(node.assignments) == 4


@pytest.mark.parametrize("answered_first", [True, False])
async def test_many_open_utterances_all_end_once_and_the_limit_holds(stand, answered_first):
    limit, sessions = 3, [await stand.session() for _ in range(8)]
    nodes = [await stand.node(f"n{number}", limit=limit) for number in range(2)]
    for session in sessions:
        session.say(0)
    await until(lambda: sum(len(node.assignments) for node in nodes) == 6)
    answered: set[str] = set()
    most = dict.fromkeys(nodes, 0)

    def live(node: Node) -> list[Frame]:
        return [frame for frame in node.assignments if frame["job_id"] not in answered]

    def answer_one() -> None:
        for node in nodes:
            most[node] = max(most[node], len(live(node)))
            if live(node):
                frame = live(node)[0]
                answered.add(frame["job_id"])
                node.answer(frame)

    await stand.empty()
    if answered_first:
        answer_one()
    for _ in range(20):
        await noticed(stand)
        await stand.until(lambda seen: not any(held["state"] == "granted" for held in seen.held.values()))
        answer_one()
        if all(session.ends for session in sessions):
            break
    assert [session.ends for session in sessions] == [[(0, "result")]] * 8
    assert all(count <= limit for count in most.values())
    await until(lambda: not any(node.link.table for node in nodes), "leases")
    await stand.until(lambda seen: not seen.held)
    await stand.audit()


async def test_late_ends_are_counted_not_told(stand):
    node, session = await stand.node(), await stand.session()
    session.say(0)
    node.answer(await node.assigned())
    await session.until_ends(1)
    before = metrics.late_ends._value.get()
    session.link.ended("job-x", "failed", "")
    assert metrics.late_ends._value.get() == before + 1
    assert len(session.ends) == 1
