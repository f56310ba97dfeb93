"""Node frames: the real agent's are read, `job_assign` has the fields of PROTOCOL 3.5."""

import json

import pytest
from msgspec import Raw

from dispatch.messages.base import Features, InvalidFrame, encode
from dispatch.messages.node import (
    AssignBody,
    JobAck,
    JobCancel,
    JobResult,
    JobStarted,
    NodeError,
    NodeHeartbeat,
    NodePartial,
    NodeRegister,
    NodeRegisterAck,
    NodeStatus,
    Pipeline,
    RequestPairingCode,
    assign_body,
    assign_frame,
    decode_node,
)
from tests.dispatch.messages import captured, captured_fields, changed

RESULTS = [
    "job_result_success_real_pipeline",
    "job_result_success_stub_inference",
    "job_result_empty_audio_buffered",
    "job_result_filtered_duplicate_job_id",
    "job_result_filtered_short_text",
    "job_result_model_not_available",
    "job_result_processing_error",
]


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_of_the_real_agent_is_read(name):
    frame, fields = decode_node(captured(name)), captured_fields(name)
    assert isinstance(frame, JobResult)
    for field in fields.keys() - {"type", "extra", "segments_meta", "reason_codes", "error"}:
        assert getattr(frame, field) == fields[field]


def test_what_is_only_passed_on_keeps_its_bytes():
    frame = decode_node(captured("job_result_success_stub_inference").replace("0.97", "0.970"))
    assert isinstance(frame, JobResult)
    assert isinstance(frame.extra, Raw)
    assert b'"language_probability": 0.970' in bytes(frame.extra)


def test_a_failure_brings_the_nodes_own_words():
    frame = decode_node(captured("job_result_model_not_available"))
    assert isinstance(frame, JobResult)
    assert frame.error is not None
    assert frame.error.code == "MODEL_NOT_AVAILABLE"
    assert isinstance(frame.error.details, Raw)
    assert json.loads(bytes(frame.error.details)) == {
        "service_id": "nmt-m2m100",
        "service_version": "2.0.0",
        "reason": "not_installed",
    }


@pytest.mark.parametrize("name", ["node_register", "node_register_on_reconnect", "node_register_without_gpu"])
def test_registrations_of_the_real_agent_are_read(name):
    frame, fields = decode_node(captured(name)), captured_fields(name)
    assert isinstance(frame, NodeRegister)
    assert frame.node_id == fields["node_id"]
    assert frame.capability_schema_version == "2.0"
    assert frame.accept_public_jobs is True
    assert [service.service_id for service in frame.installed_services or ()] == [
        service["service_id"] for service in fields["installed_services"]
    ]
    assert [capability.type for capability in frame.capability_by_type or ()] == [
        *("asr", "nmt", "tts", "tone", "semantic")
    ]
    assert (frame.hardware.gpus is None) == (name == "node_register_without_gpu")


def test_a_heartbeat_of_the_real_agent_is_read():
    frame = decode_node(captured("node_heartbeat"))
    assert isinstance(frame, NodeHeartbeat)
    assert frame.resource_usage.gpu_percent == 12
    assert frame.resource_usage.running_jobs == 0
    assert frame.rerun_metrics is not None
    assert frame.rerun_metrics.total_reruns == 0
    assert frame.language_capabilities is not None
    assert frame.language_capabilities.asr_languages is not None
    assert len(frame.language_capabilities.asr_languages) == 99


@pytest.mark.parametrize(
    ("frame", "frame_type"),
    [
        (captured("asr_partial_from_node"), NodePartial),
        (captured("request_pairing_code"), RequestPairingCode),
        ('{"type":"job_ack","job_id":"j","attempt_id":1,"node_id":"n","session_id":"s","trace_id":"t"}', JobAck),
        (
            '{"type":"job_started","job_id":"j","attempt_id":1,"node_id":"n","session_id":"s","trace_id":"t"}',
            JobStarted,
        ),
        ('{"type":"node_error","node_id":"n","code":"MODEL_LOAD_FAILED","message":"m","details":null}', NodeError),
    ],
)
def test_rare_node_frames_are_read(frame, frame_type):
    assert type(decode_node(frame)) is frame_type


def test_words_of_the_future_do_not_cost_the_frame():
    services = [{"service_id": "x", "type": "dream", "device": "npu", "status": "starting", "mem_mb": "lots"}]
    capabilities = [{"type": "dream", "ready": False, "reason": "no idea"}]
    frame = decode_node(changed("node_heartbeat", installed_services=services, capability_by_type=capabilities))
    assert isinstance(frame, NodeHeartbeat)
    assert frame.installed_services is not None
    assert frame.installed_services[0].status == "starting"


