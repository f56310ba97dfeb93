"""The two WebSocket doors."""

from collections.abc import Awaitable, Callable
from typing import Any

from dispatch.consumers.base import SocketConsumer
from dispatch.consumers.node import NodeConsumer
from dispatch.consumers.session import SessionConsumer
from dispatch.instance import Instance

_DOORS: dict[str, type[SocketConsumer]] = {"/ws/session": SessionConsumer, "/ws/node": NodeConsumer}
_NO_SUCH_DOOR = 4404


def sockets(instance: Instance) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """The ASGI application for WebSockets."""

    async def route(scope: Any, receive: Any, send: Any) -> None:
        door = _DOORS.get(scope["path"].rstrip("/"))
        if door is None:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": _NO_SUCH_DOOR})
            return
        await door(instance)(scope, receive, send)

    return route
