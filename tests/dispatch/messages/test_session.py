"""Session frames: the real client's are read, ours have the fields of PROTOCOL 2.2."""

import json

import pytest

from dispatch.messages.base import Features, InvalidFrame, audio_bytes, encode
from dispatch.messages.session import (
    AsrPartial,
    AudioChunk,
    Backpressure,
    ClientHeartbeat,
    MissingResult,
    Progress,
    ServerHeartbeat,
    SessionClose,
    SessionCloseAck,
    SessionInit,
    SessionInitAck,
    TtsPlayEnded,
    UiEvent,
    Utterance,
    decode_session,
)
from tests.dispatch.messages import captured, captured_fields, changed

OPAQUE = "opaque"


@pytest.mark.parametrize(
    ("name", "frame_type"),
    [
        ("session_init_one_way", SessionInit),
        ("session_init_two_way", SessionInit),
        ("audio_chunk_full_opus_plan_a", AudioChunk),
        ("audio_chunk_final_empty", AudioChunk),
        ("client_heartbeat", ClientHeartbeat),
        ("tts_play_ended", TtsPlayEnded),
        ("utterance_full", Utterance),
    ],
)
def test_every_field_that_the_real_client_sends_is_read(name, frame_type):
    frame = decode_session(captured(name))
    assert type(frame) is frame_type
    for field, value in captured_fields(name).items():
        if field in ("type", "features"):
            continue
        read = getattr(frame, field)
        assert (list(read) if isinstance(read, tuple) else read) == value


@pytest.mark.parametrize(
    "name",
    [
        *("room_create", "room_join", "room_leave", "room_raw_voice_preference"),
        *("webrtc_answer", "webrtc_ice", "webrtc_offer"),
    ],
)
def test_rooms_and_webrtc_are_not_spoken_yet(name):
    with pytest.raises(InvalidFrame, match="Unknown message type"):
        decode_session(captured(name))


def test_wished_features_are_those_that_are_set():
    one_way = decode_session(captured("session_init_one_way"))
    two_way = decode_session(captured("session_init_two_way"))
    assert isinstance(one_way, SessionInit)
    assert isinstance(two_way, SessionInit)
    assert one_way.features is not None
    assert two_way.features is not None
    assert one_way.features.chosen() == {"emotion_detection"}
    assert two_way.features.chosen() == frozenset()


def test_the_captured_audio_is_length_prefixed_packets():
    frame = decode_session(captured("audio_chunk_full_opus_plan_a"))
    assert isinstance(frame, AudioChunk)
    assert frame.payload is not None
    audio = audio_bytes(frame.payload, field="payload")
    assert int.from_bytes(audio[:2], "little") < len(audio)


def test_our_extensions_are_optional_and_bounded():
    frame = decode_session(changed("session_init_one_way", resume_token=OPAQUE, last_index=-1))
    assert isinstance(frame, SessionInit)
    assert (frame.resume_token, frame.last_index) == (OPAQUE, -1)
    utterance = decode_session(changed("utterance_full", idempotency_key="k:1", retry=True))
    assert isinstance(utterance, Utterance)
    assert (utterance.idempotency_key, utterance.retry) == ("k:1", True)
    beat = decode_session(changed("client_heartbeat", last_index=4))
    assert isinstance(beat, ClientHeartbeat)
    assert beat.last_index == 4
    with pytest.raises(InvalidFrame, match=r"\$.resume_token"):
        decode_session(changed("session_init_one_way", resume_token="x" * 257))
    with pytest.raises(InvalidFrame, match=r"\$.idempotency_key"):
        decode_session(changed("utterance_full", idempotency_key="a b"))


@pytest.mark.parametrize("rate", [0, -1, 10**6])
def test_a_sample_rate_is_a_rate(rate):
    with pytest.raises(InvalidFrame, match=r"\$.sample_rate"):
        decode_session(changed("utterance_full", sample_rate=rate))


def test_a_polite_end_is_read():
    frame = decode_session('{"type":"session_close","session_id":"s-1","reason":"client_disconnect"}')
    assert frame == SessionClose(session_id="s-1", reason="client_disconnect")


def test_the_acknowledgement_always_says_the_format():
    assert json.loads(encode(SessionInitAck(session_id="s-1", trace_id="t"))) == {
        "type": "session_init_ack",
        "session_id": "s-1",
        "message": "session created",
        "trace_id": "t",
        "protocol_version": "1.0",
        "use_binary_frame": False,
        "negotiated_codec": "opus",
        "negotiated_audio_format": "opus",
        "negotiated_sample_rate": 16000,
        "negotiated_channel_count": 1,
    }
    resumable = SessionInitAck(session_id="s-1", trace_id="t", resume_token=OPAQUE)
    assert encode(resumable).endswith(',"resume_token":"opaque"}')


@pytest.mark.parametrize(
    ("frame", "fields"),
    [
        (
            ServerHeartbeat(session_id="s", timestamp=0),
            {"type": "server_heartbeat", "session_id": "s", "timestamp": 0},
        ),
        (SessionCloseAck(session_id="s"), {"type": "session_close_ack", "session_id": "s"}),
        (
            MissingResult(session_id="s", utterance_index=0, reason="timeout", created_at_ms=1, trace_id="t"),
            {
                "type": "missing_result",
                "session_id": "s",
                "utterance_index": 0,
                "reason": "timeout",
                "created_at_ms": 1,
                "trace_id": "t",
            },
        ),
        (
            AsrPartial(session_id="s", utterance_index=0, job_id="", text="明", is_final=False, trace_id="t"),
            {
                "type": "asr_partial",
                "session_id": "s",
                "utterance_index": 0,
                "job_id": "",
                "text": "明",
                "is_final": False,
                "trace_id": "t",
            },
        ),
        (
            UiEvent(
                trace_id="t",
                session_id="s",
                job_id="j",
                utterance_index=0,
                event=Progress.DISPATCHED,
                elapsed_ms=0,
                status="ok",
            ),
            {
                "type": "ui_event",
                "trace_id": "t",
                "session_id": "s",
                "job_id": "j",
                "utterance_index": 0,
                "event": "DISPATCHED",
                "elapsed_ms": 0,
                "status": "ok",
            },
        ),
        (
            Backpressure(action="PAUSE", resume_after_ms=1500),
            {"type": "backpressure", "action": "PAUSE", "resume_after_ms": 1500},
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_what_we_send_has_the_fields_of_the_protocol(frame, fields):
    assert json.loads(encode(frame)) == fields


def test_features_are_written_as_they_were_set():
    assert Features(speech_rate_control=True).chosen() == {"speech_rate_control"}
