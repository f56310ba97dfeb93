"""Directory keeper: figures that are true when read, kept small, and harmless when stale (DESIGN 4)."""

import msgspec
import pytest

from dispatch.placement import DEFAULT_CELL, CellFigures
from dispatch.store.client import command
from tests.dispatch.service.stand import Stand, until

KIND = "aud:public,pair:en>es,svc:asr,svc:nmt,svc:tts|default"


@pytest.fixture
async def stand(client, prefix, clock):
    stand = await Stand(client, prefix, clock).start()
    yield stand
    await stand.close()


async def figures(stand: Stand) -> CellFigures:
    await stand.keep_directory()
    return stand.instance.directory.cells[DEFAULT_CELL]


async def test_a_free_node_becomes_a_hint(stand):
    assert stand.instance.directory.choose(KIND).hints == ()
    await stand.node()
    seen = await figures(stand)
    ((name, tokens),) = seen.classes.items()
    assert ",pair:en>es," in tokens
    assert seen.free == {name: 1}
    assert stand.instance.directory.choose(KIND).hints == (name,)


async def test_a_busy_node_still_fits_and_is_no_hint(stand):
    node = await stand.node(limit=1)
    session = await stand.session()
    session.say(0)
    await node.assigned()
    await figures(stand)
    choice = stand.instance.directory.choose(KIND)
    assert (choice.hints, choice.fitting) == ((), 1)


async def test_a_class_that_is_gone_is_forgotten(stand):
    node = await stand.node()
    assert len((await figures(stand)).classes) == 1
    node.beat(capability_by_type=())
    node.beat(capability_by_type=())
    node.beat(capability_by_type=())
    await node.frame("node_status", status="degraded")
    await stand.until(lambda seen: seen.nodes["n1"]["class"] == "")
    assert (await figures(stand)).classes == {}


async def test_tokens_that_are_known_are_not_read_again(stand):
    await stand.node()
    first = await figures(stand)
    assert (await figures(stand)).classes is first.classes


async def test_a_stale_figure_never_hides_a_free_node(stand):
    await figures(stand)
    node = await stand.node()
    session = await stand.session()
    session.say(0)  # the directory still knows of nobody
    await node.assigned()


async def test_a_hint_at_a_class_without_a_free_node_costs_nothing_but_a_look(stand):
    first = await stand.node(limit=1)
    await figures(stand)
    session = await stand.session()
    session.say(0)
    await first.assigned()
    wide = await stand.node("n2", features_supported=None, max_concurrent_jobs=1)
    session.say(1)  # hinted at the first node's class only
    await wide.assigned()


async def test_a_class_that_never_was_is_no_trap(stand):
    node = await stand.node()
    known = await figures(stand)
    stand.instance.directory.cells[DEFAULT_CELL] = msgspec.structs.replace(
        known, classes={"ghost": next(iter(known.classes.values()))}, free={"ghost": 5}
    )
    session = await stand.session()
    session.say(0)
    await node.assigned()


async def test_our_cells_are_on_the_shared_list_and_after_a_loss_again(stand):
    cells = stand.core.keys.cells
    await stand.keep_directory()
    listed = await stand.client.run(command("HGET", cells, DEFAULT_CELL))
    assert listed.decode() == stand.core.incarnations[DEFAULT_CELL]
    await stand.empty()
    await stand.keep_directory()
    assert await stand.client.run(command("HGET", cells, DEFAULT_CELL)) == listed


async def test_a_newer_incarnation_on_the_list_is_a_loss_of_data_and_an_older_one_is_not(stand):
    lost: list[int] = []
    stand.core.on_data_loss.append(lambda: lost.append(1))
    cells, mine = stand.core.keys.cells, stand.core.incarnations[DEFAULT_CELL]
    await stand.client.run(command("HSET", cells, DEFAULT_CELL, int(mine) - 1))
    await stand.keep_directory()
    assert lost == []
    assert (await stand.client.run(command("HGET", cells, DEFAULT_CELL))).decode() == mine
    await stand.client.run(command("HSET", cells, DEFAULT_CELL, int(mine) + 1))
    await stand.core.publish_cells()
    assert lost == [1]


async def test_an_emptied_cell_is_opened_anew_and_told_within_one_turn_of_the_due_keeper(stand):
    lost: list[int] = []
    stand.core.on_data_loss.append(lambda: lost.append(1))
    await stand.node()
    await stand.empty()
    await stand.take_due()
    assert lost == [1]
    await stand.until(lambda seen: "n1" in seen.nodes)
    await until(lambda: not stand.instance.nodes._tasks)
