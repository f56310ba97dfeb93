"""Whatever a peer sends, it hears what was wrong, its socket lives, and nobody else is disturbed (PROTOCOL 4)."""

import contextlib
import json
import os
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.flows.instances import NODE_FRAME_BYTES, InstanceProcess
from tests.flows.peers import Frame, Peer, RawNode, RawSession, captured
from tests.flows.stage import Stage

SESSION_FRAME_BYTES = 2 * 1024 * 1024
TOO_BIG, NO_CLOSE_FRAME = 1009, 1006  #: close codes of RFC 6455
GROWTH_KIB = 4 * 1024
GARBAGE_FRAMES = 3000

GARBAGE: list[str | bytes] = [
    "",
    " ",
    "{",
    "null",
    "42",
    '"text"',
    "[]",
    "[{}]",
    "{}",
    '{"type": null}',
    '{"type": 7}',
    '{"type": "no_such_type"}',
    '{"type": "\\ud800"}',
    '{"type": "session_init", "type": "node_register"}',
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"type": "error", "code": "X", "message": "directions mistaken"}',
    b"",
    b"\x00\x01\x02",
    b"\xff\xfe{}",
    '{"type": "client_heartbeat", "session_id": "s", "timestamp": 1e400}',
    "\u0000",
    "x" * 10_000,
]

ROOMS = [
    "room_create",
    "room_join",
    "room_leave",
    "room_raw_voice_preference",
    "webrtc_offer",
    "webrtc_answer",
    "webrtc_ice",
]


def without(frame: Frame, member: str) -> Frame:
    return {name: value for name, value in frame.items() if name != member}


async def refused(peer: Peer, frame: Frame | str | bytes, code: str = "INVALID_MESSAGE") -> Frame:
    """Send it; the error, which must carry this code and say something."""
    await peer.send(frame)
    error = await peer.expect("error")
    assert error["code"] == code, error
    assert error["message"]
    assert len(error["message"]) < 600
    if code == "INVALID_MESSAGE":
        assert error["message"].startswith("Invalid message format: ") or "details" in error
    return error


async def works(node: RawNode, session: RawSession) -> None:
    """One utterance from this session through this node."""
    await session.say(0)
    await node.answer(await node.assignment())
    await session.result(0)
    assert [*node.of("error"), *session.of("error")] == []


@pytest.mark.parametrize("kind", [RawNode, RawSession])
async def test_garbage_is_answered_and_the_socket_lives(stage: Stage, kind: type[Peer]):
    bystanders = await stage.node(stage.a), await stage.session(stage.a)
    unknown, known = await stage.open(kind, stage.a), await stage.open(kind, stage.a)
    await introduce(known)
    for frame in GARBAGE:
        await refused(unknown, frame)
        await refused(known, frame)
    await introduce(unknown)
    for peer in (unknown, known):
        await peer.settle()
        assert peer.heard == []
    await works(*bystanders)


async def introduce(peer: Peer) -> None:
    """The captured first frame, of languages that no story's nodes and sessions share."""
    if isinstance(peer, RawNode):
        await peer.register(captured("node_register"))
    elif isinstance(peer, RawSession):
        await peer.begin(captured("session_init_one_way"))


@pytest.mark.parametrize(
    "changes",
    [
        {"src_lang": None},
        {"src_lang": 7},
        {"src_lang": "en>es,aud:public"},
        {"src_lang": "en\n"},
        {"tgt_lang": ""},
        {"features": []},
        {"features": {"emotion_detection": "yes"}},
        {"auto_langs": ["en", None]},
        {"auto_langs": ["en"] * 17},
        {"platform": "x" * 129},
        {"trace_id": {"a": 1}},
    ],
)
async def test_a_session_init_that_cannot_be_understood_begins_nothing(stage: Stage, changes: Frame):
    session = await stage.open(RawSession, stage.a)
    await refused(session, captured("session_init_one_way") | changes)
    await session.begin(captured("session_init_one_way"))


async def test_a_session_that_has_not_begun_is_told_to(stage: Stage):
    session = await stage.open(RawSession, stage.a)
    for name in ("utterance_full", "audio_chunk_final_empty", "client_heartbeat", "tts_play_ended"):
        assert "session_init" in (await refused(session, captured(name)))["message"]
    await session.begin(captured("session_init_one_way"))


@pytest.mark.parametrize(
    "changes",
    [
        {"utterance_index": -1},
        {"utterance_index": 1.5},
        {"utterance_index": "0"},
        {"utterance_index": 2**60},
        {"manual_cut": 1},
        {"audio": None},
        {"audio": 7},
        {"src_lang": "e n"},
        {"sample_rate": 0},
        {"sample_rate": 10**9},
        {"idempotency_key": "{cell:default#0}"},
        {"session_id": "s-{session:x} "},
    ],
)
async def test_an_utterance_with_a_wrong_member_is_refused(stage: Stage, changes: Frame):
    session = await stage.session(stage.a)
    await refused(session, captured("utterance_full", session_id=session.session_id) | changes)
    await session.heartbeat()