def test_our_extensions_are_optional_and_bounded():
    frame = decode_node(changed("node_register", max_concurrent_jobs=8, running_job_ids=["job-1-ab"]))
    assert isinstance(frame, NodeRegister)
    assert (frame.max_concurrent_jobs, frame.running_job_ids) == (8, ("job-1-ab",))
    beat = decode_node(changed("node_heartbeat", assign_seq=17, running_job_ids=[]))
    assert isinstance(beat, NodeHeartbeat)
    assert (beat.assign_seq, beat.running_job_ids) == (17, ())
    for limit in (0, 1025):
        with pytest.raises(InvalidFrame, match=r"\$.max_concurrent_jobs"):
            decode_node(changed("node_register", max_concurrent_jobs=limit))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"node_id": "node 1"}, "$.node_id"),
        ({"node_id": "{node:x}"}, "$.node_id"),
        ({"hardware": {"cpu_cores": 2, "memory_gb": -1}}, "$.hardware.memory_gb"),
        ({"installed_services": [{"service_id": "x" * 129}]}, "$.installed_services[0].service_id"),
        ({"installed_services": [{"service_id": "x"}] * 257}, "$.installed_services"),
        ({"platform": "x" * 129}, "$.platform"),
    ],
)
def test_an_odd_registration_is_refused_by_name(changes, path):
    with pytest.raises(InvalidFrame) as caught:
        decode_node(changed("node_register", **changes))
    assert f"at `{path}`" in str(caught.value)


BODY = AssignBody(
    session_id="s-7C41D09E",
    utterance_index=0,
    src_lang="zh",
    tgt_lang="en",
    features=Features(),
    pipeline=Pipeline(),
    audio="AwBIC+QDAEgH0A==",
    audio_format="opus",
    sample_rate=16000,
    mode="one_way",
    enable_streaming_asr=True,
    partial_update_interval_ms=1000,
    trace_id="4d0c2c0e",
    padding_ms=280,
    is_manual_cut=True,
)


def test_an_assignment_is_the_stored_body_with_its_attempt_in_front():
    frame = assign_frame(assign_body(BODY), job_id='job-1-"x"', attempt_id=2, assign_seq=5)
    assert list(json.loads(frame).items()) == [
        ("type", "job_assign"),
        ("job_id", 'job-1-"x"'),
        ("attempt_id", 2),
        ("assign_seq", 5),
        ("session_id", "s-7C41D09E"),
        ("utterance_index", 0),
        ("src_lang", "zh"),
        ("tgt_lang", "en"),
        ("features", {}),
        ("pipeline", {"use_asr": True, "use_nmt": True, "use_tts": True}),
        ("audio", "AwBIC+QDAEgH0A=="),
        ("audio_format", "opus"),
        ("sample_rate", 16000),
        ("mode", "one_way"),
        ("enable_streaming_asr", True),
        ("partial_update_interval_ms", 1000),
        ("trace_id", "4d0c2c0e"),
        ("padding_ms", 280),
        ("is_manual_cut", True),
    ]


@pytest.mark.parametrize("flags", [{}, {"is_manual_cut": True, "is_pause_triggered": True}])
def test_an_assignment_has_exactly_one_cut_flag(flags):
    with pytest.raises(ValueError, match="exactly one cut flag"):
        AssignBody(
            session_id="s",
            utterance_index=0,
            src_lang="zh",
            tgt_lang="en",
            pipeline=Pipeline(),
            audio="",
            audio_format="opus",
            sample_rate=16000,
            trace_id="t",
            **flags,
        )


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (
            NodeRegisterAck(node_id="n", message="registered", status="registering"),
            '{"type":"node_register_ack","node_id":"n","message":"registered","status":"registering"}',
        ),
        (
            NodeStatus(node_id="n", status="ready", reason="healthy", timestamp=1),
            '{"type":"node_status","node_id":"n","status":"ready","reason":"healthy","timestamp":1}',
        ),
        (
            JobCancel(job_id="j", trace_id="t", reason="job_timeout"),
            '{"type":"job_cancel","job_id":"j","trace_id":"t","reason":"job_timeout"}',
        ),
        (JobCancel(job_id="j"), '{"type":"job_cancel","job_id":"j"}'),
    ],
)
def test_what_we_send_has_the_fields_of_the_protocol(frame, text):
    assert encode(frame) == text
