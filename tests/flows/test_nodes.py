"""How nodes come, come back, and are replaced."""

import secrets

from tests.flows.instances import InstanceProcess
from tests.flows.peers import Frame, RawNode, RawSession, captured
from tests.flows.stage import Stage

SERVICES = {"faster-whisper-vad": "ready", "nmt-m2m100": "ready", "piper-tts": "ready"}


async def works(stage: Stage, node: RawNode, session: RawSession, index: int = 0) -> None:
    """One utterance through this node."""
    await session.say(index)
    await node.answer(await node.assignment(utterance_index=index))
    await session.result(index)


async def captured_session(stage: Stage) -> RawSession:
    """A session as it was captured, from English to Chinese, which the captured nodes can do."""
    session = await stage.open(RawSession, stage.a)
    await session.begin(captured("session_init_one_way"))
    return session


async def test_the_captured_registration_makes_a_node_that_works(stage: Stage, there: InstanceProcess):
    node = await stage.open(RawNode, there)
    ack = await node.register(captured("node_register"))
    assert (ack["message"], ack["status"]) == ("registered", "registering")
    assert node.node_id.startswith("node-")
    await node.send(captured("node_heartbeat", node_id=node.node_id))
    await stage.listed(node)
    await works(stage, node, await captured_session(stage))


async def test_a_heartbeat_before_the_registration_is_ignored(stage: Stage, there: InstanceProcess):
    node = await stage.open(RawNode, there)
    node_id = f"node-{secrets.token_hex(4).upper()}"
    await node.send(captured("node_heartbeat", node_id=node_id))
    ack = await node.register(captured("node_register_on_reconnect", node_id=node_id))
    assert ack["node_id"] == node_id
    assert node.heard == []
    await node.send(captured("node_heartbeat", node_id=node_id))
    await stage.listed(node)
    await works(stage, node, await captured_session(stage))


async def test_a_node_of_the_older_schema_works(stage: Stage, there: InstanceProcess):
    """Schema 1.0 (PROTOCOL 11): services without types, states by service, nothing about languages."""
    node = await stage.open(RawNode, there)
    frame = captured("node_register", capability_schema_version="1.0", capability_state=SERVICES)
    for newer in ("capability_by_type", "language_capabilities"):
        del frame[newer]
    frame["installed_services"] = older_services()
    await node.register(frame)
    beat = captured("node_heartbeat", node_id=node.node_id, capability_state=SERVICES)
    for newer in ("capability_by_type", "language_capabilities"):
        del beat[newer]
    await node.send(beat | {"installed_services": older_services()})
    await stage.listed(node)
    await works(stage, node, await captured_session(stage))


def older_services() -> list[Frame]:
    return [{"service_id": service, "version": "1.0.0", "platform": "linux"} for service in SERVICES]


async def test_nothing_is_assigned_before_a_node_is_ready(stage: Stage):
    node = await stage.open(RawNode, stage.a)
    await node.register(stage.registration())
    other, session = await stage.node(stage.b, limit=1), await stage.session(stage.a)
    await session.say(0)
    await session.say(1)
    job = await other.assignment()
    await session.expect("ui_event", event="QUEUED", utterance_index=1)
    await node.settle()
    assert node.of("job_assign") == []
    await node.beat()
    await node.answer(await node.assignment(utterance_index=1))
    await other.answer(job)
    await session.result(0)
    await session.result(1)


async def test_a_node_whose_service_stops_gets_no_more_work_until_it_is_back(stage: Stage, there: InstanceProcess):
    ill, session = await stage.node(there), await stage.session(stage.a)
    types = captured("node_heartbeat")["capability_by_type"]
    for _ in range(3):
        await ill.beat(capability_by_type=[each | {"ready": each["type"] != "tts"} for each in types])
    await ill.expect("node_status", status="degraded")
    await stage.until(ill.node_id, lambda record: record["listed"] == "")
    well = await stage.node(stage.b)
    await works(stage, well, session, 0)
    await well.leave()
    for _ in range(2):
        await ill.beat(capability_by_type=types)
    await stage.listed(ill)
    await works(stage, ill, session, 1)


async def test_the_work_of_a_node_that_is_lost_goes_to_another(stage: Stage, there: InstanceProcess):
    lost, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await lost.assignment()
    heir = await stage.node(there)
    lost.socket.transport.abort()
    again = await heir.assignment()
    assert (again["attempt_id"], again["audio"]) == (2, job["audio"])
    await heir.answer(again)
    await session.result(0)


async def test_the_running_job_of_a_node_that_reconnects_elsewhere_still_counts(stage: Stage, there: InstanceProcess):
    old, session = await stage.node(stage.a, limit=2), await stage.session(stage.b)
    await session.say(0)
    job = await old.assignment()
    new = await stage.open(RawNode, there)
    frame = stage.registration("node_register_on_reconnect", node_id=old.node_id, max_concurrent_jobs=2)
    await new.beat(node_id=old.node_id)
    assert (await new.register(frame))["node_id"] == old.node_id
    if there is not stage.a:
        await old.beat()  # the old connection learns of it at the latest when it says something
    assert await old.closed() == 4001
    await new.answer(job)
    await session.result(0)
    await new.beat()
    await stage.listed(new)
    await works(stage, new, session, 1)


async def test_an_answer_right_behind_the_registration_counts(stage: Stage, there: InstanceProcess):
    old, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await old.assignment()
    new = await stage.open(RawNode, there)
    new.node_id = old.node_id
    await new.send(stage.registration("node_register_on_reconnect", node_id=old.node_id))
    await new.answer(job)
    await session.result(0)
    assert new.of("error") == []


async def test_a_reconnected_node_is_not_given_more_than_it_has_slots(stage: Stage, there: InstanceProcess):
    old, session = await stage.node(stage.a, limit=1), await stage.session(stage.a)
    await session.say(0)
    job = await old.assignment()
    before = (await stage.record(old.node_id))["epoch"]
    new = await stage.open(RawNode, there)
    await new.register(stage.registration("node_register_on_reconnect", node_id=old.node_id, max_concurrent_jobs=1))
    await new.beat()
    await stage.until(new.node_id, lambda record: record["epoch"] > before and record["class"])
    await session.say(1)
    await session.expect("ui_event", event="QUEUED", utterance_index=1)
    await new.settle()
    assert new.of("job_assign") == []  # it still works on what it was given before
    await new.answer(job)
    await session.result(0)
    await new.answer(await new.assignment(utterance_index=1))
    await session.result(1)


async def test_a_node_that_has_come_back_is_waited_for_until_it_is_ready(stage: Stage, there: InstanceProcess):
    old, session = await stage.node(stage.a), await stage.session(stage.a)
    await works(stage, old, session, 0)
    new = await stage.open(RawNode, there)
    await new.register(stage.registration("node_register_on_reconnect", node_id=old.node_id))
    await stage.until(new.node_id, lambda record: record["class"] == "" or record["listed"] == "")
    await session.say(1)  # its first heartbeat is still on the way
    await session.expect("ui_event", event="QUEUED")
    await new.beat()
    await new.answer(await new.assignment(utterance_index=1))
    await session.result(1)


async def test_a_registration_on_the_same_socket_replaces_the_earlier_one(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await node.register(stage.registration(node_id=node.node_id))
    await node.beat()
    await stage.listed(node)
    await works(stage, node, session)
