"""Frames between a session and us (PROTOCOL 2); rooms and WebRTC are not spoken here, so their types are unknown."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from dispatch.messages.base import (
    Base64,
    Count,
    Features,
    Frame,
    Id,
    Json,
    Language,
    Measure,
    Part,
    Short,
    decoder,
)

Languages = Annotated[tuple[Language, ...], Meta(max_length=16)]
Token = Annotated[str, Meta(max_length=256)]
LastIndex = Annotated[int, Meta(ge=-1, le=2**53)]  #: -1 = nothing received yet


# --- from the session ---------------------------------------------------------------------------------------------


class SessionInit(Frame, frozen=True, kw_only=True, tag="session_init"):
    """First frame of every connection (2.1)."""

    client_version: Short
    platform: Short
    src_lang: Language
    tgt_lang: Language
    dialect: Short | None = None
    features: Features | None = None
    pairing_code: Short | None = None
    tenant_id: Short | None = None  #: a wish; the tenant comes from the credential (DESIGN 9)
    mode: Short | None = None  #: `one_way` or `two_way_auto`
    lang_a: Language | None = None
    lang_b: Language | None = None
    auto_langs: Languages | None = None  #: candidates for source `auto`
    trace_id: Short | None = None  #: one trace per session; made here when absent
    resume_token: Token | None = None  #: our extension: go on after a lost socket; empty asks for a token
    last_index: LastIndex | None = None  #: our extension: highest utterance index whose outcome the client has


class AudioChunk(Frame, frozen=True, kw_only=True, tag="audio_chunk"):
    """A piece of the speech stream; `is_final` cuts the utterance, also with an empty payload (2.1, 7.1)."""

    session_id: Id
    seq: Count
    is_final: bool
    payload: Base64 | None = None
    client_timestamp_ms: Count | None = None


class Utterance(Frame, frozen=True, kw_only=True, tag="utterance"):
    """A whole utterance in one frame, treated like a manual cut (2.1)."""

    session_id: Id
    utterance_index: Count
    manual_cut: bool
    src_lang: Language
    tgt_lang: Language
    audio: Base64
    audio_format: Short
    sample_rate: Annotated[int, Meta(ge=1, le=384_000)]
    dialect: Short | None = None
    features: Features | None = None
    mode: Short | None = None
    lang_a: Language | None = None
    lang_b: Language | None = None
    auto_langs: Languages | None = None
    trace_id: Short | None = None
    idempotency_key: Id | None = None  #: our extension: the same key means the same request
    retry: bool | None = None  #: our extension: a kept failure is not an answer, try anew (DESIGN 5)


class ClientHeartbeat(Frame, frozen=True, kw_only=True, tag="client_heartbeat"):
    """The session lives; answered by `server_heartbeat`."""

    session_id: Id
    timestamp: Count  #: Unix ms by the client's clock
    last_index: LastIndex | None = None  #: our extension: outcomes up to this index need not be kept


class TtsPlayEnded(Frame, frozen=True, kw_only=True, tag="tts_play_ended"):
    """The client has played a result of this group to its end (7.5)."""

    session_id: Id
    trace_id: Short
    group_id: Short
    ts_end_ms: Count


class SessionClose(Frame, frozen=True, kw_only=True, tag="session_close"):
    """A polite end; answered by `session_close_ack` after the waiting results."""

    session_id: Id
    reason: Short


SessionFrame = SessionInit | AudioChunk | Utterance | ClientHeartbeat | TtsPlayEnded | SessionClose

#: Reads a frame that a session sent; raises `InvalidFrame`.
decode_session: Callable[[bytes | str], SessionFrame] = decoder(SessionFrame)


# --- to the session -----------------------------------------------------------------------------------------------


class SessionInitAck(Frame, frozen=True, kw_only=True, omit_defaults=False, tag="session_init_ack"):
    """The session exists and may send audio (2.2). The format is always said; real clients send Opus anyway."""

    session_id: str
    message: str = "session created"
    trace_id: str
    protocol_version: str = "1.0"
    use_binary_frame: bool = False  #: true would switch the web client to frames that nobody here reads (1.4)
    negotiated_codec: str = "opus"
    negotiated_audio_format: str = "opus"
    negotiated_sample_rate: int = 16_000  #: Hz
    negotiated_channel_count: int = 1
    assigned_node_id: str | UnsetType = UNSET  #: after a pairing
    resume_token: str | UnsetType = UNSET  #: our extension, for clients that asked for one


class NetworkTimings(Part, frozen=True, kw_only=True):
    """Where the time went between the machines, in ms; clocks differ, so these are for display only."""

    web_to_scheduler_ms: int | None = None
    scheduler_to_node_ms: int | None = None
    node_to_scheduler_ms: int | None = None


class ResultExtra(Part, frozen=True, kw_only=True):
    """What of a node's `extra` reaches the session; other keys are dropped (2.2)."""

    emotion: Json = UNSET
    speech_rate: Json = UNSET
    voice_style: Json = UNSET
    service_timings: Json = UNSET
    language_probability: Json = UNSET
    language_probabilities: Json = UNSET


