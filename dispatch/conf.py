"""Every setting of the scheduler: its name, its default, and what has to hold between the values.

One frozen struct per TOML table. The sentence above a key is the one that the sample `config.toml` carries; a test
compares them. Names and defaults: PHASE2 section 11 and PHASE3 section 9, with DESIGN's corrections. Nothing is read
from a file or the environment here: `linguasched.config` does that, and everybody else is handed a `Config`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec

Whole = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PoolId = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Door = Literal["open"]
Isolation = Literal["strict", "overflow"]

# Names that become parts of Redis keys: braces would move a key to another hash slot, spaces would break redis-cli.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_CREDENTIALS = re.compile(r"://[^@/\s\"]+@")


def written(key: str, value: object) -> str:
    """The value of `key` as a person would write it in the file, without the secrets in it."""
    if key.endswith("password") and value:
        return '"***"'
    return _CREDENTIALS.sub("://***@", _text(value))


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with the configuration, in words for the person who wrote it."""

    key: str  #: dotted path of the key, e.g. `scheduler.phase2.owner_ttl_seconds`
    value: object  #: what it is set to; `None` when the key itself is the problem
    advice: str  #: what is wrong and what to do

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {written(self.key, self.value)}"
        return f"{self.key}{shown}: {self.advice}"


class ConfigError(ValueError):
    """The configuration cannot be used; the message names every key that is wrong, its value and what to do."""

    def __init__(self, problems: Sequence[Problem], *, source: str | None = None) -> None:
        self.problems = tuple(problems)
        heading = "The configuration cannot be used" + (f" ({source})" if source else "") + ":"
        super().__init__("\n".join([heading, *(f"  {problem}" for problem in self.problems)]))


# --- [server], [model_hub] --------------------------------------------------------------------------------------------


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[server]`: where `make run` listens. Another ASGI command line decides that for itself."""

    #: Address to listen on. Loopback, since the doors of `scheduler.auth` stand open by default.
    host: str = "127.0.0.1"
    #: Port to listen on.
    port: Port = 5010


class ModelHub(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[model_hub]`: the catalogue of services that nodes can install."""

    #: Base URL of the catalogue.
    base_url: str = "http://localhost:5000"
    #: Folder that is indexed when the catalogue cannot be reached.
    storage_path: str = "./models"


# --- [scheduler.*]: jobs and nodes ------------------------------------------------------------------------------------


class JobTimeout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.job_timeout]`: how long each step of a job may take, and how often it is tried again."""

    #: How long a job waits while no connected node could do it at all.
    pending_timeout_seconds: Positive = 10
    #: Further attempts after the first one.
    failover_max_attempts: Whole = 2
    #: How often each instance looks for overdue steps in the cells that are its own.
    scan_interval_ms: Positive = 250
    #: Tell the node when an attempt is superseded or no longer wanted.
    send_cancel: bool = True
    #: A granted lease must be sent to its node within this time.
    unsent_ms: Positive = 500
    #: An assignment must be acknowledged within this time, by nodes that have ever acknowledged one.
    ack_timeout_ms: Positive = 2000
    #: A superseded attempt holds its slot at most this long, counted from its sending.
    lease_ceiling_seconds: Positive = 120


