"""Envelopes survive the way, and whatever is none says so."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.messages.envelope import INLINE_BYTES, Envelope, InvalidEnvelope, decode, encode


def envelope(**changes: Any) -> Envelope:
    facts: dict[str, Any] = {
        "event_id": "e-1",
        "kind": "verdict",
        "target_kind": "session",
        "target": "s-1",
        "epoch": 2**52,
        "job": "job-1",
        "lease": "ab12",
        "deadline_ms": 1_800_000_000_000,
        "trace_id": "t",
        "source": "a",
    }
    return Envelope(**facts | changes)


@pytest.mark.parametrize(
    "sent",
    [
        envelope(),
        envelope(body=b"\x00\xff" * (INLINE_BYTES // 2), hops=1),
        envelope(ref="lingua:v1:result:{job:1}:ab12"),
        envelope(kind="assign", target_kind="node"),
    ],
)
def test_an_envelope_arrives_as_it_was_sent(sent):
    assert decode(encode(sent)) == sent


def test_content_is_inside_or_referred_to_but_not_both():
    with pytest.raises(ValueError, match="not both"):
        envelope(body=b"x", ref="key")


def test_large_content_does_not_ride_inside():
    with pytest.raises(ValueError, match="16385 bytes do not ride inside"):
        envelope(body=b"x" * (INLINE_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "gossip"},
        {"target_kind": "room"},
        {"epoch": -1},
        {"body": b"x" * (INLINE_BYTES + 1)},
        {"body": b"x", "ref": "key"},
        {"hops": 17},
    ],
)
def test_an_envelope_of_another_kind_or_schema_is_refused_with_words(change):
    fields = msgspec.to_builtins(envelope(), builtin_types=(bytes,)) | change
    with pytest.raises(InvalidEnvelope, match=r"bytes are no envelope of schema 1: \w+"):
        decode(msgspec.msgpack.encode(fields))


def test_fields_of_a_newer_instance_are_ignored():
    fields = msgspec.to_builtins(envelope(), builtin_types=(bytes,)) | {"colour": "red"}
    assert decode(msgspec.msgpack.encode(fields)) == envelope()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no claim about speed
@given(st.binary(max_size=100))
def test_garbage_is_an_invalid_envelope(data):
    with pytest.raises(InvalidEnvelope):
        decode(data)
