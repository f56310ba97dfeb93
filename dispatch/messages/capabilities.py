"""What a node can do: one picture from both generations of registrations and heartbeats, and who is refused.

Schema 2.0 types its services and judges readiness by type; schema 1.0 (PROTOCOL 11) only maps service ids to states,
so types come from the ids that are known.
"""

import msgspec

from dispatch import languages
from dispatch.messages.base import ErrorFrame
from dispatch.messages.codes import ErrorCode
from dispatch.messages.node import (
    LanguageCapabilities,
    NmtCapability,
    NodeHeartbeat,
    NodeRegister,
    Service,
    TypeCapability,
)

_TYPE_OF_SERVICE = {
    "faster-whisper-vad": "asr",
    "node-inference": "asr",
    "nmt-m2m100": "nmt",
    "piper-tts": "tts",
    "your-tts": "tone",
    "speaker-embedding": "tone",
    "en-normalize": "semantic",
}

#: Languages that the known services have wherever they run; used for nodes that say nothing about languages.
_PIPER = ("zh", "en", "ja", "ko", "fr", "de", "es", "it", "pt", "ru", "ar", "hi", "th", "vi")
_M2M100 = (
    *_PIPER,
    *("id", "ms", "tr", "pl", "cs", "nl", "ro", "hu", "sv", "da", "fi", "no"),
    *("uk", "bg", "hr", "sk", "sl", "sr", "mk", "sq", "et", "lv", "lt"),
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a registration that a heartbeat may replace."""

    installed_services: tuple[Service, ...] | None = None
    capability_by_type: tuple[TypeCapability, ...] | None = None
    capability_state: dict[str, str] | None = None
    language_capabilities: LanguageCapabilities | None = None


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """An installed service."""

    service_id: str
    type: str  #: `asr` `nmt` `tts` `tone` `semantic`; empty when nobody knows
    running: bool  #: its process runs
    ready: bool  #: it can take work


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a node can do at the moment."""

    services: tuple[ServiceState, ...]
    installed_types: frozenset[str]
    ready_types: frozenset[str]  #: by the node's word; whether a service really runs, health decides
    pairs: frozenset[languages.Pair]  #: directed, normalised, `auto` sources included
    asr_languages: frozenset[str] | None  #: `None` = unrestricted
    features: frozenset[str]
    accept_public: bool
    has_gpu: bool
    report: Report  #: what all this was read from

    @classmethod
    def of(cls, register: NodeRegister) -> "Capabilities":
        """The picture that a registration gives."""
        report = Report(
            installed_services=register.installed_services,
            capability_by_type=register.capability_by_type,
            capability_state=register.capability_state,
            language_capabilities=register.language_capabilities,
        )
        services = _services(report)
        spoken = _languages(report, services)
        return cls(
            services=services,
            installed_types=_installed_types(services),
            ready_types=_ready_types(report, services),
            pairs=languages.derive_pairs(spoken),
            asr_languages=_asr_languages(spoken),
            features=register.features_supported.chosen() if register.features_supported else frozenset(),
            accept_public=register.accept_public_jobs,
            has_gpu=bool(register.hardware.gpus),
            report=report,
        )

    def updated(self, heartbeat: NodeHeartbeat) -> "Capabilities":
        """The picture after a heartbeat: what it gives replaces what was known. `self` when nothing has changed."""
        changes = {
            name: said
            for name in self.report.__struct_fields__
            if (said := getattr(heartbeat, name)) is not None and said != getattr(self.report, name)
        }
        if not changes:
            return self
        report = msgspec.structs.replace(self.report, **changes)
        services = _services(report)
        spoken = _languages(report, services)
        # Pairs are hundreds, services change far more often than languages.
        same_languages = spoken == _languages(self.report, self.services)
        return msgspec.structs.replace(
            self,
            services=services,
            installed_types=_installed_types(services),
            ready_types=_ready_types(report, services),
            pairs=self.pairs if same_languages else languages.derive_pairs(spoken),
            asr_languages=_asr_languages(spoken),
            report=report,
        )


def refusal(register: NodeRegister) -> ErrorFrame | None:
    """Why this registration is not taken, schema before hardware; `None` when it is (PROTOCOL 3.2, PHASE3 1.2)."""
    schema = register.capability_schema_version
    if schema not in ("2.0", "1.0") and not (schema is None and register.capability_state is not None):
        said = "no capability_schema_version" if schema is None else f"capability_schema_version {schema!r}"
        return ErrorFrame(
            code=ErrorCode.INVALID_CAPABILITY_SCHEMA,
            message=f"The registration has {said}. Say '2.0', or '1.0' with capability_state.",
        )
    if not register.hardware.gpus:
        return ErrorFrame(
            code=ErrorCode.NO_GPU_AVAILABLE,
            message="The registration lists no GPU. Give at least one in hardware.gpus; on NVIDIA check nvidia-smi.",
        )
    return None


def type_of_service(service_id: str) -> str:
    """The type of a service that is known by its id, else an empty string."""
    if service_id.startswith("semantic-repair-"):
        return "semantic"
    return _TYPE_OF_SERVICE.get(service_id, "")


def _services(report: Report) -> tuple[ServiceState, ...]:
    states = report.capability_state or {}
    installed = {service.service_id: service for service in report.installed_services or ()}
    for service_id, state in states.items():
        if state != "not_installed":
            installed.setdefault(service_id, Service(service_id=service_id))
    # Per ready type, the implementations that are ready; `None` = whichever runs.
    implementations = {
        capability.type: capability.ready_impl_ids for capability in report.capability_by_type or () if capability.ready
    }
    found = []
    for service in installed.values():
        kind = service.type or type_of_service(service.service_id)
        status = service.status or ("running" if states.get(service.service_id) == "ready" else "stopped")
        running = status == "running"
        if report.capability_by_type is None:
            ready = running
        else:
            chosen = implementations.get(kind, ())
            ready = running and (chosen is None or service.service_id in chosen)
        found.append(ServiceState(service_id=service.service_id, type=kind, running=running, ready=ready))
    return tuple(found)


def _installed_types(services: tuple[ServiceState, ...]) -> frozenset[str]:
    return frozenset(service.type for service in services if service.type)


def _ready_types(report: Report, services: tuple[ServiceState, ...]) -> frozenset[str]:
    if report.capability_by_type is not None:
        return frozenset(capability.type for capability in report.capability_by_type if capability.ready)
    return frozenset(service.type for service in services if service.running and service.type)


def _languages(report: Report, services: tuple[ServiceState, ...]) -> LanguageCapabilities:
    """What the node says, or, when it says nothing, what its services are known for."""
    if report.language_capabilities not in (None, LanguageCapabilities()):
        return report.language_capabilities
    ids = {service.service_id for service in services}
    translator = NmtCapability(model_id="nmt-m2m100", languages=_M2M100, rule="any_to_any")
    return LanguageCapabilities(
        tts_languages=_PIPER if "piper-tts" in ids else (),
        nmt_capabilities=(translator,) if translator.model_id in ids else (),
    )


def _asr_languages(spoken: LanguageCapabilities) -> frozenset[str] | None:
    if spoken.asr_languages is None:
        return None
    return frozenset(map(languages.normalise, spoken.asr_languages))