class LoadBalancer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.load_balancer]`: above which load a node gets no new work (the limit itself is still accepted)."""

    #: Older name: sets `cpu_threshold` and `gpu_threshold` where these are not set themselves; percent.
    resource_threshold: Percent | None = None
    #: Highest CPU load, in percent.
    cpu_threshold: Percent = 85.0
    #: Highest GPU load, in percent; a node that cannot measure its GPU passes.
    gpu_threshold: Percent = 85.0
    #: Highest memory use, in percent.
    memory_threshold: Percent = 95.0


class FailureThreshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.node_health.failure_threshold]`: when a ready node becomes degraded (PHASE3 13.B6)."""

    #: How many of the latest heartbeats are looked at, healthy ones included.
    window_size: Positive = 5
    #: This many unhealthy ones among them degrade the node.
    failure_count: Positive = 3
    #: So do this many unhealthy ones in a row.
    consecutive_failure_count: Positive = 3


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.node_health]`: registering -> ready <-> degraded -> offline."""

    #: How often nodes are asked to send a heartbeat.
    heartbeat_interval_seconds: Positive = 15
    #: A node that sent no heartbeat for this long is offline.
    heartbeat_timeout_seconds: Positive = 45
    #: Healthy heartbeats in a row that make a registering node ready.
    health_check_count: Positive = 1
    #: Healthy heartbeats in a row that make a degraded node ready again.
    recovery_count: Positive = 2
    #: A node that is still registering after this time is degraded.
    warmup_timeout_seconds: Positive = 60
    #: How often each instance looks for silent nodes among its own.
    status_scan_interval_seconds: Positive = 30
    failure_threshold: FailureThreshold = FailureThreshold()


class ModelNotAvailable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.model_not_available]`: what follows when a node answers that a model is missing."""

    #: How long a node is not used for the service that it lacked.
    unavailable_ttl_seconds: Positive = 60
    #: Within this window the same service and version are reported once.
    debounce_window_seconds: Annotated[int, msgspec.Meta(ge=1, le=60)] = 5
    #: Window of the per-node limit below.
    node_ratelimit_window_seconds: Annotated[int, msgspec.Meta(ge=1, le=300)] = 10
    #: Reports of one node that count within that window.
    node_ratelimit_max: Positive = 30


class TaskBinding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.task_binding]`: one request makes one job; and whether a session's jobs are spread over nodes."""

    #: How long a request is remembered, so that repeating it finds the same job.
    lease_seconds: Positive = 300
    #: Prefer another node than the one that did the session's previous job.
    spread_enabled: bool = False
    #: For how long the previous node is avoided.
    spread_window_seconds: Positive = 30


class PendingQueue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.pending_queue]`: jobs that wait for a free slot."""

    #: Waiting jobs per cell; one more is refused at once.
    max_per_cell: Positive = 1000


class EdgeStabilization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.web_task_segmentation.edge_stabilization]`: the soft edges of a cut (PROTOCOL 7.1)."""

    #: Delay before the audio is taken when the server cuts.
    hangover_auto_ms: Whole = 150
    #: The same when the speaker ended the utterance.
    hangover_manual_ms: Whole = 200
    #: Silence that the node appends when the server cut.
    padding_auto_ms: Whole = 220
    #: The same when the speaker ended the utterance.
    padding_manual_ms: Whole = 280
    #: A cut shorter than this joins the audio that follows it.
    short_merge_threshold_ms: Whole = 400


class WebTaskSegmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.web_task_segmentation]`: where a stream of audio is cut into utterances (PROTOCOL 7.1)."""

    #: A pause longer than this ends the utterance.
    pause_ms: Positive = 3000
    #: Longest utterance, in audio time.
    max_duration_ms: Positive = 20_000
    #: Longest utterance, in bytes of decoded audio.
    max_bytes: Positive = 512_000
    #: Audio that comes this soon after an empty final chunk still belongs to the utterance.
    late_audio_ms: Whole = 250
    edge_stabilization: EdgeStabilization = EdgeStabilization()


