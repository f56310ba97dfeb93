"""`/health`, `/livez` and `/readyz`, answered in the event loop: they must not wait for a thread or the database."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from dispatch.instance import Instance

Application = Callable[[Any, Any, Any], Awaitable[None]]


def probes(instance: Instance, application: Application) -> Application:
    """The application, with the probes in front of it.

    `/health` and `/livez` say that this process runs its loop. `/readyz` is 200 only when Redis answers, the roles beat
    and the instance is not draining; else 503 with the reasons.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path in ("/health", "/livez"):
            await _respond(send, 200, b"text/plain; charset=utf-8", b"OK")
        elif path == "/readyz":
            problems = instance.problems()
            body = json.dumps({"ready": not problems, "instance": instance.id, "problems": problems}).encode()
            await _respond(send, 503 if problems else 200, b"application/json", body)
        else:
            await application(scope, receive, send)

    return answer


async def _respond(send: Any, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
