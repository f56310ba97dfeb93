"""Two generations of registrations make one picture."""

from typing import Any

import pytest

from dispatch import languages
from dispatch.messages.capabilities import Capabilities, refusal, type_of_service
from dispatch.messages.node import NodeHeartbeat, NodeRegister, decode_node
from tests.dispatch.messages import captured_fields, changed


def register(name: str = "node_register", **changes: Any) -> NodeRegister:
    frame = decode_node(changed(name, **changes))
    assert isinstance(frame, NodeRegister)
    return frame


def heartbeat(**changes: Any) -> NodeHeartbeat:
    frame = decode_node(changed("node_heartbeat", **changes))
    assert isinstance(frame, NodeHeartbeat)
    return frame


def old_register(**changes: Any) -> NodeRegister:
    """A registration of December 2025 (PROTOCOL 11)."""
    old: dict[str, Any] = {
        "capability_schema_version": "1.0",
        "installed_services": [
            {"service_id": "node-inference", "version": "1", "platform": "windows"},
            {"service_id": "nmt-m2m100", "version": "1", "platform": "windows"},
            {"service_id": "piper-tts", "version": "1", "platform": "windows"},
        ],
        "capability_state": {"node-inference": "ready", "nmt-m2m100": "ready", "piper-tts": "downloading"},
        "capability_by_type": ...,
        "language_capabilities": ...,
    }
    return register(**old | changes)


def quiet(**changes: Any) -> NodeHeartbeat:
    """A heartbeat that says nothing about abilities, but for the changes."""
    silence = dict.fromkeys(("installed_services", "capability_by_type", "language_capabilities"), ...)
    return heartbeat(**silence | changes)


def test_the_real_agents_registration_is_understood():
    node = Capabilities.of(register())
    assert node.ready_types == {"asr", "nmt", "tts", "semantic"}
    assert node.installed_types == {"asr", "nmt", "tts", "semantic"}
    assert node.pairs == {("en", "zh"), ("zh", "en"), ("auto", "en"), ("auto", "zh")}
    assert node.asr_languages is not None
    assert len(node.asr_languages) == 99
    assert node.features == frozenset()
    assert node.accept_public
    assert node.has_gpu
    assert {service.service_id for service in node.services if service.ready} == {
        *("semantic-repair-zh", "semantic-repair-en", "nmt-m2m100", "piper-tts", "faster-whisper-vad")
    }


def test_a_two_way_job_fits_the_real_agent():
    tokens = languages.class_tokens(Capabilities.of(register()), ready=True)
    kind = languages.kind_tokens("auto", "en", auto_langs=["zh", "en"], services=["asr", "nmt", "tts"])
    assert languages.fits(kind, tokens)


def test_offered_features_are_those_that_are_true():
    offered = {"emotion_detection": True, "speech_rate_control": False, "persona_adaptation": None}
    assert Capabilities.of(register(features_supported=offered)).features == {"emotion_detection"}


def test_an_old_node_gets_its_types_from_its_service_ids():
    node = Capabilities.of(old_register())
    assert node.installed_types == {"asr", "nmt", "tts"}
    assert node.ready_types == {"asr", "nmt"}
    assert [(service.service_id, service.running) for service in node.services] == [
        ("node-inference", True),
        ("nmt-m2m100", True),
        ("piper-tts", False),
    ]


def test_an_old_node_may_name_its_services_in_the_states_only():
    node = Capabilities.of(
        old_register(installed_services=..., capability_state={"piper-tts": "ready", "your-tts": "not_installed"})
    )
    assert [service.service_id for service in node.services] == ["piper-tts"]


def test_a_node_silent_about_languages_is_taken_at_the_word_of_its_services():
    node = Capabilities.of(old_register())
    assert {("en", "es"), ("lt", "zh"), ("auto", "en")} <= node.pairs
    assert ("en", "lt") not in node.pairs  # no voice for it
    assert node.asr_languages is None
    assert not Capabilities.of(old_register(installed_services=[], capability_state={})).pairs


