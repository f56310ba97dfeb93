"""Where one story plays: two instances, its own language pair, and peers that leave when it is over."""

import random
import string
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from dispatch.conf import Config, Redis
from dispatch.keys import Keys
from dispatch.placement import DEFAULT_CELL
from dispatch.store.cells import Cells, JobView, Rules
from dispatch.store.client import RedisClient, command, connect
from tests.flows.instances import Backend, InstanceProcess
from tests.flows.peers import Frame, Peer, RawNode, RawSession, captured

P = TypeVar("P", bound=Peer)


class Stage:
    """Hands out peers. Nodes translate from `src` to `tgt`, which is a language of this story alone: nobody who is
    about to leave an earlier story can take part in this one.
    """

    src = "en"

    def __init__(self, a: InstanceProcess, b: InstanceProcess, backend: Backend) -> None:
        self.a, self.b = a, b
        self.tgt = "".join(random.choices(string.ascii_lowercase, k=8))  # noqa: S311  a name, no secret
        self.redis = client_of(backend)
        self._keys = Keys(backend.prefix)
        self._peers: list[Peer] = []

    async def open(self, kind: type[P], instance: InstanceProcess) -> P:
        """A socket on which nothing was said yet."""
        peer = await kind.open(instance.url("node" if issubclass(kind, RawNode) else "session"))
        self._peers.append(peer)
        return peer

    async def node(self, instance: InstanceProcess, *, limit: int = 4, **changes: Any) -> RawNode:
        """A node that may be given work from now on."""
        node = await self.newcomer(instance, limit=limit, **changes)
        await self.listed(node)
        return node

    async def newcomer(self, instance: InstanceProcess, *, limit: int = 4, **changes: Any) -> RawNode:
        """A node that has registered and sent its first heartbeat."""
        node = await self.open(RawNode, instance)
        await node.register(self.registration(max_concurrent_jobs=limit, **changes))
        await node.beat()
        return node

    def registration(self, name: str = "node_register", **changes: Any) -> Frame:
        """A captured registration, for the languages of this story."""
        pairs = {"supported_language_pairs": [{"src": self.src, "tgt": self.tgt}]}
        frame = captured(name)
        return frame | {"language_capabilities": frame["language_capabilities"] | pairs} | changes

    async def listed(self, node: RawNode) -> None:
        """Wait until the node is ready and its cell knows of its free slot."""
        await node.expect("node_status", status="ready")
        await self.until_able(node.node_id)

    async def until_able(self, node_id: str) -> None:
        """Wait until the cell would give this node work."""
        await self.until(node_id, lambda record: record["listed"] != "")

    async def until(self, node_id: str, wanted: Callable[[Frame], bool]) -> None:
        """Wait until the node's record in its cell is as wanted."""
        for _ in range(10_000):  # each question is a round trip
            if wanted(await self.record(node_id)):
                return
        raise AssertionError(f"the node's record stayed {await self.record(node_id)}")

    async def record(self, node_id: str) -> Frame:
        """What the cell keeps of a node."""
        packed = await self.redis.run(command("HGET", self._keys.cell(DEFAULT_CELL)["nodes"], node_id))
        return msgspec.msgpack.decode(packed, type=dict) if packed else {"listed": "", "class": "", "epoch": 0}

    async def until_finished(self, job: str) -> None:
        """Wait until the cell has taken in the answer to this job."""
        cells = Cells(self._keys, Rules.of(Config()))
        for _ in range(10_000):  # each question is a round trip
            answer = await self.redis.run(cells.states(DEFAULT_CELL, [job]))
            if answer.body[0] and JobView(*answer.body[0]).state == "FINISHED":
                return
        raise AssertionError("the job did not finish")

    async def session(self, instance: InstanceProcess, **changes: Any) -> RawSession:
        """A session in the languages of this story."""
        session = await self.open(RawSession, instance)
        await session.begin(captured("session_init_one_way", src_lang=self.src, tgt_lang=self.tgt) | changes)
        return session

    async def close(self) -> None:
        for peer in self._peers:
            await peer.leave()
        await self.redis.aclose()


def client_of(backend: Backend) -> RedisClient:
    """A client of the Redis that the instances use."""
    given = dict(backend.settings)
    urls = tuple(given.pop("cluster_urls", "").split(",")) if "cluster_urls" in given else ()
    return connect(Redis(**given, cluster_urls=urls))  # type: ignore[arg-type]  # mode is one of the words
