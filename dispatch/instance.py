"""One process of the scheduler: its clients, sockets, services and roles, from start to drain (DESIGN 6).

Everything is handed in, so that two instances fit in one test.
"""

import asyncio
import os
import secrets
import socket
import uuid
from collections.abc import Coroutine, Iterator
from importlib import metadata
from typing import Any

import structlog

from dispatch.clock import Clock, SystemClock
from dispatch.conf import Config
from dispatch.placement import DEFAULT_CELL, Directory
from dispatch.roles.auditor import Auditor
from dispatch.roles.base import Role, supervise
from dispatch.roles.directory_keeper import DirectoryKeeper
from dispatch.roles.due_keeper import DueKeeper
from dispatch.roles.inbox_reader import InboxReader
from dispatch.roles.owner_keeper import OwnedSocket, OwnerKeeper
from dispatch.roles.presence_keeper import PresenceKeeper
from dispatch.roles.pulse import Pulse
from dispatch.roles.utterance_watch import UtteranceWatch
from dispatch.service.core import Core
from dispatch.service.courier import Courier
from dispatch.service.delivery import Deliverer
from dispatch.service.jobs import Jobs
from dispatch.service.nodes import NodeLink, Nodes
from dispatch.service.sessions import SessionLink, Sessions
from dispatch.store.client import RedisClient
from dispatch.store.deadletters import DeadLetters
from dispatch.store.inbox import Inbox
from dispatch.store.presence import LifeSign, Presence
from dispatch.store.script import Call
from dispatch.store.server_check import check_server
from dispatch.switchboard import Exchange

log = structlog.get_logger(__name__)

RESTART = 1012  #: close code: the server restarts, come back
TRY_AGAIN = 1013  #: close code: another instance may serve
_LAST_SECONDS = 5.0  #: at the end of a drain: for sockets that were told to close, and for what is under way