@pytest.mark.parametrize(
    ("service_id", "expected"),
    [
        ("faster-whisper-vad", "asr"),
        ("speaker-embedding", "tone"),
        ("semantic-repair-fr", "semantic"),
        ("en-normalize", "semantic"),
        ("mystery", ""),
    ],
)
def test_known_services_have_types(service_id, expected):
    assert type_of_service(service_id) == expected


def test_an_implementation_that_is_not_named_as_ready_is_not():
    capabilities = [{"type": "asr", "ready": True, "ready_impl_ids": ["faster-whisper-vad"]}]
    services = [
        {"service_id": "faster-whisper-vad", "type": "asr", "status": "running"},
        {"service_id": "node-inference", "type": "asr", "status": "running", "device": "cpu"},
        {"service_id": "piper-tts", "type": "tts", "status": "running"},
    ]
    node = Capabilities.of(register(installed_services=services, capability_by_type=capabilities))
    assert [service.ready for service in node.services] == [True, False, False]
    assert [service.running for service in node.services] == [True, True, True]


def test_a_heartbeat_replaces_what_it_gives():
    node = Capabilities.of(register())
    stopped = [{"type": "asr", "ready": False, "reason": "no_running_impl"}]
    later = node.updated(quiet(capability_by_type=stopped))
    assert later.ready_types == frozenset()
    assert (later.pairs, later.installed_types) == (node.pairs, node.installed_types)
    gone = node.updated(quiet(installed_services=[]))
    assert gone.services == ()


def test_a_heartbeat_may_bring_other_languages():
    pairs = {"supported_language_pairs": [{"src": "FR", "tgt": "de-DE"}], "asr_languages": ["fr"]}
    node = Capabilities.of(register()).updated(quiet(language_capabilities=pairs))
    assert node.pairs == {("fr", "de")}
    assert node.asr_languages == frozenset({"fr"})


def test_a_heartbeat_without_news_changes_nothing():
    node = Capabilities.of(register())
    assert node.updated(quiet()) is node
    assert node.updated(heartbeat()) is node


def test_an_old_nodes_heartbeat_moves_its_states():
    node = Capabilities.of(old_register())
    later = node.updated(quiet(capability_state={"piper-tts": "ready", "nmt-m2m100": "error"}))
    assert later.ready_types == {"tts"}
    assert later.pairs == node.pairs


def test_the_picture_after_a_heartbeat_is_that_of_a_new_registration():
    later = Capabilities.of(old_register()).updated(heartbeat())
    said = captured_fields("node_heartbeat")
    names = ("installed_services", "capability_by_type", "language_capabilities")
    assert later == Capabilities.of(old_register(**{name: said[name] for name in names}))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"capability_schema_version": "1.0"}, None),
        ({"capability_schema_version": ..., "capability_state": {}}, None),
        ({"capability_schema_version": ...}, "INVALID_CAPABILITY_SCHEMA"),
        ({"capability_schema_version": "3.0", "capability_state": {}}, "INVALID_CAPABILITY_SCHEMA"),
        ({"hardware": {"cpu_cores": 2, "memory_gb": 4, "gpus": []}}, "NO_GPU_AVAILABLE"),
        ({"hardware": {"cpu_cores": 2, "memory_gb": 4}, "capability_schema_version": ""}, "INVALID_CAPABILITY_SCHEMA"),
    ],
)
def test_the_schema_is_judged_before_the_gpu(changes, code):
    refused = refusal(register(**changes))
    assert (refused and refused.code) == code


def test_the_real_agent_without_a_gpu_is_told_so():
    refused = refusal(register("node_register_without_gpu"))
    assert refused is not None
    assert refused.code == "NO_GPU_AVAILABLE"
    assert "hardware.gpus" in refused.message
