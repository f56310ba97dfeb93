"""What all frames share: the tagged struct, its bounds, one way in and one way out.

A frame is one JSON object whose field `type` names the message (PROTOCOL 1.2). Decoding checks everything once;
unknown fields are ignored, `null` equals absent where the protocol says optional, and whatever else is wrong becomes
an `InvalidFrame` whose text may be shown to the sender.
"""

import binascii
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

#: Ids that become keys, labels or HTML on our side.
Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._:-]{1,128}\Z")]
#: A language as people write it (`zh`, `pt-BR`, `zh_Hans_CN`, `auto`); `languages.normalise` makes it ours.
Language = Annotated[str, Meta(pattern=r"\A[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}\Z")]
#: A word or a name that is only compared or shown.
Short = Annotated[str, Meta(max_length=128)]
#: Words for people: recognised speech, translations, explanations.
Text = Annotated[str, Meta(max_length=65_536)]
#: Base64 of audio, kept as text: most of it is only passed on.
Base64 = Annotated[str, Meta(max_length=16 * 2**20)]
#: A count, an index or Unix milliseconds; every such number a JavaScript peer can say exactly.
Count = Annotated[int, Meta(ge=0, le=2**53)]
#: A measurement; fractions welcome, whole numbers stay whole.
Measure = Annotated[int, Meta(ge=0, le=2**53)] | Annotated[float, Meta(ge=0)]
#: Any JSON value, passed on byte for byte. `UNSET` when absent; a `null` arrives as `Raw(b"null")`.
Json = Raw | msgspec.UnsetType

_PREFIX = "Invalid message format: "
_TEXT_LIMIT = 400  # an error text never carries a large part of the frame back

_encoder = msgspec.json.Encoder()


class InvalidFrame(ValueError):
    """The frame cannot be understood; the text says where and why, and begins with `Invalid message format: `."""

    def __init__(self, problem: str) -> None:
        super().__init__(_PREFIX + problem[:_TEXT_LIMIT])


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """A message of the wire. Absent optional fields are left out of what we send: we never send `null`."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object inside a message."""


class Features(Part, frozen=True, kw_only=True):
    """The six optional abilities: wished for by a session, offered by a node."""

    emotion_detection: bool | None = None
    voice_style_detection: bool | None = None
    speech_rate_detection: bool | None = None
    speech_rate_control: bool | None = None
    speaker_identification: bool | None = None
    persona_adaptation: bool | None = None

    def chosen(self) -> frozenset[str]:
        """Names of the features that are set."""
        return frozenset(name for name in self.__struct_fields__ if getattr(self, name))


class ErrorFrame(Frame, frozen=True, kw_only=True, tag="error"):
    """Something failed, said to a session or to a node (PROTOCOL 2.2, 4).

    With the session's `trace_id` the web client opens no alert box once it has had a result (9.1 no. 11).
    """

    code: str
    message: str
    details: Any = None  #: any JSON value; terminal errors name their `utterance_index` here
    trace_id: str | None = None


def encode(frame: Frame) -> str:
    """The frame as JSON text."""
    return _encoder.encode(frame).decode()


def decoder(union: Any) -> Callable[[bytes | str], Any]:
    """A function from wire data to one of the frames in `union`; it raises `InvalidFrame` and nothing else."""
    strict = msgspec.json.Decoder(union)

    def decode(data: bytes | str) -> Any:
        try:
            # Parts that are passed on unread must be sound UTF-8 too, or the text frame we build of them is not.
            text = data if isinstance(data, str) else data.decode()
            try:
                return strict.decode(text)
            except msgspec.ValidationError as error:
                if "got `float`" not in str(error):
                    raise
                return strict.decode(_with_whole_numbers(text))
        except msgspec.DecodeError as error:
            raise InvalidFrame(_explain(str(error))) from error
        except UnicodeError as error:
            raise InvalidFrame("text is not valid UTF-8") from error
        except RecursionError as error:
            raise InvalidFrame("values are nested too deeply") from error

    return decode


def audio_bytes(base64: str, *, field: str) -> bytes:
    """Decodes standard base64 with padding; `InvalidFrame` names the field when it is something else."""
    try:
        if len(base64) % 4:  # strict mode lets "AAAA=" pass
            raise ValueError(len(base64))
        return binascii.a2b_base64(base64, strict_mode=True)
    except ValueError as error:
        raise InvalidFrame(f"Expected standard base64 with padding - at `$.{field}`") from error


def _with_whole_numbers(text: str) -> bytes:
    """The same JSON with `1.0` written as `1`, since some peers write integers so (PROTOCOL 1.2)."""
    return _encoder.encode(_whole(msgspec.json.decode(text)))


def _whole(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _whole(member) for key, member in value.items()}
        case list():
            return [_whole(member) for member in value]
        case _:
            return value


def _explain(problem: str) -> str:
    if problem.startswith("Invalid value") and problem.endswith("at `$.type`"):
        return problem.replace("Invalid value", "Unknown message type", 1)
    return problem
