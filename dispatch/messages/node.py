"""Frames between a node and us (PROTOCOL 3), and the one frame that is put together instead of encoded: `job_assign`.

Numbers and words that a node reports about itself are taken as they come: a service in an unknown state must not
cost the whole heartbeat. Fields that nobody here reads (models, engines, ASR metrics) are left to the node.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta

from dispatch.messages.base import (
    Base64,
    Count,
    Features,
    Frame,
    Id,
    Json,
    Measure,
    Part,
    Short,
    Text,
    decoder,
)

Codes = Annotated[tuple[Short, ...], Meta(max_length=1024)]
JobId = Annotated[str, Meta(max_length=256)]  #: node-facing: it names the lease, `<job>-<lease>`
JobIds = Annotated[tuple[JobId, ...], Meta(max_length=1024)]


# --- what a node can do -------------------------------------------------------------------------------------------


class Gpu(Part, frozen=True, kw_only=True):
    """One graphics card."""

    name: Short
    memory_gb: Measure


class Hardware(Part, frozen=True, kw_only=True):
    """The machine."""

    cpu_cores: Measure
    memory_gb: Measure
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=64)] | None = None  #: none, no registration


class Service(Part, frozen=True, kw_only=True):
    """An installed service; schema 1.0 says only id, version and platform (11)."""

    service_id: Short
    type: Short | None = None  #: `asr` `nmt` `tts` `tone` `semantic`
    device: Short | None = None  #: `gpu` `cpu`
    status: Short | None = None  #: `running` `stopped` `error`
    version: Short | None = None


class TypeCapability(Part, frozen=True, kw_only=True):
    """Whether a type of service can be used; the node counts only implementations that run on a GPU."""

    type: Short
    ready: bool
    reason: Short | None = None
    ready_impl_ids: Annotated[tuple[Short, ...], Meta(max_length=256)] | None = None


class LanguagePair(Part, frozen=True, kw_only=True):
    """A directed pair."""

    src: Short
    tgt: Short


LanguagePairs = Annotated[tuple[LanguagePair, ...], Meta(max_length=16_384)]


class NmtCapability(Part, frozen=True, kw_only=True):
    """What one translation model can do."""

    model_id: Short
    languages: Codes = ()
    rule: Short  #: `any_to_any` `any_to_en` `en_to_any` `specific_pairs`; others count for nothing
    supported_pairs: LanguagePairs | None = None
    blocked_pairs: LanguagePairs | None = None


class LanguageCapabilities(Part, frozen=True, kw_only=True):
    """Languages by service; `supported_language_pairs` is the node's own conclusion and wins."""

    asr_languages: Codes | None = None
    tts_languages: Codes | None = None
    semantic_languages: Codes | None = None
    nmt_capabilities: Annotated[tuple[NmtCapability, ...], Meta(max_length=64)] | None = None
    supported_language_pairs: LanguagePairs | None = None


Services = Annotated[tuple[Service, ...], Meta(max_length=256)]
TypeCapabilities = Annotated[tuple[TypeCapability, ...], Meta(max_length=64)]
CapabilityState = Annotated[dict[Short, Short], Meta(max_length=256)]


# --- from the node ------------------------------------------------------------------------------------------------


class NodeRegister(Frame, frozen=True, kw_only=True, tag="node_register"):
    """First frame of a connection that counts (3.2); also in schema 1.0 (11)."""

    node_id: Id | None = None
    version: Short
    capability_schema_version: Short | None = None
    platform: Short
    hardware: Hardware
    installed_services: Services | None = None
    capability_by_type: TypeCapabilities | None = None
    capability_state: CapabilityState | None = None  #: schema 1.0: service id -> ready, downloading, ...
    features_supported: Features | None = None
    accept_public_jobs: bool
    language_capabilities: LanguageCapabilities | None = None
    max_concurrent_jobs: Annotated[int, Meta(ge=1, le=1024)] | None = None  #: our extension: its own limit
    running_job_ids: JobIds | None = None  #: our extension: node-facing job ids it still works on


class ResourceUsage(Part, frozen=True, kw_only=True):
    """Load in percent; whether it is plausible, health decides."""

    cpu_percent: float
    gpu_percent: float | None = None  #: unknown is neither idle nor busy (PHASE3 1.3)
    gpu_mem_percent: float | None = None
    mem_percent: float
    running_jobs: Count


class RerunMetrics(Part, frozen=True, kw_only=True, rename="camel"):
    """How often recognition was repeated, counted since the node's start."""

    total_reruns: Measure | None = None
    successful_reruns: Measure | None = None
    failed_reruns: Measure | None = None
    timeout_reruns: Measure | None = None
    quality_improvements: Measure | None = None


class ProcessingMetrics(Part, frozen=True, kw_only=True, rename="camel"):
    """Per service: audio time by processing time, characters per second for translation."""

    service_efficiencies: Annotated[dict[Short, float | None], Meta(max_length=256)] | None = None


class NodeHeartbeat(Frame, frozen=True, kw_only=True, tag="node_heartbeat"):
    """Load and abilities; what is given replaces what was known (3.4)."""

    node_id: Short  #: compared with the connection's own, never believed
    timestamp: Count
    resource_usage: ResourceUsage
    installed_services: Services | None = None
    capability_by_type: TypeCapabilities | None = None
    capability_state: CapabilityState | None = None
    language_capabilities: LanguageCapabilities | None = None
    rerun_metrics: RerunMetrics | None = None
    processing_metrics: ProcessingMetrics | None = None
    running_job_ids: JobIds | None = None  #: our extension: node-facing job ids it works on
    assign_seq: Count | None = None  #: our extension: highest `job_assign.assign_seq` it has seen


