"""`/ws/node`: who is at the other end, the registration decides, never a later frame (PHASE3 13.A2)."""

import json
from collections.abc import Callable
from typing import Any

import msgspec

from dispatch import metrics
from dispatch.consumers.node import NodeConsumer
from tests.dispatch.service.stand import registration, until

USAGE = {"cpu_percent": 1.0, "gpu_percent": 1.0, "mem_percent": 1.0, "running_jobs": 0}
BEAT = {"type": "node_heartbeat", "node_id": "n1", "timestamp": 1, "resource_usage": USAGE}


def register(name: str = "n1", **members: Any) -> str:
    return msgspec.json.encode(registration(name, **members)).decode()


async def test_a_registration_is_acknowledged_and_a_healthy_beat_makes_it_ready(connect):
    wire = connect(NodeConsumer)
    wire.say(register())
    assert (await wire.frame("node_register_ack"))["node_id"] == "n1"
    wire.say(BEAT)
    assert (await wire.frame("node_status"))["status"] == "ready"


async def test_a_heartbeat_before_the_registration_is_counted_and_not_answered(connect):
    wire = connect(NodeConsumer)
    before = metrics.frames_refused.labels("node", "early_heartbeat")._value.get()
    wire.say(BEAT)
    wire.say(register())
    await wire.frame("node_register_ack")
    assert [frame["type"] for frame in wire.frames] == ["node_register_ack"]
    assert metrics.frames_refused.labels("node", "early_heartbeat")._value.get() == before + 1


async def test_any_other_frame_before_it_is_an_error(connect):
    wire = connect(NodeConsumer)
    wire.say({"type": "request_pairing_code"})
    assert (await wire.frame("error"))["code"] == "INVALID_MESSAGE"


async def test_a_registration_that_is_refused_leaves_the_socket_for_another_try(connect):
    wire = connect(NodeConsumer)
    wire.say(register(capability_schema_version="9.9"))
    assert (await wire.frame("error"))["code"] == "INVALID_CAPABILITY_SCHEMA"
    wire.say(register())
    await wire.frame("node_register_ack")


async def test_a_second_registration_on_the_same_socket_replaces_the_first(connect, stand):
    wire = connect(NodeConsumer)
    wire.say(register())
    await wire.frame("node_register_ack")
    first = wire.consumer.link
    wire.say(register("n2"))
    assert (await wire.frame("node_register_ack", 2))["node_id"] == "n2"
    assert stand.instance.node_sockets.get("n1") is None
    assert stand.instance.node_sockets.get("n2") is wire.consumer.link is not first
    await stand.until(lambda seen: bool(seen.nodes["n1"]["gone"]) and "n2" in seen.nodes)


async def test_the_same_node_registered_twice_on_one_socket_is_not_closed(connect, stand):
    wire = connect(NodeConsumer)
    wire.say(register())
    await wire.frame("node_register_ack")
    wire.say(register())
    await wire.frame("node_register_ack", 2)
    wire.say(BEAT)
    await wire.frame("node_status")
    await stand.until(lambda seen: seen.nodes["n1"]["class"] != "" and not seen.nodes["n1"]["gone"])
    assert not [event for event in wire.sent if event["type"] == "websocket.close"]


async def test_a_job_goes_out_and_its_result_comes_in_as_text_or_bytes(connect, stand):
    wire = connect(NodeConsumer)
    wire.say(register())
    wire.say(BEAT)
    await wire.frame("node_status")
    session = await stand.session()
    forms: tuple[Callable[[str], Any], ...] = (str, str.encode)
    for index, form in enumerate(forms):
        session.say(index)
        assign = await wire.frame("job_assign", index + 1)
        said = {key: assign[key] for key in ("job_id", "attempt_id", "session_id", "utterance_index", "trace_id")}
        result = said | {"type": "job_result", "node_id": "n1", "success": True, "text_translated": "hola"}
        wire.say(form(json.dumps(result)))
        await session.until_ends(index + 1)
    assert session.ends == [(0, "result"), (1, "result")]


async def test_an_error_of_the_node_itself_is_taken_and_not_answered(connect):
    wire = connect(NodeConsumer)
    wire.say(register())
    wire.say({"type": "node_error", "node_id": "n1", "code": "X", "message": "y"})
    wire.say({"type": "request_pairing_code"})
    await wire.frame("error")
    assert [frame["type"] for frame in wire.frames] == ["node_register_ack", "error"]


async def test_a_disconnect_takes_the_node_out_of_its_cell(connect, stand):
    wire = connect(NodeConsumer)
    wire.say(register())
    await wire.frame("node_register_ack")
    await stand.until(lambda seen: "n1" in seen.nodes)
    await wire.hang_up()
    await stand.quiet()
    assert stand.instance.node_sockets.empty.is_set()
    assert (await stand.picture()).nodes["n1"]["gone"] != 0


async def test_a_disconnect_while_redis_is_silent_is_told_later(connect, stand, single_redis):
    wire = connect(NodeConsumer)
    wire.say(register())
    await wire.frame("node_register_ack")
    await stand.until(lambda seen: "n1" in seen.nodes)
    single_redis.pause()
    await wire.hang_up()  # the server's task ends at once
    single_redis.resume()
    await until(lambda: not stand.instance.nodes._tasks)
    assert (await stand.picture()).nodes["n1"]["gone"] != 0
