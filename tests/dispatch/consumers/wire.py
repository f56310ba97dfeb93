"""One ASGI WebSocket without a server: a test puts events in and sees what the consumer sends."""

import asyncio
import json
from typing import Any

from dispatch.consumers.base import SocketConsumer
from tests.dispatch.service.stand import SECONDS, Stand


class Wire:
    """The connection; `sent` holds every ASGI event, `frames` the JSON among them."""

    def __init__(self, kind: type[SocketConsumer], stand: Stand) -> None:
        self.consumer = kind(stand.instance)
        self.sent: list[dict[str, Any]] = []
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._task = asyncio.get_running_loop().create_task(
            self.consumer({"type": "websocket"}, self._events.get, self._send)
        )
        self._events.put_nowait({"type": "websocket.connect"})

    async def _send(self, event: dict[str, Any]) -> None:
        self.sent.append(event)
        async with self._news:
            self._news.notify_all()

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(event["text"]) for event in self.sent if event["type"] == "websocket.send"]

    def say(self, frame: dict[str, Any] | str | bytes) -> None:
        """One frame; text and bytes as they are."""
        if isinstance(frame, bytes):
            self._events.put_nowait({"type": "websocket.receive", "bytes": frame})
        else:
            text = json.dumps(frame) if isinstance(frame, dict) else frame
            self._events.put_nowait({"type": "websocket.receive", "text": text})

    async def frame(self, kind: str, nth: int = 1) -> dict[str, Any]:
        """The n-th frame of this type, as soon as it is here."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if frame["type"] == kind]

        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(lambda: len(found()) >= nth)
        return found()[nth - 1]

    async def event(self, kind: str) -> dict[str, Any]:
        """The first ASGI event of this type."""
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(lambda: any(event["type"] == kind for event in self.sent))
        return next(event for event in self.sent if event["type"] == kind)

    async def hang_up(self) -> None:
        """The peer disconnects; returns when the consumer has ended."""
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1005})
        async with asyncio.timeout(SECONDS):
            await self._task