class CoreServices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.core_services]`: the services that every pipeline is made of; empty = not required."""

    #: Service id of speech recognition.
    asr_service_id: str = "node-inference"
    #: Service id of translation.
    nmt_service_id: str = "nmt-m2m100"
    #: Service id of speech synthesis.
    tts_service_id: str = "piper-tts"


class Observability(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.observability]`: from when on slowness is logged and counted."""

    #: Waiting this long for a shared connection or lock is slow.
    lock_wait_warn_ms: Positive = 10
    #: A critical path that takes this long is slow.
    path_warn_ms: Positive = 50


class Auth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.auth]`: who may open a socket. `open` is meant for loopback and trusted networks."""

    #: Nodes: `open`, whoever reaches the port.
    nodes: Door = "open"
    #: Sessions: `open`, whoever reaches the port.
    sessions: Door = "open"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.limits]`: what one peer may cost an instance."""

    #: Largest frame that a session may send.
    session_frame_bytes: Positive = 2_097_152
    #: Largest frame that a node may send.
    node_frame_bytes: Positive = 16_777_216
    #: Outgoing bytes that a session may leave unread before its socket is cut.
    session_buffer_bytes: Positive = 4_194_304
    #: Outgoing bytes that a node may leave unread before its socket is cut.
    node_buffer_bytes: Positive = 16_777_216
    #: Open sockets per instance; one more is refused.
    sockets_per_instance: Positive = 20_000
    #: Utterances of one session without a terminal event; one more is refused.
    utterances_open_per_session: Positive = 200


# --- [scheduler.phase2]: many instances, one Redis --------------------------------------------------------------------


class Redis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.phase2.redis]`: where Redis is. Also read with Phase 2 off, when it is always `embedded`."""

    #: `embedded` (a private redis-server, started here), `single`, `sentinel` or `cluster`.
    mode: Literal["embedded", "single", "sentinel", "cluster"] = "embedded"
    #: Address for `single` (redis://, rediss:// or unix://), and for `cluster` without `cluster_urls`.
    url: str = "redis://127.0.0.1:6379"
    #: Some of the cluster's servers; the others are found through them.
    cluster_urls: tuple[str, ...] = ()
    #: The sentinels.
    sentinel_urls: tuple[str, ...] = ()
    #: Name under which the sentinels know the master.
    sentinel_service: str = "mymaster"
    #: First part of every key; give each environment its own.
    key_prefix: str = "lingua"
    #: Longest wait for the answer to one command.
    timeout_ms: Positive = 400
    #: User name (ACL), where the address has none.
    username: str | None = None
    #: Password, where the address has none.
    password: str | None = None


class NodeSnapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.phase2.node_snapshot]`: how an instance knows the nodes of the others."""

    #: How often the figures of all cells are reconciled, besides the news that every answer carries.
    refresh_interval_ms: Positive = 1000
    #: A node unseen for this long is forgotten; 0 = never.
    remove_stale_after_seconds: Whole = 600


