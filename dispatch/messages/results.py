"""Turns a node's `job_result` into what the session hears (PROTOCOL 2.2, 3.7)."""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from dispatch.messages.base import Json, Part
from dispatch.messages.node import JobResult
from dispatch.messages.session import MissingResult, NetworkTimings, ResultExtra, TranslationResult

AUDIO_LOST = "[音频丢失] "  #: in front of texts whose speech is missing

_encode = msgspec.json.Encoder().encode
_decode_extra = msgspec.json.Decoder(ResultExtra).decode


class _Filter(Part, frozen=True, kw_only=True):
    """The part of `extra` in which a node says that it did not do the work."""

    filtered: bool = False
    reason: str = ""


_decode_filter = msgspec.json.Decoder(_Filter).decode


def is_empty_result(result: JobResult) -> bool:
    """Whether a success brought neither text nor speech: silence, noise, or words too short to count."""
    return not (result.text_asr or result.text_translated or result.tts_audio)


def is_duplicate_answer(result: JobResult) -> bool:
    """Whether the node only says that it has seen this job id before, which is never a result (9.2 no. 4)."""
    if isinstance(result.extra, UnsetType):
        return False
    try:
        said = _decode_filter(result.extra)
    except msgspec.ValidationError:
        return False
    return said.filtered and said.reason == "duplicate_job_id"


def result_frame(
    result: JobResult,
    *,
    session_id: str,
    utterance_index: int,
    job_id: str,
    trace_id: str,
    sent_at_ms: int,
    received_at_ms: int | None = None,
    web_to_scheduler_ms: int | None = None,
    scheduler_to_node_ms: int | None = None,
    group_id: str | None = None,
    part_index: int | None = None,
) -> TranslationResult | MissingResult:
    """The frame for a successful result. Ids are ours, not the node's echo; times are Unix ms by our wall clock.

    An empty result becomes `missing_result`. Texts without speech are marked as such, since the client plays nothing.
    """
    if is_empty_result(result):
        return MissingResult(
            session_id=session_id,
            utterance_index=utterance_index,
            reason="silence_detected",
            created_at_ms=sent_at_ms,
            trace_id=trace_id,
        )
    lost = "" if result.tts_audio else AUDIO_LOST
    extra = _extra(result)
    return TranslationResult(
        session_id=session_id,
        utterance_index=utterance_index,
        job_id=job_id,
        text_asr=lost + result.text_asr if result.text_asr else "",
        text_translated=lost + result.text_translated if result.text_translated else "",
        tts_audio=result.tts_audio or "",
        tts_format=result.tts_format or "pcm16",
        extra=extra,
        trace_id=trace_id,
        group_id=group_id,
        part_index=part_index,
        service_timings=_service_timings(result, extra),
        network_timings=_network_timings(result, received_at_ms, web_to_scheduler_ms, scheduler_to_node_ms),
        scheduler_sent_at_ms=sent_at_ms,
        asr_quality_level=result.asr_quality_level,
        reason_codes=result.reason_codes,
        quality_score=result.quality_score,
        rerun_count=result.rerun_count,
        segments_meta=_said(result.segments_meta),
    )


def _said(value: Json) -> Json:
    """The value, unless it is `null`, which we never send."""
    return UNSET if isinstance(value, UnsetType) or bytes(value) == b"null" else value


def _extra(result: JobResult) -> ResultExtra | None:
    """The known keys of the node's `extra`; a node that sends something else there loses it, not the translation."""
    said = _said(result.extra)
    if isinstance(said, UnsetType):
        return None
    try:
        extra = _decode_extra(said)
    except msgspec.ValidationError:
        return None
    return ResultExtra(**{name: _said(getattr(extra, name)) for name in extra.__struct_fields__})


def _service_timings(result: JobResult, extra: ResultExtra | None) -> Json:
    if extra is not None and extra.service_timings is not UNSET:
        return extra.service_timings
    if result.processing_time_ms is None:
        return UNSET
    return Raw(_encode({"total_ms": result.processing_time_ms}))


def _network_timings(
    result: JobResult, received_at_ms: int | None, web_to_scheduler_ms: int | None, scheduler_to_node_ms: int | None
) -> NetworkTimings | None:
    back = None
    if received_at_ms is not None and result.node_completed_at_ms is not None:
        back = max(0, received_at_ms - int(result.node_completed_at_ms))  # two clocks; never show a negative time
    timings = NetworkTimings(
        web_to_scheduler_ms=web_to_scheduler_ms, scheduler_to_node_ms=scheduler_to_node_ms, node_to_scheduler_ms=back
    )
    return timings if timings != NetworkTimings() else None