@pytest.mark.parametrize("audio", ["AAA", "AAAA=", "ÄÖÜ=", "AA\nAA", "AA AA", "-_-_", "A"])
async def test_speech_that_is_no_base64_is_told_with_its_index(stage: Stage, audio: str):
    session = await stage.session(stage.a)
    await session.say(4, audio=audio)
    error = await session.expect("error")
    assert (error["code"], error["details"]["utterance_index"]) == ("INVALID_MESSAGE", 4)
    assert error["trace_id"] == session.trace_id
    await session.chunk(0, payload=audio)
    assert (await session.expect("error"))["code"] == "INVALID_MESSAGE"
    await session.heartbeat()


async def test_a_chunk_that_is_no_base64_does_not_spoil_the_stream(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.chunk(0)
    await session.chunk(1, payload="!!!")
    await session.expect("error", code="INVALID_MESSAGE")
    await session.chunk(2, "audio_chunk_final_empty")
    job = await node.assignment()
    assert job["audio"] == captured("audio_chunk_full_opus_plan_a")["payload"]
    await node.answer(job)
    await session.result(0)


async def test_a_frame_for_another_session_changes_nothing_there(stage: Stage):
    node = await stage.node(stage.a)
    session, stranger = await stage.session(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    foreign = {"session_id": session.session_id}
    for name in ("utterance_full", "audio_chunk_final_empty", "client_heartbeat", "tts_play_ended"):
        await refused(stranger, captured(name, **foreign), "INVALID_SESSION")
    await refused(stranger, {"type": "session_close", "reason": "mine", **foreign}, "INVALID_SESSION")
    await node.answer(job)
    await session.result(0)
    await stranger.heartbeat()


async def test_other_speech_under_a_used_index_is_refused(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    await session.say(0, audio="AAAA")
    error = await session.expect("error")
    assert (error["code"], error["details"]["utterance_index"]) == ("INVALID_MESSAGE", 0)
    await node.answer(job)
    await session.result(0)


@pytest.mark.parametrize("name", ROOMS)
async def test_rooms_are_not_spoken_here(stage: Stage, name: str):
    session = await stage.session(stage.a)
    assert name in json.dumps(captured(name))
    await refused(session, captured(name))
    await session.heartbeat()


async def test_a_pairing_code_is_not_given_out(stage: Stage):
    node = await stage.node(stage.a)
    await refused(node, captured("request_pairing_code"))
    await works(node, await stage.session(stage.a))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"capability_schema_version": "3.0"}, "INVALID_CAPABILITY_SCHEMA"),
        ({"capability_schema_version": None}, "INVALID_CAPABILITY_SCHEMA"),
        ({"hardware": {"cpu_cores": 2, "memory_gb": 24, "gpus": []}}, "NO_GPU_AVAILABLE"),
        ({"node_id": ""}, "INVALID_MESSAGE"),
        ({"node_id": "node 1"}, "INVALID_MESSAGE"),
        ({"node_id": "{node:x}"}, "INVALID_MESSAGE"),
        ({"node_id": "n" * 129}, "INVALID_MESSAGE"),
        ({"node_id": "<b>"}, "INVALID_MESSAGE"),
        ({"node_id": "nöde"}, "INVALID_MESSAGE"),
        ({"hardware": "big"}, "INVALID_MESSAGE"),
        ({"accept_public_jobs": "true"}, "INVALID_MESSAGE"),
        ({"max_concurrent_jobs": 0}, "INVALID_MESSAGE"),
        ({"max_concurrent_jobs": 10**6}, "INVALID_MESSAGE"),
        ({"installed_services": {"a": 1}}, "INVALID_MESSAGE"),
        ({"language_capabilities": {"supported_language_pairs": [{"src": "en"}]}}, "INVALID_MESSAGE"),
    ],
)
async def test_a_registration_that_is_refused_may_be_repeated(stage: Stage, changes: Frame, code: str):
    node = await stage.open(RawNode, stage.a)
    await refused(node, stage.registration() | changes, code)
    await node.register(stage.registration())
    await node.beat()
    await stage.listed(node)


async def test_a_node_without_gpu_as_captured_is_refused(stage: Stage):
    node = await stage.open(RawNode, stage.a)
    await refused(node, captured("node_register_without_gpu"), "NO_GPU_AVAILABLE")
    await node.register(stage.registration())


async def test_a_node_that_has_not_registered_is_told_to(stage: Stage):
    node = await stage.open(RawNode, stage.a)
    names = ("job_result_success_stub_inference", "job_result_processing_error", "asr_partial_from_node")
    for name in names:
        assert "node_register" in (await refused(node, captured(name)))["message"]
    await node.register(stage.registration())


