"""`/ws/session`: the socket acts for the session of its latest `session_init`."""

from dispatch.consumers.session import SessionConsumer
from tests.dispatch.service.stand import AUDIO, Frame, until

INIT = {"type": "session_init", "client_version": "1", "platform": "web", "src_lang": "en", "tgt_lang": "es"}


def say(session: str, index: int = 0, **members: object) -> Frame:
    return {
        "type": "utterance",
        "session_id": session,
        "utterance_index": index,
        "manual_cut": True,
        "src_lang": "en",
        "tgt_lang": "es",
        "audio": AUDIO,
        "audio_format": "opus",
        "sample_rate": 16_000,
    } | members


async def test_a_frame_before_the_init_is_an_error_without_a_trace(connect):
    wire = connect(SessionConsumer)
    wire.say({"type": "client_heartbeat", "session_id": "s-1", "timestamp": 1})
    error = await wire.frame("error")
    assert error["code"] == "INVALID_MESSAGE"
    assert "trace_id" not in error


async def test_an_init_is_acknowledged_with_a_session_and_a_trace(connect, stand):
    wire = connect(SessionConsumer)
    wire.say(INIT | {"trace_id": "t-1"})
    ack = await wire.frame("session_init_ack")
    assert ack["trace_id"] == "t-1"
    assert stand.instance.session_sockets.get(ack["session_id"]) is wire.consumer.link


async def test_a_frame_for_another_session_is_refused_under_the_own_trace(connect):
    wire = connect(SessionConsumer)
    wire.say(INIT)
    ack = await wire.frame("session_init_ack")
    wire.say(say("s-other"))
    error = await wire.frame("error")
    assert (error["code"], error["trace_id"]) == ("INVALID_SESSION", ack["trace_id"])


async def test_an_utterance_finds_its_way_to_a_node_and_back(connect, stand):
    node = await stand.node()
    wire = connect(SessionConsumer)
    wire.say(INIT)
    session = (await wire.frame("session_init_ack"))["session_id"]
    wire.say(say(session))
    node.answer(await node.assigned())
    assert (await wire.frame("translation_result"))["text_translated"] == "hola"


async def test_a_second_init_begins_another_session_and_ends_the_first(connect, stand):
    node = await stand.node()
    wire = connect(SessionConsumer)
    wire.say(INIT)
    first = (await wire.frame("session_init_ack"))["session_id"]
    wire.say(say(first))
    await node.assigned()
    wire.say(INIT)
    second = (await wire.frame("session_init_ack", 2))["session_id"]
    assert second != first
    assert stand.instance.session_sockets.get(first) is None
    await node.frame("job_cancel", reason="session_closed")
    wire.say(say(first))
    assert (await wire.frame("error"))["code"] == "INVALID_SESSION"


async def test_a_close_is_acknowledged_after_which_a_new_init_may_come(connect, stand):
    wire = connect(SessionConsumer)
    wire.say(INIT)
    session = (await wire.frame("session_init_ack"))["session_id"]
    wire.say({"type": "session_close", "session_id": session, "reason": "bye"})
    assert (await wire.frame("session_close_ack"))["session_id"] == session
    wire.say(say(session))
    assert (await wire.frame("error"))["code"] == "INVALID_MESSAGE"
    wire.say(INIT)
    await wire.frame("session_init_ack", 2)


async def test_a_disconnect_cancels_what_is_open_and_gives_the_owner_up(connect, stand):
    node = await stand.node()
    wire = connect(SessionConsumer)
    wire.say(INIT)
    session = (await wire.frame("session_init_ack"))["session_id"]
    wire.say(say(session))
    await node.assigned()
    await wire.hang_up()
    await node.frame("job_cancel")
    await stand.quiet()
    assert await stand.client.run(stand.core.owners.owner(stand.core.keys.session_owner(session))) is None


async def test_one_more_socket_than_allowed_is_sent_away(connect, stand):
    wires = [connect(SessionConsumer) for _ in range(3)]
    for wire in wires:
        wire.say(INIT)
        await wire.frame("session_init_ack")
    one_more = connect(SessionConsumer)
    assert (await one_more.event("websocket.close"))["code"] == 1013
    await wires[0].hang_up()
    await until(lambda: stand.instance.takes_sockets())
