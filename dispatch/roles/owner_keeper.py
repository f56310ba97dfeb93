"""Renews the owner record of every socket that is open here, a few at a time (DESIGN 5, P5)."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog

from dispatch import metrics
from dispatch.clock import Clock
from dispatch.errors import DependencyDown
from dispatch.roles.base import Role
from dispatch.store.client import RedisClient
from dispatch.store.outcome import Refused
from dispatch.store.owners import Owners
from dispatch.store.script import Call

log = structlog.get_logger(__name__)

SLICE = 100  #: sockets per pipeline; a turn takes about a millisecond


class OwnedSocket(Protocol):
    """A socket open here, of a node or of a session."""

    @property
    def owner_key(self) -> str: ...

    @property
    def epoch(self) -> int: ...

    def fenced(self) -> None:
        """A later connection of this peer has taken over: close. Does nothing on a socket that is closed already."""


def _nothing_else(socket: OwnedSocket) -> Sequence[Call[Any]]:
    return ()


class OwnerKeeper(Role):
    """Goes round the sockets once per third of the owner TTL, evenly: ten thousand of them cost no burst.

    Only a higher epoch closes a socket. When Redis does not answer, a slice waits for the end of the round. When Redis
    lost data, `hurry` (called by itself at the first record that was gone) makes one quick round.

    `sockets` is gone through anew for each round. `beside` gives further calls that keep what belongs to a socket, the
    session record for one; their answers are not looked at.
    """

    name = "owner_keeper"

    def __init__(
        self,
        client: RedisClient,
        owners: Owners,
        sockets: Iterable[OwnedSocket],
        instance: str,
        *,
        clock: Clock,
        hurry_seconds: float,
        beside: Callable[[OwnedSocket], Sequence[Call[Any]]] = _nothing_else,
    ) -> None:
        self._round_seconds = owners.ttl_ms / 3000
        super().__init__(clock, self._round_seconds)
        self.instance = instance
        self._client = client
        self._owners = owners
        self._sockets = sockets
        self._hurry_seconds = min(hurry_seconds, self._round_seconds)
        self._beside = beside
        self._slices: deque[list[OwnedSocket]] = deque()
        self._began = 0.0
        self._hurrying = False

    def hurry(self) -> None:
        """Renew all sockets within `hurry_seconds`: their records are gone."""
        if not self._hurrying:
            log.warning("owner_records_lost", instance=self.instance)
            self._begin(self._hurry_seconds)
            self._hurrying = True
            self.wake()

    async def turn(self) -> None:
        """Renew one slice."""
        if not self._slices or self.clock.monotonic() - self._began > 2 * self._round_seconds:
            self._hurrying = False
            self._begin(self._round_seconds)
            if not self._slices:
                return
        sockets = self._slices.popleft()
        try:
            await self._renew(sockets)
        except DependencyDown:
            self._slices.append(sockets)  # at the end: a part of a cluster that is down must not hold up the others
            raise
        if not self._slices:
            metrics.renew_lag.set(max(0.0, self.clock.monotonic() - self._began - self._round_seconds))

    async def _renew(self, sockets: list[OwnedSocket]) -> None:
        calls: list[Call[Any]] = [
            self._owners.renew(socket.owner_key, instance=self.instance, epoch=socket.epoch) for socket in sockets
        ]
        calls += [call for socket in sockets for call in self._beside(socket)]
        lost = False
        for socket, renewed in zip(sockets, await self._client.flush(*calls), strict=False):
            if isinstance(renewed, Refused):
                if socket.epoch >= int(renewed.detail):
                    continue  # it has claimed again while this was under way
                kind = socket.owner_key.partition("{")[2].partition(":")[0]
                log.info("socket_fenced", owner=socket.owner_key, epoch=socket.epoch, by_epoch=renewed.detail)
                metrics.owner_conflicts.labels(kind).inc()
                socket.fenced()
            elif not renewed:
                lost = True
        if lost:
            self.hurry()

    def _begin(self, seconds: float) -> None:
        """Cut the sockets of this moment into slices of one size, spread over `seconds`."""
        self._began = self.clock.monotonic()
        sockets = list(self._sockets)
        slices = -(-len(sockets) // SLICE)
        size = -(-len(sockets) // max(slices, 1))
        self._slices.clear()
        self._slices.extend(sockets[start : start + size] for start in range(0, len(sockets), size or 1))
        self.interval = seconds / max(slices, 1)
