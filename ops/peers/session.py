"""A reference session: says utterances as the real web client does and waits for what becomes of each.

async with Session(url, "en", "es") as session:
    for index in await session.say(stream):
        print(await session.result(index))
"""

import asyncio
import math
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Self

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from ops.peers import audio

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 30.0
INIT_SECONDS = 10.0
RESULT_SECONDS = 70.0  #: the utterance's deadline of 60 s, and some time for the answer's way
PAUSE_SECONDS = 2.8  #: a little less than the silence (3 s) after which the scheduler cuts before the next chunk
PART_CHUNKS = 7  #: 17.92 s: what is said in one breath stays under the scheduler's limit of 20 s
MAX_FRAME_BYTES = 16 * 1024 * 1024

Frame = dict[str, Any]


class SessionError(Exception):
    """The scheduler answered with an error, answered too late, or cannot be reached; the message says which."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return f"{self.code}: {self.args[0]}"


class Session:
    """One speaker's connection; `on_frame` hears every frame that the scheduler sends."""

    def __init__(
        self,
        url: str,
        src: str,
        tgt: str,
        *,
        on_frame: Callable[[Frame], None] = lambda frame: None,
        **init: Any,
    ) -> None:
        """Further keywords go into session_init as they are: tenant_id, features, mode, lang_a, lang_b, auto_langs …"""
        self.session_id = ""
        self.trace_id = ""
        self._url, self._src, self._tgt, self._init, self._on_frame = url, src, tgt, init, on_frame
        self._seq = 0
        self.next_index = 0  #: what the next utterance will bear
        self._last_chunk = math.inf
        self._verdicts: dict[int, Frame] = {}
        self._failure: SessionError | None = None
        self._news = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: ClientConnection

    async def __aenter__(self) -> Self:
        try:
            self._socket = await connect(self._url, compression=None, max_size=MAX_FRAME_BYTES)
        except (OSError, WebSocketException) as error:
            raise SessionError(f"no session at {self._url}: {error}", "UNREACHABLE") from error
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]
        try:
            await self._send(
                {
                    "type": "session_init",
                    "client_version": "linguasched-reference",
                    "platform": "web",
                    "src_lang": self._src,
                    "tgt_lang": self._tgt,
                    **self._init,
                }
            )
            await self._wait(lambda: bool(self.session_id), INIT_SECONDS, "no session_init_ack")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    async def say(self, stream: bytes, *, pace: float = 0.0) -> list[int]:
        """Send a Plan A stream as audio chunks, `pace` seconds apart; the indices that its utterances will have.

        What lasts longer than 17.92 s becomes several utterances.
        """
        chunks = list(audio.chunks(stream))
        if time.monotonic() - self._last_chunk > PAUSE_SECONDS:
            # After a silence the next chunk is cut off alone (PROTOCOL 7.1, test 1): let that be an empty one.
            await self._chunk(b"")
        indices = []
        for at, chunk in enumerate(chunks, start=1):
            await self._chunk(chunk, is_final=at % PART_CHUNKS == 0 and at < len(chunks))
            if at % PART_CHUNKS == 0 or at == len(chunks):
                indices.append(self._take_index())
            await asyncio.sleep(pace)
        await self._chunk(b"", is_final=True)  # as the real client's Send button
        return indices

    async def utter(self, stream: bytes, *, audio_format: str = "opus", **more: Any) -> int:
        """Send the stream as one `utterance` frame; its index."""
        index = self._take_index()
        await self._send(
            {
                "type": "utterance",
                "session_id": self.session_id,
                "utterance_index": index,
                "manual_cut": True,
                "src_lang": self._src,
                "tgt_lang": self._tgt,
                "audio": b64encode(stream).decode(),
                "audio_format": audio_format,
                "sample_rate": audio.RATE,
                **more,
            }
        )
        return index

    async def result(self, index: int, *, seconds: float = RESULT_SECONDS) -> Frame:
        """The translation_result or missing_result of that utterance; SessionError when an error took its place."""
        await self._wait(lambda: index in self._verdicts, seconds, f"no result of utterance {index}")
        frame = self._verdicts.pop(index)
        if frame["type"] == "error":
            raise _as_error(frame)
        return frame

    async def _listen(self) -> None:
        reason = "the scheduler closed the connection"
        try:
            async for message in self._socket:
                frame = msgspec.json.decode(message)
                self._on_frame(frame)
                await self._hear(frame)
        except (WebSocketException, msgspec.DecodeError) as error:
            reason = f"the connection broke: {error}"
        await self._fail(SessionError(reason, "CONNECTION_LOST"))

    async def _hear(self, frame: Frame) -> None:
        match frame:
            case {"type": "session_init_ack", "session_id": str(session_id)}:
                self.trace_id = frame.get("trace_id", "")
                async with self._news:
                    self.session_id = session_id
                    self._news.notify_all()
            case {"type": "translation_result" | "missing_result", "utterance_index": int(index)} | {
                "type": "error",
                "details": {"utterance_index": int(index)},
            }:
                async with self._news:
                    self._verdicts.setdefault(index, frame)
                    self._news.notify_all()
            case {"type": "error"}:
                await self._fail(_as_error(frame))

    async def _fail(self, failure: SessionError) -> None:
        async with self._news:
            self._failure = self._failure or failure
            self._news.notify_all()

    async def _wait(self, arrived: Callable[[], bool], seconds: float, missing: str) -> None:
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: arrived() or self._failure)
        except TimeoutError:
            raise SessionError(f"{missing} within {seconds:g} s", "TIMED_OUT") from None
        if self._failure and not arrived():
            raise self._failure

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._send(
                {
                    "type": "client_heartbeat",
                    "session_id": self.session_id,
                    "timestamp": time.time_ns() // 1_000_000,
                }
            )

    async def _chunk(self, stream: bytes, *, is_final: bool = False) -> None:
        frame = {
            "type": "audio_chunk",
            "session_id": self.session_id,
            "seq": self._seq,
            "is_final": is_final,
            "payload": b64encode(stream).decode(),
        }
        self._seq += 1
        self._last_chunk = time.monotonic()
        await self._send(frame)

    async def _send(self, frame: Frame) -> None:
        try:
            await self._socket.send(msgspec.json.encode(frame), text=True)
        except WebSocketException as error:
            raise SessionError(f"the connection broke: {error}", "CONNECTION_LOST") from error

    def _take_index(self) -> int:
        self.next_index += 1
        return self.next_index - 1


def _as_error(frame: Frame) -> SessionError:
    return SessionError(str(frame.get("message", "no message")), str(frame.get("code", "ERROR")))
