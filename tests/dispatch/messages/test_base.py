"""One way in, one way out: what is refused, what is forgiven, and what the sender is told."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.messages.base import ErrorFrame, InvalidFrame, audio_bytes, encode
from dispatch.messages.node import NodeHeartbeat, decode_node
from dispatch.messages.session import AudioChunk, ClientHeartbeat, SessionInit, decode_session
from tests.dispatch.messages import CAPTURED, captured_fields, changed

HEARTBEAT = '{"type":"client_heartbeat","session_id":"s-1","timestamp":%s}'


def problem_of(frame: str | bytes) -> str:
    with pytest.raises(InvalidFrame) as caught:
        decode_session(frame)
    return str(caught.value)


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ("", "Input data was truncated"),
        ("hello", "JSON is malformed: invalid character (byte 0)"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "Object missing required field `type`"),
        ('{"type":"room_create","client_ts":1}', "Unknown message type 'room_create' - at `$.type`"),
        ('{"type":7}', "Expected `str` - at `$.type`"),
        ('{"type":"client_heartbeat","session_id":"s-1"}', "Object missing required field `timestamp`"),
        (HEARTBEAT % '"1"', "Expected `int`, got `str` - at `$.timestamp`"),
        (HEARTBEAT % "1.5", "Expected `int`, got `float` - at `$.timestamp`"),
        (HEARTBEAT % "-1", "Expected `int` >= 0 - at `$.timestamp`"),
        (HEARTBEAT % "true", "Expected `int`, got `bool` - at `$.timestamp`"),
        (b'{"type":"\xff"}', "text is not valid UTF-8"),
        ('{"type":"session_close","x":' + "[" * 100_000, "values are nested too deeply"),
    ],
)
def test_a_frame_that_cannot_be_understood_says_where_and_why(frame, problem):
    assert problem_of(frame) == f"Invalid message format: {problem}"


@pytest.mark.parametrize("bad", ["", "a b", "a,b", "a\n", "é", "{x}", "x" * 129, "<script>"])
def test_an_odd_session_id_is_refused_by_name(bad):
    frame = json.dumps({"type": "client_heartbeat", "session_id": bad, "timestamp": 1})
    assert problem_of(frame).endswith("at `$.session_id`")


def test_the_problem_never_carries_much_of_the_frame_back():
    assert len(problem_of(json.dumps({"type": "x" * 1_000_000}))) < 500


def test_a_whole_number_may_be_written_with_a_fraction():
    frame = decode_session('{"type":"audio_chunk","session_id":"s-1","seq":3.0,"is_final":false,"payload":"1.0"}')
    assert frame == AudioChunk(session_id="s-1", seq=3, is_final=False, payload="1.0")


def test_whole_numbers_are_forgiven_deep_inside_a_frame_too():
    usage = {"cpu_percent": 1.0, "mem_percent": 2, "running_jobs": 3.0}
    frame = decode_node(changed("node_heartbeat", resource_usage=usage, timestamp=5.0))
    assert isinstance(frame, NodeHeartbeat)
    assert (frame.resource_usage.running_jobs, frame.timestamp) == (3, 5)


def test_null_equals_absent_where_a_field_is_optional():
    frame = decode_session('{"type":"audio_chunk","session_id":"s-1","seq":0,"is_final":true,"payload":null}')
    assert frame == AudioChunk(session_id="s-1", seq=0, is_final=True)


def test_unknown_fields_are_ignored():
    assert decode_session((HEARTBEAT % 7)[:-1] + ',"mood":{"a":[1]}}') == ClientHeartbeat(session_id="s-1", timestamp=7)


def test_bytes_and_text_read_the_same():
    assert decode_session((HEARTBEAT % 7).encode()) == decode_session(HEARTBEAT % 7)


@pytest.mark.parametrize("language", ["", "e,n", "pair>x", "e", "en en", "auto>", "x" * 40])
def test_a_source_language_that_is_none_is_refused(language):
    with pytest.raises(InvalidFrame, match=r"at `\$.src_lang`"):
        decode_session(changed("session_init_one_way", src_lang=language))


@pytest.mark.parametrize("language", ["auto", "zh", "zh-CN", "zh_Hans_CN", "pt-BR", "es-419", "haw"])
def test_languages_as_people_write_them_are_taken(language):
    frame = decode_session(changed("session_init_one_way", src_lang=language))
    assert isinstance(frame, SessionInit)
    assert frame.src_lang == language


def test_what_we_send_never_says_null():
    assert encode(ErrorFrame(code="X", message="é")) == '{"type":"error","code":"X","message":"é"}'


def test_an_error_may_carry_details_and_the_trace():
    frame = ErrorFrame(code="X", message="m", details={"utterance_index": 3}, trace_id="t")
    assert json.loads(encode(frame)) == {
        "type": "error",
        "code": "X",
        "message": "m",
        "details": {"utterance_index": 3},
        "trace_id": "t",
    }


def test_audio_is_standard_base64_with_padding():
    assert audio_bytes("AwBIC+QDAEgH0A==", field="audio") == b"\x03\x00H\x0b\xe4\x03\x00H\x07\xd0"
    assert audio_bytes("", field="audio") == b""


@pytest.mark.parametrize("bad", ["A", "AwBIC-QD", "AwBI C+QD", "AwBIC+QDAEgH0A", "===", "AA==AA==", "é"])
def test_what_is_no_base64_is_refused_by_name(bad):
    with pytest.raises(InvalidFrame, match=r"^Invalid message format: Expected standard base64 .* at `\$.audio`$"):
        audio_bytes(bad, field="audio")


NAMES = sorted(path.stem for path in CAPTURED.glob("*.json"))
WORDS = st.text(alphabet='aZ0-_:., \n\0é译"{}', max_size=5)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spoilt_frames(draw):
    """A frame of a real client with one field replaced by anything."""
    name = draw(st.sampled_from(NAMES))
    field = draw(st.sampled_from(sorted(captured_fields(name))))
    return changed(name, **{field: draw(VALUES)})


# How fast examples are made depends on who else uses the machine; this is no claim about speed.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=50) | spoilt_frames())
def test_any_input_is_a_frame_or_an_invalid_frame(data):
    for decode in (decode_session, decode_node):
        try:
            decode(data)
        except InvalidFrame as error:
            problem = str(error)
        else:
            continue
        assert problem.startswith("Invalid message format: ")
