"""Feels the pulse of every socket: pings, silence, the ceilings of leases, the silence of nodes (DESIGN 6).

A node that owes an answer is pinged every 0.6 s and given up after two unanswered pings; everybody else every 20 s, in
slices, so that ten thousand idle sockets cost no burst. Any byte received is life.
"""

from collections.abc import Iterable
from typing import Protocol

from dispatch import metrics
from dispatch.clock import Clock
from dispatch.roles.base import Role
from dispatch.servers.base import SocketPort
from dispatch.service.nodes import NodeLink
from dispatch.service.outbox import Outbox
from dispatch.switchboard import Exchange

_BUSY_SECONDS = 0.6
_IDLE_SECONDS = 20.0
_MISSED = 2


class _Link(Protocol):
    @property
    def outbox(self) -> Outbox: ...


class Pulse(Role):
    """One turn every 0.6 s: all busy nodes, and a slice of everybody else."""

    name = "pulse"

    def __init__(self, clock: Clock, nodes: "Exchange[NodeLink]", sessions: Iterable[_Link]) -> None:
        super().__init__(clock, _BUSY_SECONDS)
        self._nodes = nodes
        self._sessions = sessions
        self._round: list[Outbox] = []
        self._slice = 1
        self._busy: set[Outbox] = set()

    async def turn(self) -> None:
        now = self.clock.monotonic()
        busy: set[Outbox] = set()
        for link in self._nodes:
            link.look(now)
            if link.table.working:
                busy.add(link.outbox)
                # Only a node that was pinged in the last turn can have missed it.
                quiet = _MISSED * _BUSY_SECONDS if link.outbox in self._busy else None
                self._feel(link.outbox, now, quiet, "node")
        self._busy = busy
        if not self._round:
            self._round = [link.outbox for link in self._sessions] + [link.outbox for link in self._nodes]
            self._slice = max(1, round(len(self._round) * _BUSY_SECONDS / _IDLE_SECONDS))
        for _ in range(min(self._slice, len(self._round))):
            outbox = self._round.pop()
            if outbox not in busy:
                self._feel(outbox, now, (_MISSED + 0.5) * _IDLE_SECONDS, "idle")

    def _feel(self, outbox: Outbox, now: float, quiet: float | None, kind: str) -> None:
        if outbox.closed:
            return
        port: SocketPort = outbox.port
        heard = port.last_heard()
        if quiet is not None and heard is not None and now - heard > quiet:
            metrics.pulses_lost.labels(kind).inc()
            outbox.abort("silent")
        else:
            port.ping()