class Instance:
    """The composition of one process. `client` is closed by `drain`."""

    def __init__(self, config: Config, client: RedisClient, *, clock: Clock | None = None) -> None:
        phase2 = config.scheduler.phase2
        self.config = config
        self.clock = clock or SystemClock()
        self.id = _instance_id(phase2.instance_id)
        self.boot = secrets.token_hex(8)
        self.draining = False
        self.node_sockets: Exchange[NodeLink] = Exchange()
        self.session_sockets: Exchange[SessionLink] = Exchange()
        self.core = core = Core(
            instance=self.id,
            boot=self.boot,
            config=config,
            client=client,
            clock=self.clock,
            fresh=lambda: self.presence_keeper.fresh,
        )
        inbox = Inbox(core.keys, phase2.stream_group)
        presence = Presence(core.keys, ttl_ms=config.scheduler.heartbeat_interval_seconds * 2000)
        self.directory = Directory()
        self.courier = Courier(core, self.node_sockets, self.session_sockets, inbox)
        self.jobs = Jobs(core, self.courier, self.directory)
        self.nodes = Nodes(core, self.courier, self.node_sockets)
        self.sessions = Sessions(core, self.jobs, self.session_sockets)
        deliverer = Deliverer(core, self.courier, self.node_sockets, self.session_sockets)
        self.presence_keeper = PresenceKeeper(
            client,
            presence,
            self.id,
            _life_sign(self.clock, self.boot),
            clock=self.clock,
            isolation_seconds=phase2.isolation_seconds,
            on_barred=self._barred,
            on_loss=core.lost_data,
        )
        self.owner_keeper = OwnerKeeper(
            client,
            core.owners,
            _Sockets(self.node_sockets, self.session_sockets),
            self.id,
            clock=self.clock,
            hurry_seconds=config.scheduler.heartbeat_interval_seconds,
            beside=_kept_beside,
        )
        core.on_data_loss.append(self.owner_keeper.hurry)
        self.inbox_reader = InboxReader(
            client,
            inbox,
            self.id,
            deliverer.deliver,
            letters=DeadLetters(core.keys, phase2.stream_group, phase2.dlq_maxlen),
            settings=phase2,
            clock=self.clock,
        )
        due_keeper = DueKeeper(core, self.courier, presence)
        self.roles: tuple[Role, ...] = (
            self.presence_keeper,
            self.owner_keeper,
            self.inbox_reader,
            due_keeper,
            Auditor(core, due_keeper.looks_after),
            UtteranceWatch(core, self.jobs, self.session_sockets),
            DirectoryKeeper(core, self.directory),
            Pulse(self.clock, self.node_sockets, self.session_sockets, isolated=lambda: self.presence_keeper.isolated),
        )
        self._inbox = inbox
        self._supervised: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Claim our identity, open the first cell, and begin the roles; sockets may come when this returns.

        Raises:
            IdentityTaken: another living process uses this instance id.
            UnfitRedis: the server is too old, or evicts keys.
            DependencyDown: Redis does not answer.
        """
        for info, policy in await self.core.client.servers():
            check_server(info, policy)
        await self.presence_keeper.start()
        await self.core.client.run(self._inbox.ensure_group(self.id))
        self.core.note(DEFAULT_CELL, await self.core.client.run(self.core.cells.open(DEFAULT_CELL)))
        await self.core.publish_cells()
        loop = asyncio.get_running_loop()
        self._supervised = [loop.create_task(supervise(role, self.clock), name=role.name) for role in self.roles]
        auth = self.config.scheduler.auth
        advice = "whoever reaches this port may connect; let only trusted peers reach it"
        log.warning("doors_are_open", nodes=auth.nodes, sessions=auth.sessions, advice=advice)
        log.info("instance_started", instance=self.id, boot=self.boot, phase2=self.config.scheduler.phase2.enabled)

    def takes_sockets(self) -> bool:
        """False while draining, cut off from Redis for long, or when this instance has as many sockets as it may."""
        open_here = len(self.node_sockets) + len(self.session_sockets)
        alone = self.presence_keeper.barred or self.presence_keeper.isolated
        return not self.draining and not alone and open_here < self.config.scheduler.limits.sockets_per_instance

    def problems(self) -> list[str]:
        """Why this instance is not ready for traffic; empty when it is."""
        found = []
        if self.draining:
            found.append("draining")
        if not self.presence_keeper.fresh:
            found.append("Redis has not answered lately")
        now = self.clock.monotonic()
        for role, task in zip(self.roles, self._supervised, strict=False):
            patience = max(10.0, 3 * role.interval)
            if task.done() or (role.last_ran is not None and now - role.last_ran > patience):
                found.append(f"role {role.name} has stopped")
        if not self._supervised:
            found.append("starting")
        return found

    async def drain(self) -> None:
        """Let work end, send everybody elsewhere, give back what is ours; bounded by `drain_seconds` and a moment."""
        self.draining = True
        log.info("draining", instance=self.id, nodes=len(self.node_sockets), sessions=len(self.session_sockets))
        try:
            async with asyncio.timeout(self.config.scheduler.drain_seconds):
                await asyncio.gather(
                    *(self._drain_node(link) for link in self.node_sockets),
                    *(self._drain_session(link) for link in self.session_sockets),
                )
        except TimeoutError:
            log.warning("drain_limit", nodes=len(self.node_sockets), sessions=len(self.session_sockets))
        for link in (*self.node_sockets, *self.session_sockets):
            link.outbox.close(RESTART, "this instance restarts")
        await self._last(self._all_gone(), "sockets still open")
        for link in (*self.node_sockets, *self.session_sockets):
            link.outbox.abort("drain")
        await self._last(self._settled(), "work still under way")
        for task in self._supervised:
            task.cancel()
        await asyncio.gather(*self._supervised, return_exceptions=True)
        await self._last(self._leave(), "presence left to expire")
        await self.core.client.aclose()
        log.info("drained", instance=self.id)

    async def _drain_node(self, link: NodeLink) -> None:
        link.drain()
        await link.empty.wait()
        link.outbox.close(RESTART, "this instance restarts")

    async def _drain_session(self, link: SessionLink) -> None:
        await link.idle.wait()
        link.outbox.close(RESTART, "this instance restarts")

    async def _all_gone(self) -> None:
        await asyncio.gather(self.node_sockets.empty.wait(), self.session_sockets.empty.wait())

    async def _settled(self) -> None:
        await self.sessions.quiet()
        await self.nodes.quiet()
        await self.jobs.quiet()
        await self.courier.quiet()
        await self.inbox_reader.drained()

    async def _leave(self) -> None:
        await self.presence_keeper.leave()
        await self.core.client.run(self._inbox.close(self.id))

    async def _last(self, work: Coroutine[Any, Any, None], otherwise: str) -> None:
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await work
        except (TimeoutError, Exception) as error:
            log.warning("drain_incomplete", left=otherwise, problem=str(error) or type(error).__name__)

    def _barred(self) -> None:
        """Another boot lives under our name: change nothing any more, and send every peer elsewhere."""
        for link in (*self.node_sockets, *self.session_sockets):
            link.outbox.close(TRY_AGAIN, "this instance has lost its name")  # before it is told not to come back
            link.fenced()


class _Sockets:
    """All links of both kinds, as the owner keeper goes through them."""

    def __init__(self, nodes: "Exchange[NodeLink]", sessions: "Exchange[SessionLink]") -> None:
        self._nodes = nodes
        self._sessions = sessions

    def __iter__(self) -> Iterator[OwnedSocket]:
        yield from self._nodes
        yield from self._sessions


def _kept_beside(socket: OwnedSocket) -> list[Call[Any]]:
    """What is renewed together with a socket's owner record."""
    return [socket.record()] if isinstance(socket, SessionLink) else []


def _instance_id(configured: str) -> str:
    """The configured name, or for `auto` host, process and a few random digits."""
    if configured.strip().lower() != "auto":
        return configured.strip()
    host = "".join(c if c.isalnum() or c in ".-" else "-" for c in socket.gethostname()) or "unknown"
    return f"{host[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _life_sign(clock: Clock, boot: str) -> LifeSign:
    try:
        version = metadata.version("linguasched")
    except metadata.PackageNotFoundError:
        version = "source"
    return LifeSign(
        started_at=clock.wall_ms(), hostname=socket.gethostname(), pid=os.getpid(), version=version, boot=boot
    )
