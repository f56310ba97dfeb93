"""From a node's result to the session's frame."""

import json
from typing import Any

import pytest

from dispatch.messages.base import encode
from dispatch.messages.node import JobResult, decode_node
from dispatch.messages.results import is_duplicate_answer, is_empty_result, result_frame
from tests.dispatch.messages import captured_fields, changed


def result(name: str = "job_result_success_stub_inference", **changes: Any) -> JobResult:
    frame = decode_node(changed(name, **changes))
    assert isinstance(frame, JobResult)
    return frame


def sent(job_result: JobResult, **facts: Any) -> dict[str, Any]:
    ids: dict[str, Any] = {"session_id": "s-1", "utterance_index": 4, "job_id": "job-9", "trace_id": "t"}
    frame = result_frame(job_result, sent_at_ms=50, **ids, **facts)
    text = encode(frame)
    assert "null" not in text
    fields: dict[str, Any] = json.loads(text)
    return fields


def test_a_result_reaches_the_session_under_our_ids():
    fields = sent(result(), group_id="g", part_index=0, web_to_scheduler_ms=1, scheduler_to_node_ms=2)
    assert fields == {
        "type": "translation_result",
        "session_id": "s-1",
        "utterance_index": 4,
        "job_id": "job-9",
        "text_asr": "good morning everyone this is utterance 0",
        "text_translated": "stub translation 0",
        "tts_audio": "b3B1cy1wbGFjZWhvbGRlcg==",
        "tts_format": "opus",
        "extra": {"language_probability": 0.97, "language_probabilities": {"en": 0.97, "zh": 0.03}},
        "trace_id": "t",
        "group_id": "g",
        "part_index": 0,
        "service_timings": {"total_ms": 63},
        "network_timings": {"web_to_scheduler_ms": 1, "scheduler_to_node_ms": 2},
        "scheduler_sent_at_ms": 50,
        "asr_quality_level": "good",
        "reason_codes": [],
        "quality_score": 0.93,
        "rerun_count": 0,
        "segments_meta": {"count": 1, "max_gap": 0, "avg_duration": 1.4},
    }


def test_the_real_pipelines_audio_arrives_unchanged():
    name = "job_result_success_real_pipeline"
    assert sent(result(name))["tts_audio"] == captured_fields(name)["tts_audio"]


@pytest.mark.parametrize(
    "name",
    ["job_result_empty_audio_buffered", "job_result_filtered_short_text", "job_result_filtered_duplicate_job_id"],
)
def test_an_empty_result_is_a_missing_one(name):
    assert is_empty_result(result(name))
    assert sent(result(name)) == {
        "type": "missing_result",
        "session_id": "s-1",
        "utterance_index": 4,
        "reason": "silence_detected",
        "created_at_ms": 50,
        "trace_id": "t",
    }


def test_texts_without_speech_are_marked():
    fields = sent(result(tts_audio="", text_asr="hi", text_translated=...))
    assert (fields["text_asr"], fields["text_translated"], fields["tts_audio"]) == ("[音频丢失] hi", "", "")


def test_speech_without_a_format_is_pcm():
    assert sent(result(tts_format=...))["tts_format"] == "pcm16"


def test_a_nodes_own_timings_win_over_the_total():
    timings = {"asr_ms": 1.5, "total_ms": 9}
    fields = sent(result(extra={"service_timings": timings, "secret": 1}))
    assert fields["service_timings"] == timings
    assert fields["extra"] == {"service_timings": timings}


@pytest.mark.parametrize("extra", [..., None, [], "x", 3])
def test_an_odd_extra_costs_only_itself(extra):
    fields = sent(result(extra=extra, segments_meta=None, processing_time_ms=None))
    assert {"extra", "segments_meta", "service_timings", "network_timings"}.isdisjoint(fields)


def test_the_way_back_is_measured_when_the_node_says_when_it_was_done():
    assert sent(result(node_completed_at_ms=40), received_at_ms=47)["network_timings"] == {"node_to_scheduler_ms": 7}
    assert sent(result(node_completed_at_ms=60), received_at_ms=47)["network_timings"] == {"node_to_scheduler_ms": 0}


def test_a_duplicate_answer_is_told_from_other_filtered_ones():
    assert is_duplicate_answer(result("job_result_filtered_duplicate_job_id"))
    assert not is_duplicate_answer(result("job_result_filtered_short_text"))
    assert not is_duplicate_answer(result())
    assert not is_duplicate_answer(result(extra=["duplicate_job_id"]))
    assert not is_duplicate_answer(result(extra=...))
