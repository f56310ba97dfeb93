"""A node's health: ready by healthy beats, degraded by three kinds of illness, offline by silence (PHASE3 13.B)."""

from itertools import product
from typing import Any

import msgspec
import pytest

from dispatch.conf import NodeHealth
from dispatch.connections.health import Health, is_healthy
from dispatch.messages.capabilities import Capabilities
from dispatch.messages.node import ResourceUsage, TypeCapability
from tests.dispatch.service.stand import CORE, registration

RULES = NodeHealth()
CAPABLE = Capabilities.of(registration("n1"))
DECLARED = frozenset(CORE)


def health(**changes: Any) -> Health:
    return Health(msgspec.structs.replace(RULES, **changes), now=0.0)


def beats(node: Health, *healthy: bool, at: float = 1.0) -> list[str]:
    """The status after each beat."""
    said: list[str] = []
    for each in healthy:
        before = node.status
        assert node.beat(each, now=at) == (node.status != before)
        said.append(node.status)
    return said


def test_a_new_connection_is_registering():
    assert health().status == "registering"


def test_a_healthy_beat_makes_a_registering_node_ready():
    assert beats(health(), False, True) == ["registering", "ready"]


def test_as_many_healthy_beats_in_a_row_as_configured_make_it_ready():
    assert beats(health(health_check_count=2), True, False, True, True) == [*["registering"] * 3, "ready"]


def test_a_node_that_does_not_get_ready_in_time_is_degraded():
    node = health()
    assert beats(node, False, at=RULES.warmup_timeout_seconds) == ["registering"]
    assert beats(node, False, at=RULES.warmup_timeout_seconds + 0.1) == ["degraded"]
    assert "not ready after" in node.reason


def test_a_look_alone_degrades_it_too():
    node = health(heartbeat_timeout_seconds=100)
    assert not node.look(now=60.0)
    assert node.look(now=60.1)
    assert node.status == "degraded"


def test_illnesses_in_a_row_degrade_a_ready_node():
    node = health()
    assert beats(node, True, False, False, False) == ["ready", "ready", "ready", "degraded"]


def test_scattered_illnesses_degrade_it_as_well_since_the_window_keeps_successes():
    node = health()
    assert beats(node, True, False, True, False, True, False)[-2:] == ["ready", "degraded"]


def test_illnesses_that_left_the_window_count_no_more():
    node = health()
    assert set(beats(node, True, False, False, True, True, True, True, False, False)) == {"ready"}


def test_recovery_takes_healthy_beats_in_a_row():
    node = health()
    beats(node, True, False, False, False)
    assert beats(node, True, False, True, True) == [*["degraded"] * 3, "ready"]


def test_a_recovered_node_starts_with_an_empty_window():
    node = health()
    beats(node, True, False, False, False, True, True)
    assert beats(node, False, False) == ["ready", "ready"]


@pytest.mark.parametrize("before", ["registering", "ready", "degraded"])
def test_silence_makes_it_offline_once(before):
    node = health()
    if before != "registering":
        beats(node, True)
    if before == "degraded":
        beats(node, False, False, False)
    assert node.status == before
    last = 0.0 if before == "registering" else 1.0
    assert not node.look(now=last + RULES.heartbeat_timeout_seconds)
    assert node.look(now=last + RULES.heartbeat_timeout_seconds + 0.1)
    assert node.status == "offline"
    assert not node.look(now=last + 1000)


def test_a_beat_brings_an_offline_node_back_from_the_beginning():
    node = health(health_check_count=2)
    beats(node, True, True)
    node.look(now=100.0)
    assert beats(node, True, True, at=101.0) == ["registering", "ready"]


def test_the_time_to_warm_up_counts_from_the_return():
    node = health()
    node.look(now=100.0)
    assert beats(node, False, at=200.0) == ["registering"]
    assert beats(node, False, at=260.0) == ["registering"]
    assert beats(node, False, at=260.1) == ["degraded"]


def test_illness_before_the_silence_is_forgotten():
    node = health()
    beats(node, True, False, False)
    node.look(now=100.0)
    assert beats(node, True, False, at=101.0) == ["ready", "ready"]


@pytest.mark.parametrize("pattern", list(product([True, False], repeat=8)))
def test_no_pattern_of_beats_leaves_the_rules(pattern):
    node = health()
    window: list[bool] = []
    status, well, ill = "registering", 0, 0
    for healthy in pattern:
        window = [*window, healthy][-5:]
        well, ill = (well + 1, 0) if healthy else (0, ill + 1)
        if status == "registering" and healthy:
            status = "ready"
        elif status == "ready" and (ill >= 3 or window.count(False) >= 3):
            status = "degraded"
        elif status == "degraded" and well >= 2:
            status, window = "ready", []
        node.beat(healthy, now=1.0)
        assert node.status == status


def usage(gpu: float | None = 10.0) -> ResourceUsage:
    return ResourceUsage(cpu_percent=1.0, gpu_percent=gpu, mem_percent=1.0, running_jobs=0)


def without(kind: str) -> Capabilities:
    capabilities = tuple(TypeCapability(type=each, ready=each != kind) for each in CORE)
    return Capabilities.of(registration("n1", capability_by_type=capabilities))


@pytest.mark.parametrize(
    ("gpu", "sound"), [(0.0, True), (100.0, True), (None, True), (-0.1, False), (100.1, False), (float("nan"), False)]
)
def test_a_gpu_load_must_be_plausible_and_may_be_unknown(gpu, sound):
    assert is_healthy(CAPABLE, usage(gpu), declared=DECLARED) == sound


@pytest.mark.parametrize("kind", CORE)
def test_every_core_service_that_was_declared_must_be_ready(kind):
    assert not is_healthy(without(kind), usage(), declared=DECLARED)
    assert is_healthy(without(kind), usage(), declared=DECLARED - {kind})


def test_a_node_without_any_core_service_is_never_healthy():
    assert not is_healthy(CAPABLE, usage(), declared=frozenset({"semantic"}))


def test_a_service_beyond_the_core_may_be_down():
    assert is_healthy(CAPABLE, usage(), declared=DECLARED | {"semantic"})


def test_a_node_without_a_gpu_is_never_healthy():
    assert not is_healthy(msgspec.structs.replace(CAPABLE, has_gpu=False), usage(), declared=DECLARED)