class Phase2(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.phase2]`: several instances share the work through Redis."""

    #: Let several instances share one Redis.
    enabled: bool = False
    #: Unique name of this instance: letters, digits, `.`, `_`, `-`, at most 64; `auto` makes one up.
    instance_id: str = "auto"
    #: How long a socket's owner stays on record without being renewed.
    owner_ttl_seconds: Positive = 45
    #: How long Redis may be silent before this instance closes its sockets.
    isolation_seconds: Positive = 60
    #: How long one read of the inbox waits for news.
    stream_block_ms: Positive = 1000
    #: Envelopes per read of the inbox.
    stream_count: Positive = 64
    #: Consumer group of every inbox.
    stream_group: str = "scheduler"
    #: High-water mark of an inbox: above it senders are refused; nothing is trimmed.
    stream_maxlen: Annotated[int, msgspec.Meta(ge=100)] = 10_000
    #: Keep envelopes that cannot be delivered; otherwise they are only counted.
    dlq_enabled: bool = True
    #: Dead letters kept per instance; the oldest go first.
    dlq_maxlen: Annotated[int, msgspec.Meta(ge=100)] = 10_000
    #: Deliveries after which an envelope is a dead letter.
    dlq_max_deliveries: Positive = 10
    #: An envelope unacknowledged for this long is taken up again.
    dlq_min_idle_ms: Positive = 60_000
    #: How often such envelopes are looked for.
    dlq_scan_interval_ms: Annotated[int, msgspec.Meta(ge=1000)] = 5000
    #: How many of them one look takes.
    dlq_scan_count: Positive = 100
    redis: Redis = Redis()
    node_snapshot: NodeSnapshot = NodeSnapshot()


# --- [scheduler.phase3]: pool first, then node ------------------------------------------------------------------------


class LanguagePair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A directed pair of languages."""

    #: Language spoken.
    src: str
    #: Language wanted.
    tgt: str


class NmtRequirements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`nmt_requirements`: which translations a pool's nodes must offer (PHASE3 1.6)."""

    #: Languages that the rule speaks of.
    languages: tuple[str, ...] = ()
    #: Which pairs of them.
    rule: Literal["any_to_any", "any_to_en", "en_to_any", "specific_pairs"] = "any_to_any"
    #: The pairs of `specific_pairs`.
    supported_pairs: tuple[LanguagePair, ...] = ()
    #: Pairs taken out of any rule.
    blocked_pairs: tuple[LanguagePair, ...] = ()


class LanguageRequirements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`language_requirements`: which languages a pool's nodes must speak; an absent list asks for nothing."""

    #: Languages to recognise.
    asr_languages: tuple[str, ...] | None = None
    #: Languages to speak.
    tts_languages: tuple[str, ...] | None = None
    #: Languages of semantic repair.
    semantic_languages: tuple[str, ...] | None = None
    #: Translations.
    nmt_requirements: NmtRequirements | None = None


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[scheduler.phase3.pools]]`: an operator's pool."""

    #: Number of the pool, unique.
    pool_id: PoolId
    #: Name for people, unique if given.
    name: str = ""
    #: Services that its nodes must have installed: types (`asr`, `type:asr`) or service ids.
    required_services: tuple[str, ...] = ()
    #: Languages that its nodes must speak.
    language_requirements: LanguageRequirements | None = None
    #: Only tenants bound to this pool are served by it.
    exclusive: bool = False


class TenantOverride(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[scheduler.phase3.tenant_overrides]]`: binds a tenant to a pool."""

    #: The tenant.
    tenant_id: str
    #: Its pool.
    pool_id: PoolId
    #: Overrides `phase3.tenant_isolation` for this tenant.
    tenant_isolation: Isolation | None = None
    #: Where the tenant may overflow to; empty = every pool that is not exclusive.
    overflow_pools: tuple[PoolId, ...] = ()


class AutoPoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.phase3.auto_pool_config]`: how language pools are derived (PHASE3 3.8, 14 no. 9-11)."""

    #: Nodes that a language set needs to be a pool of its own.
    min_nodes_per_pool: Positive = 1
    #: Language pools at most; nodes of the other sets stay reachable through the catch-all.
    max_pools: Positive = 100
    #: What a pool stands for: `set` of languages, directed `pair`, or `bidirectional` pair.
    pool_naming: Literal["set", "pair", "bidirectional"] = "set"
    #: Only nodes with semantic repair belong to language pools.
    require_semantic: bool = True
    #: Also derive pools by target language alone, for sources that are not known beforehand.
    enable_mixed_pools: bool = False
    #: How long an empty pool stays in view.
    empty_grace_seconds: Whole = 60


class Phase3(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler.phase3]`: choose the pool first, then the node inside it."""

    #: Switch two-level selection on; off = one pool named `default`.
    enabled: bool = False
    #: The way of selecting; there is one.
    mode: Literal["two_level"] = "two_level"
    #: Hash pools, used while no pool is configured.
    pool_count: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 16
    #: Seed of the stable hash; changing it moves every node and tenant.
    hash_seed: Whole = 0
    #: Try the other eligible pools when the preferred one cannot serve.
    fallback_scan_all_pools: bool = True
    #: The operator's pools, as `[[scheduler.phase3.pools]]`.
    pools: tuple[Pool, ...] = ()
    #: Tenants bound to pools, as `[[scheduler.phase3.tenant_overrides]]`.
    tenant_overrides: tuple[TenantOverride, ...] = ()
    #: Whether bound tenants stay in their pool (`strict`) or may use others when it is full (`overflow`).
    tenant_isolation: Isolation = "strict"
    #: Which required services choose the pool: `core_only` or `all_required`.
    pool_match_scope: Literal["core_only", "all_required"] = "core_only"
    #: A pool fits if it has the services (`contains`) or has exactly these (`exact`).
    pool_match_mode: Literal["contains", "exact"] = "contains"
    #: Fail at once when no pool is eligible, instead of trying all.
    strict_pool_eligibility: bool = False
    #: Only pools that serve the language pair are eligible.
    pool_scope_by_language: bool = True
    #: How long a pool whose nodes are not ready keeps its place in the order.
    unready_grace_seconds: Whole = 30
    #: Nodes tried inside one pool before the next pool is.
    reserve_candidates: Positive = 5
    #: Derive language pools from what the connected nodes speak.
    auto_generate_language_pools: bool = False
    #: How many fitting nodes are compared.
    random_sample_size: Positive = 20
    #: Keep a tenant's or session's jobs in one pool; never on one node.
    enable_session_affinity: bool = False
    auto_pool_config: AutoPoolConfig = AutoPoolConfig()


