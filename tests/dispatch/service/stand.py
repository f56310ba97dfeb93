"""Instances without a server: peers are outboxes that collect frames, the clock stands still, roles take single turns.

Everything behind the sockets is real: services, scripts, Redis.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from dispatch.conf import Config
from dispatch.instance import Instance
from dispatch.messages.node import (
    Gpu,
    Hardware,
    JobResult,
    LanguageCapabilities,
    LanguagePair,
    NodeFault,
    NodeHeartbeat,
    NodePartial,
    NodeRegister,
    ResourceUsage,
    Service,
    TypeCapability,
)
from dispatch.messages.session import SessionInit, Utterance
from dispatch.placement import DEFAULT_CELL
from dispatch.roles.base import Role
from dispatch.roles.directory_keeper import DirectoryKeeper
from dispatch.roles.due_keeper import DueKeeper
from dispatch.roles.pulse import Pulse
from dispatch.roles.utterance_watch import UtteranceWatch
from dispatch.service.nodes import NodeLink
from dispatch.service.outbox import Outbox
from dispatch.service.sessions import SessionLink
from dispatch.store.cells import Audit, Grant
from dispatch.store.client import RedisClient, command
from tests.dispatch.roles.conftest import HandClock
from tests.dispatch.store.picture import Picture, picture

SECONDS = 10.0  #: until something that must come counts as missing
CORE = ("asr", "nmt", "tts")
AUDIO = "T2dnUw=="

Frame = dict[str, Any]


class FakePort:
    """A socket of which a test says what it holds, when it was heard, and sees what was done to it."""

    def __init__(self) -> None:
        self.buffered = 0
        self.heard: float | None = None
        self.pings = 0
        self.closed: tuple[int, str] | None = None
        self.aborted = False

    def buffered_bytes(self) -> int | None:
        return self.buffered

    def ping(self) -> bool:
        self.pings += 1
        return True

    def last_heard(self) -> float | None:
        return self.heard

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True


class Peer:
    """The far end of an outbox."""

    def __init__(self, kind: str, *, limit: int = 2**24) -> None:
        self.port = FakePort()
        self.heard: list[Frame] = []
        self.outbox = Outbox(self._hear, self.port, kind=kind, limit=limit)
        self._news = asyncio.Condition()

    async def _hear(self, text: str) -> None:
        self.heard.append(json.loads(text))
        async with self._news:
            self._news.notify_all()

    def all(self, kind: str, **members: Any) -> list[Frame]:
        """The frames of this type that came so far."""
        return [frame for frame in self.heard if frame["type"] == kind and members.items() <= frame.items()]

    async def frame(self, kind: str, nth: int = 1, **members: Any) -> Frame:
        """The n-th frame of this type with these members, as soon as it is here."""
        try:
            async with asyncio.timeout(SECONDS), self._news:
                await self._news.wait_for(lambda: len(self.all(kind, **members)) >= nth)
        except TimeoutError:
            raise AssertionError(f"no {kind} {members or ''} no. {nth} came, but {self.heard}") from None
        return self.all(kind, **members)[nth - 1]


class Node(Peer):
    """A node of which a test says what it does."""

    link: NodeLink

    def __init__(self, stand: "Stand") -> None:
        super().__init__("node")
        self._stand = stand

    def beat(self, **members: Any) -> None:
        """One healthy heartbeat."""
        usage = ResourceUsage(cpu_percent=1.0, gpu_percent=1.0, mem_percent=1.0, running_jobs=0)
        members = {"resource_usage": usage} | members
        self.link.heartbeat(NodeHeartbeat(node_id=self.link.node, timestamp=1, **members))

    async def assigned(self, nth: int = 1) -> Frame:
        return await self.frame("job_assign", nth)

    @property
    def assignments(self) -> list[Frame]:
        return self.all("job_assign")

    def answer(self, assign: Frame, *, error: str = "", **members: Any) -> None:
        """The result of an assignment, or its failure."""
        said: dict[str, Any] = {
            "job_id": assign["job_id"],
            "attempt_id": assign["attempt_id"],
            "node_id": self.link.node,
            "session_id": assign["session_id"],
            "utterance_index": assign["utterance_index"],
            "success": not error,
            "text_asr": "hello",
            "text_translated": "hola",
            "tts_audio": AUDIO,
            "trace_id": assign["trace_id"],
            "error": NodeFault(code=error, message="it failed") if error else None,
        }
        result = JobResult(**said | members)
        self.link.result(result, msgspec.json.encode(result))

    def partial(self, assign: Frame, text: str) -> None:
        self.link.partial(
            NodePartial(
                job_id=assign["job_id"],
                node_id=self.link.node,
                session_id=assign["session_id"],
                utterance_index=assign["utterance_index"],
                text=text,
                is_final=False,
                trace_id=assign["trace_id"],
            )
        )

    def hang_up(self) -> None:
        """The socket closes."""
        self.outbox.gone()
        self._stand.instance.nodes.leave(self.link)


class Session(Peer):
    """A session of which a test says what it says."""

    link: SessionLink

    def __init__(self, stand: "Stand") -> None:
        super().__init__("session")
        self._stand = stand

    def say(self, index: int, *, audio: str = AUDIO, **members: Any) -> None:
        """A whole utterance in one frame."""
        said: dict[str, Any] = {
            "session_id": self.link.session,
            "utterance_index": index,
            "manual_cut": True,
            "src_lang": "en",
            "tgt_lang": "es",
            "audio": audio,
            "audio_format": "opus",
            "sample_rate": 16_000,
        }
        self.link.utterance(Utterance(**said | members))

    @property
    def ends(self) -> list[tuple[int, str]]:
        """Index and kind of every terminal event, in the order of their coming; an error is named by its code."""
        found = []
        for frame in self.heard:
            if frame["type"] in ("translation_result", "missing_result"):
                found.append((frame["utterance_index"], frame.get("reason", "result")))
            elif frame["type"] == "error":
                found.append((frame["details"]["utterance_index"], frame["code"]))
        return found

    async def until_ends(self, count: int) -> list[tuple[int, str]]:
        """All terminal events, as soon as there are that many."""
        await until(lambda: len(self.ends) >= count, self)
        return self.ends

    def hang_up(self) -> None:
        """The socket closes."""
        self.outbox.gone()
        self._stand.instance.sessions.leave(self.link)


class Stand:
    """One instance whose roles take turns when a test says so."""

    def __init__(self, client: RedisClient, prefix: str, clock: HandClock, name: str = "a", **changes: Any) -> None:
        self.client = client
        self.clock = clock
        self.instance = Instance(config_of(prefix, name, **changes), client, clock=clock)
        self.core = self.instance.core

    async def start(self) -> "Stand":
        """Everything that `Instance.start` does, but the roles stand still."""
        core = self.core
        await self.instance.presence_keeper.start()
        await self.client.run(self.instance._inbox.ensure_group(self.instance.id))
        core.note(DEFAULT_CELL, await self.client.run(core.cells.open(DEFAULT_CELL)))
        await core.publish_cells()
        return self

    def role(self, kind: type[Role]) -> Any:
        return next(role for role in self.instance.roles if isinstance(role, kind))

    async def watch(self) -> None:
        await self.role(UtteranceWatch).turn()

    async def take_due(self) -> None:
        await self.role(DueKeeper).turn()

    async def keep_directory(self) -> None:
        await self.role(DirectoryKeeper).turn()

    async def feel(self) -> None:
        await self.role(Pulse).turn()

    async def read_inbox(self) -> None:
        """Read what lies in the inbox, and deal with it."""
        await self.instance.inbox_reader.read_once()
        async with asyncio.timeout(SECONDS):
            await self.instance.inbox_reader.drained()

    async def later(self, seconds: float) -> None:
        """Time passes, and the presence is renewed."""
        self.clock.advance(seconds)
        await self.instance.presence_keeper.turn()

    async def quiet(self) -> None:
        """Wait until everybody who left is told, and everything released, cancelled and posted."""
        async with asyncio.timeout(SECONDS):
            await self.instance._settled()

    async def node(self, name: str = "n1", *, limit: int = 4, ready: bool = True, **members: Any) -> Node:
        """A node that has registered, and unless said otherwise is ready and listed as free."""
        node = Node(self)
        link = await self.instance.nodes.register(registration(name, limit, **members), node.outbox)
        assert isinstance(link, NodeLink)
        node.link = link
        self.instance.nodes.welcome(link)
        if ready:
            node.beat()
            await node.frame("node_status", status="ready")
            await self.until(lambda seen: bool(seen.nodes.get(name, {}).get("class")))
        return node

    async def session(self, **members: Any) -> Session:
        """A session that may speak."""
        session = Session(self)
        init = {"client_version": "1", "platform": "web", "src_lang": "en", "tgt_lang": "es"} | members
        session.link = await self.instance.sessions.begin(SessionInit(**init), session.outbox)
        await session.frame("session_init_ack")
        return session

    async def picture(self) -> Picture:
        return await picture(self.client, self.core.keys, DEFAULT_CELL)

    async def until(self, condition: Callable[[Picture], bool]) -> Picture:
        """The cell, as soon as it looks like that."""
        seen: list[Picture] = []

        async def holds() -> bool:
            seen[:] = [await self.picture()]
            return condition(seen[0])

        await until(holds, lambda: seen[0].parts)
        return seen[0]

    async def audit(self) -> Picture:
        """Nothing in the cell may be untrue."""
        answer = await self.core.ask(DEFAULT_CELL, self.core.cells.audit(DEFAULT_CELL))
        body: Audit = answer.body
        assert body.faults == []
        seen = await self.picture()
        assert seen.faults() == []
        return seen

    async def empty(self) -> None:
        """Redis loses everything."""
        await self.client.run(command("FLUSHALL"))

    async def keys(self) -> set[str]:
        """Every key of this prefix, without it."""
        prefix = self.core.keys.prefix
        found = await self.client.run(command("KEYS", f"{prefix}:*"))
        return {key.decode().removeprefix(prefix) for key in found}

    async def close(self) -> None:
        """Everybody leaves."""
        for node in self.instance.node_sockets:
            self.instance.nodes.leave(node)
        for session in self.instance.session_sockets:
            self.instance.sessions.leave(session)
        await self.quiet()
        await self.instance.inbox_reader.aclose()


def config_of(prefix: str, name: str, **changes: Any) -> Config:
    """The defaults with some values changed: `{"phase2.stream_maxlen": 1}`."""
    plain: dict[str, Any] = msgspec.to_builtins(Config())
    changes = {
        "phase2.enabled": True,
        "phase2.instance_id": name,
        "phase2.redis.key_prefix": prefix,
        "phase2.stream_block_ms": 1,
    } | changes
    for key, value in changes.items():
        *path, last = key.split(".")
        part = plain["scheduler"]
        for step in path:
            part = part[step]
        part[last] = value
    return msgspec.convert(plain, Config)


def registration(name: str, limit: int = 4, **members: Any) -> NodeRegister:
    """What a node with all core services says; it translates from English to Spanish."""
    said: dict[str, Any] = {
        "node_id": name,
        "version": "1",
        "capability_schema_version": "2.0",
        "platform": "linux",
        "hardware": Hardware(cpu_cores=8, memory_gb=16, gpus=(Gpu(name="gpu", memory_gb=8),)),
        "installed_services": tuple(
            Service(service_id=f"{each}-1", type=each, device="gpu", status="running") for each in CORE
        ),
        "capability_by_type": tuple(
            TypeCapability(type=each, ready=True, ready_impl_ids=(f"{each}-1",)) for each in CORE
        ),
        "accept_public_jobs": True,
        "language_capabilities": LanguageCapabilities(supported_language_pairs=(LanguagePair(src="en", tgt="es"),)),
        "max_concurrent_jobs": limit,
    }
    return NodeRegister(**said | members)


def grant_of(link: NodeLink, **members: Any) -> Grant:
    """A lease for this connection that no cell knows of."""
    said: dict[str, Any] = {
        "node": link.node,
        "owner": "a",
        "epoch": link.epoch,
        "lease": "lease",
        "seq": 1,
        "job": "job",
        "attempt": 1,
        "session": "s",
        "index": 0,
        "origin": "a",
    }
    return Grant(**said | members)


async def until(condition: Callable[[], bool | Awaitable[bool]], seen: object = None) -> None:
    """Return as soon as the condition holds; for what gives no sign of itself."""
    ends = asyncio.get_running_loop().time() + SECONDS
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if asyncio.get_running_loop().time() > ends:
            shown = seen() if callable(seen) else getattr(seen, "heard", seen)
            raise AssertionError(f"it did not come about; seen: {shown}")
        await asyncio.sleep(0.002)
