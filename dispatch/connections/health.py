"""The life cycle of a node as its owner connection sees it: registering -> ready <-> degraded -> offline.

The rules are those of PHASE3 1.4 with the corrections argued in 13.B: the window keeps successes too, recovery needs
several healthy beats, and `offline` is left by a heartbeat.
"""

from collections import deque
from typing import Literal

from dispatch.conf import NodeHealth
from dispatch.messages.capabilities import Capabilities
from dispatch.messages.node import ResourceUsage

Status = Literal["registering", "ready", "degraded", "draining", "offline"]
CORE = frozenset({"asr", "nmt", "tts"})


class Health:
    """Judges each heartbeat; times are seconds of the monotonic clock."""

    def __init__(self, rules: NodeHealth, *, now: float) -> None:
        self._rules = rules
        self._recent: deque[bool] = deque(maxlen=rules.failure_threshold.window_size)
        self._well = 0  #: healthy beats in a row
        self._ill = 0  #: unhealthy beats in a row
        self._since = now
        self._beat_at = now
        self.status: Status = "registering"
        self.reason = "registered"

    def beat(self, healthy: bool, *, now: float) -> bool:
        """Take a heartbeat in; answers whether the status changed."""
        before = self.status
        self._beat_at = now
        if self.status == "offline":
            self._restart(now)
        self._recent.append(healthy)
        self._well, self._ill = (self._well + 1, 0) if healthy else (0, self._ill + 1)
        if self.status == "registering":
            if self._well >= self._rules.health_check_count:
                self._become("ready", "healthy heartbeat")
            else:
                self.look(now=now)
        elif self.status == "ready":
            limit = self._rules.failure_threshold
            if self._ill >= limit.consecutive_failure_count or self._recent.count(False) >= limit.failure_count:
                self._become("degraded", f"{self._recent.count(False)} of {len(self._recent)} health checks failed")
        elif self.status == "degraded" and self._well >= self._rules.recovery_count:
            self._recent.clear()
            self._become("ready", f"{self._well} healthy heartbeats")
        return self.status != before

    def look(self, *, now: float) -> bool:
        """Is it silent, or too long in registering? Answers whether the status changed."""
        before = self.status
        if now - self._beat_at > self._rules.heartbeat_timeout_seconds:
            if self.status != "offline":
                self._become("offline", f"no heartbeat for {self._rules.heartbeat_timeout_seconds} s")
        elif self.status == "registering" and now - self._since > self._rules.warmup_timeout_seconds:
            self._become("degraded", f"not ready after {self._rules.warmup_timeout_seconds} s")
        return self.status != before

    def _restart(self, now: float) -> None:
        self._since, self._well, self._ill = now, 0, 0
        self._recent.clear()
        self._become("registering", "heartbeats are back")

    def _become(self, status: Status, reason: str) -> None:
        self.status, self.reason = status, reason


def is_healthy(capabilities: Capabilities, usage: ResourceUsage, *, declared: frozenset[str]) -> bool:
    """Has a GPU with a plausible load, and every core service that it declared at registration is ready.

    A GPU load that the node cannot measure is unknown: neither idle nor broken (PHASE3 1.3).
    """
    gpu = usage.gpu_percent
    return (
        capabilities.has_gpu
        and (gpu is None or 0 <= gpu <= 100)
        and bool(declared & CORE)
        and (declared & CORE) <= capabilities.ready_types
    )
