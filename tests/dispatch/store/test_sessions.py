"""Session records: written by the present connection, entered into by its requests, gone in time."""

import pytest

from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.outcome import Reason, Refused
from dispatch.store.requests import Requests
from dispatch.store.sessions import Entry, SessionRecord, Sessions


@pytest.fixture
def sessions(prefix: str) -> Sessions:
    return Sessions(Keys(prefix), 360_000)


def opened(sessions: Sessions, epoch: int = 5):
    return sessions.open("s", epoch=epoch, instance="a", src="en", tgt="es")


async def test_a_record_tells_what_was_opened_and_entered(client, sessions, prefix):
    assert await client.run(opened(sessions)) is True
    bind = Requests(Keys(prefix)).bind("s 0 es", job="j0", cell="default#0", ttl_ms=300_000)
    await client.flush(bind, sessions.enter("s", 0, "es", job="j0", cell="default#0"))
    await client.run(sessions.enter("s", 1, "pt-br", job="j1", cell="default#0"))
    assert await client.run(sessions.record("s")) == SessionRecord(
        5, "a", "en", "es", {(0, "es"): Entry("j0", "default#0"), (1, "pt-br"): Entry("j1", "default#0")}
    )


async def test_what_is_settled_leaves_the_record(client, sessions):
    await client.run(opened(sessions))
    for index in range(3):
        await client.run(sessions.enter("s", index, "es", job=f"j{index}", cell="c#0"))
    for _ in range(2):
        await client.run(sessions.settle("s", [(0, "es"), (2, "es")]))
    assert list((await client.run(sessions.record("s"))).entries) == [(1, "es")]


async def test_a_later_connection_refuses_the_earlier_one_and_keeps_the_entries(client, sessions):
    await client.run(opened(sessions, epoch=5))
    await client.run(sessions.enter("s", 0, "es", job="j0", cell="c#0"))
    assert await client.run(opened(sessions, epoch=6)) is True
    refused = Refused(Reason.FENCED, "6")
    assert await client.run(opened(sessions, epoch=5)) == refused
    assert await client.run(sessions.close("s", epoch=5)) == refused
    record = await client.run(sessions.record("s"))
    assert (record.epoch, list(record.entries)) == (6, [(0, "es")])


async def test_opening_again_keeps_the_record_alive(client, sessions):
    await client.run(opened(sessions))
    await client.run(command("PEXPIRE", sessions.keys.session("s"), 1000))
    assert await client.run(opened(sessions)) is True
    assert 359_000 < await client.run(command("PTTL", sessions.keys.session("s"))) <= 360_000


async def test_an_entry_made_after_data_loss_does_not_live_for_ever(client, sessions):
    await client.run(sessions.enter("s", 0, "es", job="j0", cell="c#0"))
    assert 0 < await client.run(command("PTTL", sessions.keys.session("s"))) <= 360_000
    assert await client.run(sessions.record("s")) == SessionRecord(0, "", "", "", {(0, "es"): Entry("j0", "c#0")})
    assert await client.run(opened(sessions)) is True
    assert (await client.run(sessions.record("s"))).instance == "a"


async def test_a_closed_session_leaves_nothing(client, sessions):
    await client.run(opened(sessions))
    assert await client.run(sessions.close("s", epoch=5)) is True
    assert await client.run(sessions.close("s", epoch=5)) is True
    assert await client.run(sessions.record("s")) is None