class TranslationResult(Frame, frozen=True, kw_only=True, tag="translation_result"):
    """An utterance in the other language (2.2); the client keys everything on `utterance_index`."""

    session_id: str
    utterance_index: int
    job_id: str
    text_asr: str
    text_translated: str
    tts_audio: str
    tts_format: str
    extra: ResultExtra | None = None
    trace_id: str
    group_id: str | None = None
    part_index: int | None = None
    service_timings: Json = UNSET
    network_timings: NetworkTimings | None = None
    scheduler_sent_at_ms: int | None = None
    asr_quality_level: str | None = None
    reason_codes: tuple[str, ...] | None = None
    quality_score: Measure | None = None
    rerun_count: int | None = None
    segments_meta: Json = UNSET


class MissingResult(Frame, frozen=True, kw_only=True, tag="missing_result"):
    """There will be no translation of this utterance; the web client has words for these three reasons."""

    session_id: str
    utterance_index: int
    reason: Literal["silence_detected", "timeout", "result_timeout"]
    created_at_ms: int
    trace_id: str | None = None


class AsrPartial(Frame, frozen=True, kw_only=True, tag="asr_partial"):
    """What has been recognised so far."""

    session_id: str
    utterance_index: int
    job_id: str
    text: str
    is_final: bool
    trace_id: str


class ServerHeartbeat(Frame, frozen=True, kw_only=True, tag="server_heartbeat"):
    """Answer to `client_heartbeat`."""

    session_id: str
    timestamp: int  #: Unix ms


class Progress(StrEnum):
    """Values of `ui_event.event`; the web client ignores those it does not know."""

    INPUT_STARTED = "INPUT_STARTED"
    INPUT_ENDED = "INPUT_ENDED"
    DISPATCHED = "DISPATCHED"  #: handed to a node
    NODE_ACCEPTED = "NODE_ACCEPTED"  #: the node acknowledged it
    ASR_PARTIAL = "ASR_PARTIAL"
    ASR_FINAL = "ASR_FINAL"
    NMT_DONE = "NMT_DONE"
    TTS_PLAY_STARTED = "TTS_PLAY_STARTED"
    TTS_PLAY_ENDED = "TTS_PLAY_ENDED"
    ERROR = "ERROR"
    QUEUED = "QUEUED"  #: ours: waits for a free node, see `queue_position`
    RETRYING = "RETRYING"  #: ours: an attempt failed, another follows
    DELAYED = "DELAYED"  #: ours: the scheduler's store does not answer, the utterance is kept


class UiEvent(Frame, frozen=True, kw_only=True, tag="ui_event"):
    """How an utterance gets on; never its end."""

    trace_id: str
    session_id: str
    job_id: str
    utterance_index: int
    event: Progress
    elapsed_ms: int | None = None  #: since the job was created
    status: Literal["ok", "error"]
    error_code: str | None = None
    hint: str | None = None  #: Chinese, for the end user
    queue_position: int | None = None  #: our extension: jobs of its kind in front of it


class SessionCloseAck(Frame, frozen=True, kw_only=True, tag="session_close_ack"):
    """Answer to `session_close`, after everything else."""

    session_id: str


class Backpressure(Frame, frozen=True, kw_only=True, tag="backpressure"):
    """Asks the client to hold its audio back (2.5)."""

    action: Literal["PAUSE", "BUSY", "SLOW_DOWN"]
    resume_after_ms: int | None = None  #: the client takes 5000 when absent
    message: str | None = None
