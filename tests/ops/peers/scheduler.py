"""A throw-away scheduler for one test: one process, first node with a free slot, no memory of anything.

It plays the server's part of PROTOCOL.md 2 and 3 from the page, so that the peers are tested against the words and not
against our server. Every frame that came in lies in `heard`, in order.
"""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

Frame = dict[str, Any]


class Scheduler:
    def __init__(self) -> None:
        self.url = ""
        self.heard: list[Frame] = []
        self.nodes: dict[str, ServerConnection] = {}
        self.sessions: dict[str, ServerConnection] = {}
        self.answer: Callable[[str, Frame], list[Frame] | None] = lambda role, frame: (
            None
        )  #: overrules what it would say
        self._ids = count(1)
        self._buffers: dict[str, bytearray] = {}
        self._indices: dict[str, int] = {}
        self._news = asyncio.Condition()

    async def until(self, wanted: Callable[[], Any]) -> Any:
        """What `wanted` gives, as soon as it gives something."""
        async with asyncio.timeout(10), self._news:
            return await self._news.wait_for(wanted)

    async def frame(self, kind: str, nth: int = 1) -> Frame:
        """The n-th frame of that type."""

        def found() -> Frame | None:
            frames = [frame for frame in self.heard if frame["type"] == kind]
            return frames[nth - 1] if len(frames) >= nth else None

        frame: Frame = await self.until(found)
        return frame

    async def assign(self, node_id: str, **fields: Any) -> Frame:
        """Hand a job to the node; the job_assign as sent."""
        number = next(self._ids)
        frame = {
            "type": "job_assign",
            "job_id": f"job-{number}-lease{number}",
            "attempt_id": 1,
            "session_id": "s-1",
            "utterance_index": number,
            "src_lang": "en",
            "tgt_lang": "es",
            "pipeline": {"use_asr": True, "use_nmt": True, "use_tts": True},
            "audio": "",
            "audio_format": "opus",
            "sample_rate": 16000,
            "trace_id": "t-1",
            "padding_ms": 280,
            "is_manual_cut": True,
            "assign_seq": number,
            **fields,
        }
        await self.send(node_id, frame)
        return frame

    async def send(self, node_id: str, frame: Frame) -> None:
        await self.nodes[node_id].send(json.dumps(frame))

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        role = socket.request.path.rpartition("/")[2]
        async for message in socket:
            frame = json.loads(message)
            async with self._news:
                self.heard.append(frame)
                answers = self.answer(role, frame)
                if answers is None:
                    answers = await (self._node(socket, frame) if role == "node" else self._session(socket, frame))
                for answer in answers:
                    await socket.send(json.dumps(answer))
                self._news.notify_all()

    async def _node(self, socket: ServerConnection, frame: Frame) -> list[Frame]:
        if frame["type"] == "node_register":
            node_id = frame["node_id"] or f"node-{next(self._ids)}"
            self.nodes[node_id] = socket
            return [{"type": "node_register_ack", "node_id": node_id, "message": "registered", "status": "registering"}]
        if frame["type"] == "job_result" and frame["session_id"] in self.sessions:
            wanted = ("session_id", "utterance_index", "job_id", "trace_id")
            told = {"type": "translation_result", **{name: frame[name] for name in wanted}}
            if frame["success"]:
                told |= {name: frame[name] for name in ("text_asr", "text_translated", "tts_audio", "tts_format")}
            else:
                details = {"utterance_index": frame["utterance_index"]}
                told = {"type": "error", **frame["error"], "details": details}
            await self.sessions[frame["session_id"]].send(json.dumps(told))
        return []

    async def _session(self, socket: ServerConnection, frame: Frame) -> list[Frame]:
        match frame["type"]:
            case "session_init":
                session_id = f"s-{next(self._ids)}"
                self.sessions[session_id] = socket
                ack = {"type": "session_init_ack", "session_id": session_id, "message": "created", "trace_id": "t-1"}
                return [ack | {"use_binary_frame": False}]
            case "utterance":
                await self._dispatch(frame["session_id"], frame["utterance_index"], frame["audio"])
            case "audio_chunk":
                session_id = frame["session_id"]
                buffer = self._buffers.setdefault(session_id, bytearray())
                buffer += b64decode(frame["payload"])
                if frame["is_final"] and buffer:
                    index = self._indices.get(session_id, 0)
                    self._indices[session_id] = index + 1
                    del self._buffers[session_id]
                    await self._dispatch(session_id, index, b64encode(buffer).decode())
        return []

    async def _dispatch(self, session_id: str, index: int, audio: str) -> None:
        node_id = next(reversed(self.nodes))
        await self.assign(node_id, session_id=session_id, utterance_index=index, audio=audio)


@asynccontextmanager
async def running() -> AsyncIterator[Scheduler]:
    """A scheduler on a free loopback port; `url` is its root."""
    scheduler = Scheduler()
    async with serve(scheduler._serve, "127.0.0.1", 0, compression=None, max_size=None) as server:
        scheduler.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield scheduler