@pytest.mark.parametrize("member", ["job_id", "attempt_id", "node_id", "session_id", "success", "trace_id"])
async def test_a_result_without_a_member_is_refused_and_may_be_sent_again(stage: Stage, member: str):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    frame = captured("job_result_success_stub_inference", **node.about(job))
    await refused(node, without(frame, member))
    await refused(node, frame | {member: []})
    await node.send(frame)
    await session.result(0)


async def test_a_forged_result_changes_nothing(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(stage.a, limit=1), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    await session.say(1)
    await session.expect("ui_event", event="QUEUED")
    forger = await stage.open(RawNode, there)
    await forger.register(captured("node_register"))  # of other languages
    for changes in (
        {},
        {"node_id": node.node_id},
        {"job_id": job["job_id"].rpartition("-")[0]},
        {"job_id": job["job_id"].rpartition("-")[0] + "-" + "0" * 17},
    ):
        ids = forger.about(job) | changes
        await forger.answer(job, text_asr="forged", **changes)
        await forger.send(captured("asr_partial_from_node", **(ids | {"text": "forged"})))
        acknowledged = without(ids, "utterance_index")
        await forger.send({"type": "job_ack", **acknowledged})
        await forger.send({"type": "job_started", **acknowledged})
    await refused(forger, "{")  # so all of it has been read
    await session.heartbeat()
    await node.settle()
    assert [*node.of("job_assign"), *session.of("asr_partial"), *session.of("translation_result")] == []
    # The job id decides, not what else the frame says of itself.
    await node.answer(job, node_id="somebody", session_id="s-other", utterance_index=9, trace_id="other")
    result = await session.result(0)
    assert (result["text_asr"], result["session_id"]) == (
        captured("job_result_success_stub_inference")["text_asr"],
        session.session_id,
    )
    await node.answer(job, text_asr="once more")
    await node.answer(await node.assignment(utterance_index=1))
    await session.result(1)
    assert session.of("translation_result") == []


async def test_a_heartbeat_in_the_name_of_another_node_is_the_senders_own(stage: Stage):
    node, other = await stage.node(stage.a), await stage.node(stage.b)
    for _ in range(4):
        await other.beat(node_id=node.node_id, resource_usage=heavy())
    await refused(other, "{")
    session = await stage.session(stage.a)
    await session.say(0)
    await session.say(1)
    for index in (0, 1):
        await node.answer(await node.assignment(utterance_index=index))
        await session.result(index)


def heavy() -> Frame:
    """A broken GPU and a lot of unknown work."""
    return {"cpu_percent": 5, "gpu_percent": 400, "gpu_mem_percent": 5, "mem_percent": 5, "running_jobs": 4}


async def test_a_frame_over_the_limit_is_refused_and_the_socket_lives(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0, audio="A" * SESSION_FRAME_BYTES)
    error = await session.expect("error")
    assert (error["code"], str(SESSION_FRAME_BYTES) in error["message"]) == ("INVALID_MESSAGE", True)
    await session.say(0)
    job = await node.assignment()
    largest = NODE_FRAME_BYTES + 1024
    text = json.dumps(captured("job_result_success_stub_inference", **node.about(job), tts_audio=""))
    await refused(node, text + " " * (largest - len(text)))
    await node.answer(job, tts_audio="A" * (NODE_FRAME_BYTES - 4096))
    assert len((await session.result(0))["tts_audio"]) == NODE_FRAME_BYTES - 4096


async def test_a_frame_that_the_server_does_not_even_read_ends_its_own_socket_only(stage: Stage):
    bad, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await bad.assignment()
    good = await stage.node(stage.a)
    # The server does not wait for the end of it, so the sender may find the connection gone.
    with contextlib.suppress(ConnectionClosed):
        await bad.socket.send("x" * (NODE_FRAME_BYTES + 65_536))
    assert await bad.closed() in (TOO_BIG, NO_CLOSE_FRAME)
    again = await good.assignment()
    assert again["audio"] == job["audio"]
    await good.answer(again)
    await session.result(0)


@pytest.mark.parametrize("kind", [RawNode, RawSession])
async def test_garbage_does_not_stay_in_memory(stage: Stage, kind: type[Peer]):
    peer: Any = await stage.node(stage.a) if kind is RawNode else await stage.session(stage.a)
    await send_garbage(peer, GARBAGE_FRAMES)
    warm = stage.a.resident_kib()
    await send_garbage(peer, GARBAGE_FRAMES)
    assert stage.a.resident_kib() - warm < GROWTH_KIB
    if kind is RawSession:
        await works(await stage.node(stage.a), peer)
    else:
        await works(peer, await stage.session(stage.a))


async def send_garbage(peer: Peer, count: int) -> None:
    """Frames that no two of are alike, each read to its answer before the next hundred."""
    for at in range(count):
        junk = os.urandom(400).hex()
        shapes = (junk, '{"type": "' + junk, json.dumps({"type": junk}), '{"type":"utterance","audio":"' + junk + '"}')
        await peer.send(shapes[at % 4])
        if at % 100 == 99:
            for _ in range(100):
                await peer.expect("error")
