"""After the load stops: whatever still lies in Redis has an owner that lives, or a time to live (P9)."""

import re

from dispatch.store.client import command
from tests.dispatch.service.stand import Stand, until

#: What may outlive the last peer: lists and figures of a fixed size.
OF_THE_INSTANCE = [
    r":v1:cells",
    r":v1:instances",
    r":schedulers:presence:a",
    r":streams:\{instance:a\}:inbox",
]
OF_THE_CELL = r":v1:\{cell:default#0\}:\w+"
#: What stays a while: answers to repeated requests, epochs that fence late words, answers for sessions that had left.
EXPIRING = [
    r":v1:bind:\{req:\w+\}",
    r":(nodes|sessions):owner:\{\w+:[\w-]+\}:epoch",
    r":v1:result:\{job:[\w-]+\}:\w+",
]


async def load(stand: Stand) -> None:
    """Results, a failure, an end without an answer, a refusal, a session and a node that leave in the middle."""
    node = await stand.node("n1", limit=2)
    sessions = [await stand.session() for _ in range(3)]
    for index in range(2):
        for session in sessions[:2]:
            session.say(index, audio="A" * 40_000)
    for nth in range(1, 5):
        assign = await node.assigned(nth)
        node.answer(assign, error="INVALID_MESSAGE" if nth == 3 else "")
    sessions[2].say(0)
    await node.assigned(5)
    sessions[2].say(1, tgt_lang="fr")
    await until(lambda: len(sessions[2].link._by_job) == 2)
    await until(lambda: sum(len(session.ends) for session in sessions[:2]) == 4)
    sessions[2].hang_up()
    await node.frame("job_cancel")
    node.answer(node.assignments[4])
    node.hang_up()
    for session in sessions[:2]:
        session.hang_up()
    await stand.quiet()


async def expire_everything(stand: Stand) -> None:
    """The longest retention has passed: due steps are taken as if it were later."""
    due = stand.core.keys.cell("default#0")["due"]
    for _ in range(6):
        steps = await stand.client.run(command("ZRANGEBYSCORE", due, "-inf", "(+inf"))
        for step in steps:
            await stand.client.run(command("ZADD", due, 1, step))
        await stand.take_due()


async def test_after_the_load_only_what_answers_repetitions_is_left_and_it_expires(stand):
    await load(stand)
    left = await stand.keys()
    allowed = [*OF_THE_INSTANCE, OF_THE_CELL, *EXPIRING, r":v1:nodes:last_seen"]
    assert [key for key in left if not any(re.fullmatch(each, key) for each in allowed)] == []
    prefix = stand.core.keys.prefix
    for key in left:
        if any(re.fullmatch(each, key) for each in EXPIRING):
            assert await stand.client.run(command("PTTL", prefix + key)) > 0, key
    seen = await stand.audit()
    assert (seen.held, seen.waiting) == ({}, [])
    assert await stand.client.run(command("XLEN", stand.core.keys.inbox("a"))) == 0


async def test_after_the_longest_time_the_cell_is_as_empty_as_at_its_birth(stand):
    await load(stand)
    await expire_everything(stand)
    seen = await stand.audit()
    assert seen.is_empty, seen.parts


async def test_a_node_that_was_not_seen_for_long_is_forgotten(stand):
    node = await stand.node()
    await until(lambda: node.link._beating.done())
    keys = stand.core.keys
    await stand.later(599)
    await stand.keep_directory()
    assert await stand.client.run(command("ZCARD", keys.nodes_last_seen)) == 1
    await stand.later(2)
    await stand.keep_directory()
    assert await stand.client.run(command("ZCARD", keys.nodes_last_seen)) == 0


async def test_a_drained_instance_leaves_nothing_of_its_own(stand):
    await load(stand)
    await stand.instance.presence_keeper.leave()
    left = await stand.keys()
    assert not [key for key in left if "presence" in key or key == ":v1:instances"]


async def test_a_result_in_transit_and_its_speech_have_a_time_to_live(stand, build):
    other = await build("b")
    node, session = await other.node(), await stand.session()
    session.say(0, audio="A" * 40_000)
    await until(lambda: session.link._table.get(0).submitted)
    await stand.instance.courier.quiet()
    await other.read_inbox()
    node.answer(await node.assigned())
    await until(lambda: not node.link.table)
    prefix = stand.core.keys.prefix
    bulky = [key for key in await stand.keys() if "payload" in key or "result" in key]
    assert len(bulky) == 2
    for key in bulky:
        assert 0 < await stand.client.run(command("PTTL", prefix + key)) <= stand.core.payload_ttl_ms