# --- the root ---------------------------------------------------------------------------------------------------------


class Scheduler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[scheduler]`."""

    #: Jobs that a node works on at once when it declares no limit of its own.
    max_concurrent_jobs_per_node: Positive = 4
    #: Highest limit that a node may declare.
    max_jobs_cap_per_node: Positive = 64
    #: Execution deadline of one attempt, counted from its sending.
    job_timeout_seconds: Positive = 30
    #: Deadline of an utterance, counted from its acceptance.
    utterance_deadline_seconds: Positive = 60
    #: Heartbeat of instances (not of nodes); an instance is gone after twice this time.
    heartbeat_interval_seconds: Positive = 2
    #: How long an instance that is told to stop waits for running work.
    drain_seconds: Positive = 30
    job_timeout: JobTimeout = JobTimeout()
    load_balancer: LoadBalancer = LoadBalancer()
    node_health: NodeHealth = NodeHealth()
    model_not_available: ModelNotAvailable = ModelNotAvailable()
    task_binding: TaskBinding = TaskBinding()
    pending_queue: PendingQueue = PendingQueue()
    web_task_segmentation: WebTaskSegmentation = WebTaskSegmentation()
    core_services: CoreServices = CoreServices()
    observability: Observability = Observability()
    auth: Auth = Auth()
    limits: Limits = Limits()
    phase2: Phase2 = Phase2()
    phase3: Phase3 = Phase3()


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration; `Config()` is the built-in one."""

    server: Server = Server()
    model_hub: ModelHub = ModelHub()
    scheduler: Scheduler = Scheduler()


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key, e.g. `scheduler.phase2.instance_id`; `AttributeError` if there is no such key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


# --- what has to hold between the values ------------------------------------------------------------------------------


def check(config: Config) -> tuple[Problem, ...]:
    """All broken relations between values, in the order of the file; empty when the configuration can be used."""
    scheduler = config.scheduler
    return (
        *_check_jobs(scheduler),
        *_check_health(scheduler.node_health),
        *_check_cutting(scheduler),
        *_check_phase2(scheduler),
        *_check_phase3(scheduler.phase3),
    )


def _check_jobs(scheduler: Scheduler) -> Iterator[Problem]:
    cap = scheduler.max_jobs_cap_per_node
    if scheduler.max_concurrent_jobs_per_node > cap:
        yield Problem(
            "scheduler.max_concurrent_jobs_per_node",
            scheduler.max_concurrent_jobs_per_node,
            f"is above scheduler.max_jobs_cap_per_node = {cap}; lower it or raise the cap",
        )

    timeout, limits = scheduler.job_timeout_seconds, scheduler.job_timeout
    if limits.unsent_ms >= timeout * 1000:
        yield Problem(
            "scheduler.job_timeout.unsent_ms",
            limits.unsent_ms,
            f"must end before the attempt does; set less than {timeout * 1000} (job_timeout_seconds)",
        )
    if limits.lease_ceiling_seconds < timeout:
        yield Problem(
            "scheduler.job_timeout.lease_ceiling_seconds",
            limits.lease_ceiling_seconds,
            f"would free a slot while the node may still work on it; set {timeout} (job_timeout_seconds) or more",
        )
    if scheduler.task_binding.lease_seconds < scheduler.utterance_deadline_seconds:
        yield Problem(
            "scheduler.task_binding.lease_seconds",
            scheduler.task_binding.lease_seconds,
            "a repeated request would make a second job while the first still runs; "
            f"set {scheduler.utterance_deadline_seconds} (utterance_deadline_seconds) or more",
        )


def _check_health(health: NodeHealth) -> Iterator[Problem]:
    if health.heartbeat_timeout_seconds < 2 * health.heartbeat_interval_seconds:
        yield Problem(
            "scheduler.node_health.heartbeat_timeout_seconds",
            health.heartbeat_timeout_seconds,
            "one late heartbeat would take the node offline; "
            f"set {2 * health.heartbeat_interval_seconds} (twice heartbeat_interval_seconds) or more",
        )
    failures = health.failure_threshold
    for name in ("failure_count", "consecutive_failure_count"):
        value = getattr(failures, name)
        if value > failures.window_size:
            yield Problem(
                f"scheduler.node_health.failure_threshold.{name}",
                value,
                f"can never be reached; set {failures.window_size} (window_size) or less",
            )
    if health.recovery_count > failures.window_size:
        yield Problem(
            "scheduler.node_health.recovery_count",
            health.recovery_count,
            f"is more than the heartbeats remembered; set {failures.window_size} (window_size) or less",
        )


def _check_cutting(scheduler: Scheduler) -> Iterator[Problem]:
    cutting = scheduler.web_task_segmentation
    if cutting.pause_ms >= cutting.max_duration_ms:
        yield Problem(
            "scheduler.web_task_segmentation.pause_ms",
            cutting.pause_ms,
            f"no pause would ever end an utterance; set less than {cutting.max_duration_ms} (max_duration_ms)",
        )
    for name in ("hangover_auto_ms", "hangover_manual_ms", "short_merge_threshold_ms"):
        value = getattr(cutting.edge_stabilization, name)
        if value >= cutting.pause_ms:
            yield Problem(
                f"scheduler.web_task_segmentation.edge_stabilization.{name}",
                value,
                f"must be shorter than a pause; set less than {cutting.pause_ms} (pause_ms)",
            )
    encoded = -(-cutting.max_bytes // 3) * 4
    for name in ("session_frame_bytes", "node_buffer_bytes"):
        value = getattr(scheduler.limits, name)
        if value < encoded:
            yield Problem(
                f"scheduler.limits.{name}",
                value,
                f"an utterance of web_task_segmentation.max_bytes takes {encoded} bytes in base64; set more than that",
            )


def _check_phase2(scheduler: Scheduler) -> Iterator[Problem]:
    phase2 = scheduler.phase2
    presence = 2 * scheduler.heartbeat_interval_seconds
    if not _NAME.fullmatch(phase2.instance_id):
        yield Problem(
            "scheduler.phase2.instance_id",
            phase2.instance_id,
            "use 1 to 64 letters, digits, '.', '_' or '-', or \"auto\"",
        )
    if not _NAME.fullmatch(phase2.stream_group):
        yield Problem(
            "scheduler.phase2.stream_group", phase2.stream_group, "use 1 to 64 letters, digits, '.', '_', '-'"
        )
    for name in ("owner_ttl_seconds", "isolation_seconds"):
        value = getattr(phase2, name)
        if value < presence:
            yield Problem(
                f"scheduler.phase2.{name}",
                value,
                f"is shorter than an instance's presence; set {presence} (twice heartbeat_interval_seconds) or more",
            )
    yield from _check_redis(phase2)


def _check_redis(phase2: Phase2) -> Iterator[Problem]:
    redis = phase2.redis
    here = "scheduler.phase2.redis"
    if not _PREFIX.fullmatch(redis.key_prefix):
        yield Problem(f"{here}.key_prefix", redis.key_prefix, "use 1 to 64 letters, digits, '.', '_', ':' or '-'")
    if not phase2.enabled and redis.mode != "embedded":
        yield Problem(
            f"{here}.mode",
            redis.mode,
            'without Phase 2 Redis is always embedded; set scheduler.phase2.enabled = true, or mode = "embedded"',
        )

    default = Redis()
    used = {"embedded": (), "single": ("url",), "sentinel": ("sentinel_urls",), "cluster": ("url", "cluster_urls")}
    wanted = {"url": "single", "cluster_urls": "cluster", "sentinel_urls": "sentinel"}
    for name, mode in wanted.items():
        value = getattr(redis, name)
        if name not in used[redis.mode] and value != getattr(default, name):
            yield Problem(
                f"{here}.{name}",
                value,
                f'is not used with mode = "{redis.mode}"; set {here}.mode = "{mode}", or remove it',
            )

    if redis.mode == "single" and not redis.url:
        yield Problem(f"{here}.url", redis.url, 'mode = "single" needs an address, e.g. redis://127.0.0.1:6379')
    if redis.mode == "cluster" and not (redis.cluster_urls or redis.url):
        yield Problem(f"{here}.cluster_urls", list(redis.cluster_urls), 'mode = "cluster" needs at least one address')
    if redis.mode == "sentinel" and not redis.sentinel_urls:
        yield Problem(
            f"{here}.sentinel_urls", list(redis.sentinel_urls), 'mode = "sentinel" needs at least one address'
        )

    remote = ("redis://", "rediss://")
    addresses = [("url", redis.url, (*remote, "unix://") if redis.mode == "single" else remote)]
    addresses += [("cluster_urls", url, remote) for url in redis.cluster_urls]
    addresses += [("sentinel_urls", url, remote) for url in redis.sentinel_urls]
    for name, url, schemes in addresses:
        if name in used[redis.mode] and url and not url.startswith(schemes):
            yield Problem(f"{here}.{name}", url, f"write it as {' or '.join(scheme + '…' for scheme in schemes)}")


def _check_phase3(phase3: Phase3) -> Iterator[Problem]:
    here = "scheduler.phase3"
    for text, values in (
        ("pool_id", [pool.pool_id for pool in phase3.pools]),
        ("name", [pool.name for pool in phase3.pools if pool.name]),
    ):
        for value in _repeated(values):
            yield Problem(f"{here}.pools", None, f"{text} {_text(value)} is given twice; each pool needs its own")
    for tenant in _repeated([override.tenant_id for override in phase3.tenant_overrides]):
        yield Problem(f"{here}.tenant_overrides", None, f"tenant {_text(tenant)} is bound twice; keep one entry")

    known = {pool.pool_id for pool in phase3.pools}
    for override in phase3.tenant_overrides:
        for pool_id in sorted({override.pool_id, *override.overflow_pools} - known):
            yield Problem(
                f"{here}.tenant_overrides",
                None,
                f"tenant {_text(override.tenant_id)} names pool {pool_id}, which {here}.pools does not have; "
                "add the pool or correct the number",
            )


def _repeated(values: Sequence[object]) -> list[object]:
    seen: set[object] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]
