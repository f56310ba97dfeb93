"""The core: cells are opened where they are missing, and a loss of data is noticed once (DESIGN 3, P8)."""

import asyncio

import pytest

from dispatch.errors import DependencyDown
from dispatch.placement import DEFAULT_CELL
from dispatch.store.client import command
from tests.dispatch.roles.clients import client_of


@pytest.fixture
def losses(stand) -> list[str]:
    told: list[str] = []
    stand.core.on_data_loss.append(lambda: told.append("lost"))
    return told


async def test_a_call_to_a_cell_that_does_not_exist_opens_it(stand):
    answer = await stand.core.ask("pool#7", stand.core.cells.due("pool#7"))
    assert answer.word == "ok"
    assert stand.core.incarnations["pool#7"] == answer.incarnation


async def test_a_cell_that_is_lost_again_while_it_is_opened_is_opened_again(stand, monkeypatch):
    open_cell, opened = stand.core.cells.open, []

    def once_in_vain(cell):
        opened.append(cell)
        return open_cell(cell if len(opened) > 1 else "another#0")

    monkeypatch.setattr(stand.core.cells, "open", once_in_vain)
    answer = await stand.core.ask("pool#7", stand.core.cells.due("pool#7"))
    assert (answer.word, len(opened)) == ("ok", 2)


async def test_a_cell_seen_for_the_first_time_is_no_loss(stand, losses):
    await stand.core.ask("pool#7", stand.core.cells.due("pool#7"))
    assert losses == []


async def test_a_cell_that_was_emptied_is_a_loss_told_once(stand, losses):
    await stand.empty()
    for _ in range(3):
        await stand.core.ask(DEFAULT_CELL, stand.core.cells.due(DEFAULT_CELL))
    assert losses == ["lost"]


async def test_the_loss_of_the_life_sign_alone_is_one_too(stand, losses):
    await stand.client.run(command("DEL", stand.core.keys.presence("a")))
    await stand.instance.presence_keeper.turn()
    assert losses == ["lost"]


async def test_what_travels_in_front_of_a_call_arrives(stand):
    key = f"{stand.core.keys.prefix}:x"
    await stand.core.ask(DEFAULT_CELL, stand.core.cells.due(DEFAULT_CELL), command("SET", key, "1"))
    assert await stand.client.run(command("GET", key)) == b"1"


async def test_who_waits_for_redis_when_the_client_is_closed_hears_of_it(single_redis):
    async with client_of(single_redis) as client:
        single_redis.pause()
        calls = [asyncio.create_task(client.run(command("PING"))) for _ in range(300)]  # some fly, some wait
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await client.aclose()
        single_redis.resume()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {DependencyDown}
