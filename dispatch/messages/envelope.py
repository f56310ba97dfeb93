"""The message between instances: it lies in the inbox of the instance that owns a peer's socket (DESIGN 5).

An envelope is a doorbell: it names what happened to whom, and carries small content itself, large content by
reference. It says by itself until when it matters, how often it was re-sent, and for which connection it is meant.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

INLINE_BYTES = 16 * 1024  #: content up to this size rides inside

Kind = Literal["assign", "cancel", "verdict", "ending", "partial"]
Word = Annotated[str, Meta(max_length=512)]
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class InvalidEnvelope(ValueError):
    """The bytes are no envelope that this version reads; the text says why, for the dead letter."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one peer."""

    schema: Literal[1] = 1  #: raised when a reader of the old form would misunderstand the new one
    event_id: Word  #: names the event, not its delivery: a re-sent envelope keeps it
    kind: Kind
    target_kind: Literal["node", "session"]
    target: Word  #: id of the peer
    epoch: Whole = 0  #: of the target's connection; an assignment for another connection is dropped; 0 = any
    job: Word = ""
    lease: Word = ""  #: fences whatever concerns an attempt (P3)
    deadline_ms: Whole  #: Unix ms; afterwards nobody wants it
    hops: Annotated[int, Meta(ge=0, le=16)] = 0  #: how often it was re-sent because the target had moved
    trace_id: Word
    source: Word  #: instance that wrote it
    body: Annotated[bytes, Meta(max_length=INLINE_BYTES)] = b""
    ref: Word = ""  #: Redis key of content that does not fit inside

    def __post_init__(self) -> None:
        if self.body and self.ref:
            raise ValueError("an envelope carries its content or refers to it, not both")
        if len(self.body) > INLINE_BYTES:
            raise ValueError(f"{len(self.body)} bytes do not ride inside an envelope, at most {INLINE_BYTES} do")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """The envelope as msgpack."""
    return _encoder.encode(envelope)


def decode(data: bytes) -> Envelope:
    """Reads an envelope; raises `InvalidEnvelope`."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidEnvelope(f"{len(data)} bytes are no envelope of schema 1: {error}") from error
