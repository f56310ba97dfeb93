"""Feels the pulse of every socket: pings, silence, the ceilings of leases, the silence of nodes (DESIGN 6).

A node that owes an answer is pinged every 0.6 s and given up after two unanswered pings; everybody else every 20 s, in
slices, so that ten thousand idle sockets cost no burst. Any byte received is life.
"""

from collections.abc import Callable, Iterable
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
_TRY_AGAIN = 1013  #: close code: another instance may serve


class _Link(Protocol):
    @property
    def outbox(self) -> Outbox: ...


class Pulse(Role):
    """One turn every 0.6 s: all busy nodes, and a slice of everybody else."""

    name = "pulse"

    def __init__(
        self, clock: Clock, nodes: "Exchange[NodeLink]", sessions: Iterable[_Link], *, isolated: Callable[[], bool]
    ) -> None:
        super().__init__(clock, _BUSY_SECONDS)
        self._nodes = nodes
        self._sessions = sessions
        self._isolated = isolated
        self._round: list[Outbox] = []
        self._slice = 1
        self._began = -_IDLE_SECONDS  # when the round of everybody began
        self._pinged: dict[Outbox, int] = {}  # busy nodes: in how many turns before this one, without a break
        self._turned = clock.monotonic()

    async def turn(self) -> None:
        now = self.clock.monotonic()
        # A turn that comes late stands before what came meanwhile is read: silence proves nothing then.
        late = now - self._turned > 2 * _BUSY_SECONDS
        pinged = {} if late else self._pinged
        self._turned = now
        if self._isolated():
            # Cut off from Redis for so long, this instance helps nobody: peers are better off elsewhere (DESIGN 5).
            for link in (*self._nodes, *self._sessions):
                link.outbox.close(_TRY_AGAIN, "this instance is cut off")
        busy: dict[Outbox, int] = {}
        for link in self._nodes:
            link.look(now)
            if link.table.working:
                times = pinged.get(link.outbox, 0)
                busy[link.outbox] = times + 1
                # Until then it may have been silent for long because nobody asked.
                quiet = _MISSED * _BUSY_SECONDS if times >= _MISSED else None
                self._feel(link.outbox, now, quiet, "node")
        self._pinged = busy
        if not self._round and now - self._began >= _IDLE_SECONDS:
            self._began = now
            self._round = [link.outbox for link in self._sessions] + [link.outbox for link in self._nodes]
            self._slice = max(1, round(len(self._round) * _BUSY_SECONDS / _IDLE_SECONDS))
        for _ in range(min(self._slice, len(self._round))):
            outbox = self._round.pop()
            if outbox not in busy:
                self._feel(outbox, now, None if late else (_MISSED + 0.5) * _IDLE_SECONDS, "idle")

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
