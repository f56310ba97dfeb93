"""A session that leaves takes its work with it, and gives its slots back."""

import pytest

from tests.flows.instances import InstanceProcess
from tests.flows.peers import Frame, RawNode, RawSession, captured
from tests.flows.stage import Stage


@pytest.mark.parametrize("politely", [True, False])
async def test_a_session_that_leaves_cancels_its_jobs_and_frees_its_slot(
    stage: Stage, there: InstanceProcess, politely: bool
):
    node = await stage.node(there, limit=1)
    leaving, staying = await stage.session(stage.a), await stage.session(stage.a)
    await leaving.say(0)
    job = await node.assignment(session_id=leaving.session_id)
    await leaving.say(1)
    await leaving.expect("ui_event", event="QUEUED")
    await staying.say(0)
    await staying.expect("ui_event", event="QUEUED")

    if politely:
        await leaving.send({"type": "session_close", "session_id": leaving.session_id, "reason": "client_disconnect"})
        assert (await leaving.expect("session_close_ack"))["session_id"] == leaving.session_id
    else:
        await leaving.leave()
    assert (await node.expect("job_cancel"))["job_id"] == job["job_id"]
    # The node may still be at work: the slot stays its own until it answers.
    await node.settle()
    assert node.of("job_assign") == []
    await node.answer(job, "job_result_processing_error")
    await node.answer(await node.assignment())
    await staying.result(0)
    assert leaving.of("translation_result") == []


async def test_a_closed_session_is_over_for_its_socket(stage: Stage):
    session = await stage.session(stage.a)
    await session.send({"type": "session_close", "session_id": session.session_id, "reason": "done"})
    await session.expect("session_close_ack")
    await session.say(0)
    assert (await session.expect("error"))["code"] == "INVALID_MESSAGE"


async def test_a_second_session_init_makes_another_session_of_the_socket(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(there, limit=1), await stage.session(stage.a)
    before = session.session_id
    await session.say(0)
    job = await node.assignment()
    await session.begin(init_of(stage))
    assert session.session_id != before
    await node.expect("job_cancel", job_id=job["job_id"])
    await node.answer(job)
    await session.say(0)
    await node.answer(await node.assignment(session_id=session.session_id))
    await session.result(0)


async def test_nobody_hears_the_answer_for_a_session_that_has_left(stage: Stage, there: InstanceProcess):
    node: RawNode = await stage.node(there, limit=2)
    leaving: RawSession = await stage.session(stage.a)
    await leaving.say(0)
    job = await node.assignment()
    await leaving.leave()
    await node.expect("job_cancel")
    await node.answer(job)
    session = await stage.session(stage.a)
    await session.say(0)
    await node.answer(await node.assignment())
    await session.result(0)
    assert session.of("translation_result") == []


def init_of(stage: Stage) -> Frame:
    """A fresh session_init in the languages of the story."""
    return captured("session_init_one_way", src_lang=stage.src, tgt_lang=stage.tgt)
