"""Keeps this instance's life sign, and knows how far it may trust that others see it (DESIGN 5)."""

import asyncio
from collections.abc import Callable

import structlog

from dispatch import metrics
from dispatch.clock import Clock
from dispatch.errors import DependencyDown, IdentityTaken
from dispatch.roles.base import Role
from dispatch.store.client import RedisClient
from dispatch.store.outcome import Refused
from dispatch.store.presence import LifeSign, Presence

log = structlog.get_logger(__name__)


def _nothing() -> None:
    """Nobody asked to be told."""


class PresenceKeeper(Role):
    """Claims the instance id at the start, renews the life sign every third of its TTL, takes it back at the end.

    `on_barred` is called once, when another boot has the instance id: every socket must close and the process end.
    `on_loss` is called when a renewal found the life sign gone: Redis lost data, or we were silent for too long.
    """

    name = "presence_keeper"

    def __init__(
        self,
        client: RedisClient,
        presence: Presence,
        instance: str,
        sign: LifeSign,
        *,
        clock: Clock,
        isolation_seconds: float,
        on_barred: Callable[[], None] = _nothing,
        on_loss: Callable[[], None] = _nothing,
    ) -> None:
        self._ttl = presence.ttl_ms / 1000
        super().__init__(clock, self._ttl / 3)
        self.instance = instance
        self.sign = sign
        self.barred = False  #: another boot has our instance id; final
        self._client = client
        self._presence = presence
        self._isolation_seconds = isolation_seconds
        self._on_barred = on_barred
        self._on_loss = on_loss
        self._heard = clock.monotonic()  # when the last renewal that succeeded was sent; at first, our beginning
        self._steady_since: float | None = None
        self._left = False

    @property
    def fresh(self) -> bool:
        """Renewed within half the TTL: only then may leases be taken and assignments be sent."""
        return self._steady_since is not None and not self.barred and self._silence() < self._ttl / 2

    @property
    def steady_since(self) -> float | None:
        """Since when (monotonic clock) all renewals succeeded without a gap; None while they do not.

        Who judges others by their silence must have been heard himself for one TTL.
        """
        return self._steady_since if self.fresh else None

    @property
    def isolated(self) -> bool:
        """Redis has not answered for `isolation_seconds`: peers are better off elsewhere."""
        return self._silence() >= self._isolation_seconds

    async def start(self) -> None:
        """Claim the instance id.

        A life sign of another boot may be the rest of a process that died: it is waited for until it ends, one TTL at
        the most. If it is renewed meanwhile, that process lives.

        Raises:
            IdentityTaken: another living process uses this instance id.
            DependencyDown: Redis does not answer.
        """
        ends = self.clock.monotonic() + 1.5 * self._ttl  # later, only a life sign without a TTL is still there
        left_before: int | None = None
        while True:
            asked = self.clock.monotonic()
            claimed, left_ms = await self._client.flush(
                self._presence.claim(self.instance, self.sign), self._presence.left_ms(self.instance)
            )
            if not isinstance(claimed, Refused):
                break
            if (left_before is not None and left_ms > left_before) or asked > ends:
                raise IdentityTaken(
                    f'Another process lives under the instance id "{self.instance}" (boot {claimed.detail}). '
                    "Give this one its own scheduler.phase2.instance_id, or stop the other."
                )
            left_before = left_ms
            # Far shorter than the time between two renewals of a living process, so that none is overlooked.
            await asyncio.sleep(min(max(left_ms, 1) / 1000, self._ttl / 15))
        await self._client.run(self._presence.touch_instances(self.instance, self.sign.boot))
        self._note_success(asked)

    async def turn(self) -> None:
        """One renewal."""
        if self.barred or self._left:
            return
        asked = self.clock.monotonic()
        try:
            kept, listed = await self._client.flush(
                self._presence.renew(self.instance, self.sign),
                self._presence.touch_instances(self.instance, self.sign.boot),
            )
        except DependencyDown:
            metrics.presence_heartbeats.labels("err").inc()
            raise
        if isinstance(kept, Refused):
            metrics.presence_heartbeats.labels("barred").inc()
            log.error("instance_barred", instance=self.instance, by_boot=kept.detail)
            self.barred = True
            self._on_barred()
            return
        metrics.presence_heartbeats.labels("ok").inc()
        if not (kept and listed):
            log.warning("presence_was_gone", instance=self.instance, life_sign=kept, listed=listed)
            self._steady_since = None
        self._note_success(asked)
        if not (kept and listed):
            self._on_loss()

    async def leave(self) -> None:
        """Take the life sign back: this instance has drained. Nothing renews it afterwards."""
        self._left = True
        self._steady_since = None
        await self._client.flush(
            self._presence.remove(self.instance, self.sign.boot),
            self._presence.forget_instance(self.instance, self.sign.boot),
        )

    def _note_success(self, asked: float) -> None:
        # Counted from the sending: Redis cannot have set the TTL any earlier.
        if self._steady_since is None or asked - self._heard >= self._ttl / 2:
            self._steady_since = asked
        self._heard = asked

    def _silence(self) -> float:
        return self.clock.monotonic() - self._heard
