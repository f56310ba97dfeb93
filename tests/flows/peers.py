"""Raw peers: they send the frames that real clients sent, with ids adapted, and wait for frames by type."""

import asyncio
import json
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

CAPTURED = Path(__file__).parents[1] / "fixtures" / "captured"
SECONDS = 10.0  #: until a frame that must come counts as missing; none of them is meant to take that long

Frame = dict[str, Any]


def captured(name: str, **changes: Any) -> Frame:
    """A frame that a real client sent, with some members changed."""
    frame: Frame = json.loads((CAPTURED / f"{name}.json").read_text())
    return frame | changes


class Peer:
    """One WebSocket. Frames that nobody has asked for yet are kept in `heard`, in the order of their coming."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[Frame] = []

    @classmethod
    async def open(cls, url: str) -> Self:
        socket = await connect(url, compression=None, max_size=None, max_queue=None, ping_interval=None, proxy=None)
        return cls(socket)

    async def send(self, frame: Frame | str | bytes) -> None:
        """A frame as JSON; text and bytes as they are."""
        await self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def expect(self, kind: str, **members: Any) -> Frame:
        """The earliest frame of this type with these members that was not taken yet; an error ends the waiting."""
        for at, frame in enumerate(self.heard):
            if _is(frame, kind, members):
                return self.heard.pop(at)
        try:
            async with asyncio.timeout(SECONDS):
                while not _is(frame := json.loads(await self.socket.recv()), kind, members):
                    self.heard.append(frame)
                    assert frame["type"] != "error", f"instead of {kind} {members or ''} came {frame}"
        except TimeoutError:
            raise AssertionError(f"no {kind} {members or ''} came, but {_brief(self.heard)}") from None
        except ConnectionClosed as closed:
            raise AssertionError(f"closed ({closed}) before {kind} {members or ''}: {_brief(self.heard)}") from closed
        return frame

    async def settle(self) -> None:
        """Everything that the server sent before it answered a ping now is in `heard`."""
        async with asyncio.timeout(SECONDS):
            await (await self.socket.ping())
            # What came before the pong waits in the queue: no read has to wait.
            while True:
                try:
                    async with asyncio.timeout(0):
                        self.heard.append(json.loads(await self.socket.recv()))
                except TimeoutError:
                    return

    def of(self, kind: str) -> list[Frame]:
        """The frames of this type that were not taken yet."""
        return [frame for frame in self.heard if frame["type"] == kind]

    async def closed(self) -> int:
        """Wait until the server closes the socket; the close code."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    self.heard.append(json.loads(await self.socket.recv()))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006

    async def leave(self) -> None:
        await self.socket.close()


class RawNode(Peer):
    """A node that does what the story says."""

    node_id = ""

    async def register(self, frame: Frame) -> Frame:
        """Send a registration; the acknowledgement."""
        await self.send(frame)
        ack = await self.expect("node_register_ack")
        self.node_id = ack["node_id"]
        return ack

    async def beat(self, **changes: Any) -> None:
        """The captured heartbeat, of a machine with little load, and without a word about languages."""
        frame = captured("node_heartbeat", node_id=self.node_id)
        del frame["language_capabilities"]
        frame["resource_usage"]["cpu_percent"] = 20
        await self.send(frame | changes)

    async def assignment(self, **members: Any) -> Frame:
        return await self.expect("job_assign", **members)

    async def answer(self, job: Frame, name: str = "job_result_success_stub_inference", **changes: Any) -> None:
        """Answer an assignment with a captured result; ids are echoed as the real agent does."""
        await self.send(captured(name, **self.about(job)) | changes)

    def about(self, job: Frame) -> Frame:
        """The ids that every frame about a job carries."""
        ids = ("job_id", "attempt_id", "session_id", "utterance_index", "trace_id")
        return {"node_id": self.node_id} | {name: job[name] for name in ids}


class RawSession(Peer):
    """A session that does what the story says."""

    session_id = ""
    trace_id = ""

    async def begin(self, frame: Frame) -> Frame:
        """Send session_init; the acknowledgement."""
        await self.send(frame)
        ack = await self.expect("session_init_ack")
        self.session_id, self.trace_id = ack["session_id"], ack["trace_id"]
        self.src, self.tgt = frame["src_lang"], frame["tgt_lang"]
        return ack

    async def say(self, index: int = 0, **changes: Any) -> None:
        """The captured `utterance` frame under this index."""
        own = {"session_id": self.session_id, "utterance_index": index, "src_lang": self.src, "tgt_lang": self.tgt}
        await self.send(captured("utterance_full", trace_id=self.trace_id, **own) | changes)

    async def chunk(self, seq: int, name: str = "audio_chunk_full_opus_plan_a", **changes: Any) -> None:
        """A captured `audio_chunk` frame."""
        await self.send(captured(name, session_id=self.session_id, seq=seq) | changes)

    async def result(self, index: int = 0) -> Frame:
        return await self.expect("translation_result", utterance_index=index)

    async def heartbeat(self) -> Frame:
        """Send the captured heartbeat; the answer. A round trip through the consumer."""
        await self.send(captured("client_heartbeat", session_id=self.session_id))
        return await self.expect("server_heartbeat")


def _is(frame: Frame, kind: str, members: Frame) -> bool:
    return frame["type"] == kind and members.items() <= frame.items()


def _brief(frames: list[Frame]) -> list[Frame]:
    return [{name: str(value)[:120] for name, value in frame.items()} for frame in frames]