class NodeFault(Part, frozen=True, kw_only=True):
    """Why a job failed, in the node's own words."""

    code: Short
    message: Text
    details: Json = UNSET


class JobResult(Frame, frozen=True, kw_only=True, tag="job_result"):
    """The end of one attempt (3.7)."""

    job_id: JobId
    attempt_id: Count
    node_id: Short
    session_id: Short
    utterance_index: Count
    success: bool
    text_asr: Text | None = None
    text_translated: Text | None = None
    tts_audio: Base64 | None = None
    tts_format: Short | None = None
    extra: Json = UNSET
    processing_time_ms: Measure | None = None
    trace_id: Short
    error: NodeFault | None = None
    node_completed_at_ms: Measure | None = None  #: by the node's clock
    asr_quality_level: Short | None = None
    reason_codes: Annotated[tuple[Short, ...], Meta(max_length=64)] | None = None
    quality_score: Measure | None = None
    rerun_count: Count | None = None
    segments_meta: Json = UNSET


class NodePartial(Frame, frozen=True, kw_only=True, tag="asr_partial"):
    """What the node has recognised so far."""

    job_id: JobId
    node_id: Short
    session_id: Short
    utterance_index: Count
    text: Text
    is_final: bool
    trace_id: Short


class JobAck(Frame, frozen=True, kw_only=True, tag="job_ack"):
    """The node has the job; real nodes never say so."""

    job_id: JobId
    attempt_id: Count
    node_id: Short
    session_id: Short
    trace_id: Short


class JobStarted(Frame, frozen=True, kw_only=True, tag="job_started"):
    """The node works on the job; real nodes never say so."""

    job_id: JobId
    attempt_id: Count
    node_id: Short
    session_id: Short
    trace_id: Short


class NodeError(Frame, frozen=True, kw_only=True, tag="node_error"):
    """The node is in trouble, no particular job is meant."""

    node_id: Short
    code: Short
    message: Text
    details: Json = UNSET


class RequestPairingCode(Frame, frozen=True, kw_only=True, tag="request_pairing_code"):
    """The node's user clicked on "pair"."""


NodeFrame = (
    NodeRegister | NodeHeartbeat | JobResult | NodePartial | JobAck | JobStarted | NodeError | RequestPairingCode
)

#: Reads a frame that a node sent; raises `InvalidFrame`.
decode_node: Callable[[bytes | str], NodeFrame] = decoder(NodeFrame)


# --- to the node --------------------------------------------------------------------------------------------------

NodeState = Literal["registering", "ready", "degraded", "draining", "offline"]


class NodeRegisterAck(Frame, frozen=True, kw_only=True, tag="node_register_ack"):
    """The node is known under this id, which it keeps for its next connection (3.3)."""

    node_id: str
    message: str
    status: NodeState


class NodeStatus(Frame, frozen=True, kw_only=True, tag="node_status"):
    """The node's state has changed (3.1)."""

    node_id: str
    status: NodeState
    reason: str
    timestamp: int  #: Unix *seconds*, unlike everywhere else


class JobCancel(Frame, frozen=True, kw_only=True, tag="job_cancel"):
    """Nobody wants this job any more; a result may still come (3.6)."""

    job_id: str
    trace_id: str | None = None
    reason: str | None = None


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """Steps wanted; real nodes run all of them whatever this says."""

    use_asr: bool = True
    use_nmt: bool = True
    use_tts: bool = True


class AssignBody(Part, frozen=True, kw_only=True):
    """All that `job_assign` says about the utterance, the same for every attempt (3.5)."""

    session_id: str
    utterance_index: int
    src_lang: str
    tgt_lang: str
    dialect: str | None = None
    features: Features | None = None
    pipeline: Pipeline
    audio: str  #: base64
    audio_format: str  #: real nodes understand `opus` only
    sample_rate: int  #: Hz
    mode: str | None = None
    lang_a: str | None = None
    lang_b: str | None = None
    auto_langs: tuple[str, ...] | None = None
    enable_streaming_asr: bool | None = None
    partial_update_interval_ms: int | None = None
    trace_id: str
    padding_ms: int | None = None
    is_manual_cut: bool = False
    is_pause_triggered: bool = False
    is_timeout_triggered: bool = False

    def __post_init__(self) -> None:
        # Without a flag a real node keeps short audio to itself and answers empty (9.2 no. 3).
        if self.is_manual_cut + self.is_pause_triggered + self.is_timeout_triggered != 1:
            raise ValueError("job_assign needs exactly one cut flag")


_encode = msgspec.json.Encoder().encode


def assign_body(job: AssignBody) -> str:
    """The JSON members after `assign_seq`, closing brace included; stored once, sent with every attempt."""
    return _encode(job)[1:].decode()


def assign_frame(body: str, *, job_id: str, attempt_id: int, assign_seq: int) -> str:
    """A `job_assign` frame around a stored body, so that the speech in it is neither parsed nor encoded again.

    `job_id` is the node-facing one, which names the lease. `assign_seq` counts this node's assignments.
    """
    quoted = _encode(job_id).decode()
    return f'{{"type":"job_assign","job_id":{quoted},"attempt_id":{attempt_id},"assign_seq":{assign_seq},{body}'
