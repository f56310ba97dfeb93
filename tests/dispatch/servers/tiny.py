"""A tiny ASGI application behind a real `Lifecycle`, for servers that tests start and end.

    /control     takes {"do": ..., "of": NAME, ...} and answers {"value": ...} about the port of the socket /peer/NAME
    /peer/NAME   is only there to be looked at
    anything else over HTTP answers "served"

Environment: TINY_EVENTS, a file descriptor that gets one line per event; TINY_GATE, one from which `start` and `drain`
wait for a byte each, when it is set; TINY_START = fail, TINY_FRAME_BYTES.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from dispatch.servers.base import SocketPort, port_of, raise_limits
from linguasched.lifecycle import Lifecycle

ports: dict[str, SocketPort] = {}
senders: dict[str, Any] = {}
received: dict[str, int] = {}
gone: dict[str, asyncio.Future[int]] = {}
tasks: set[asyncio.Task[None]] = set()


def tell(event: str) -> None:
    os.write(int(os.environ["TINY_EVENTS"]), f"{event}\n".encode())


async def pass_gate() -> None:
    """Wait until the test lets us go on; at once when there is no gate."""
    if "TINY_GATE" not in os.environ:
        return
    gate = int(os.environ["TINY_GATE"])
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(gate, opened.set)
    try:
        await opened.wait()
        os.read(gate, 1)
    finally:
        loop.remove_reader(gate)


async def start() -> None:
    tell("starting")
    try:
        await pass_gate()
    except asyncio.CancelledError:
        tell("start cancelled")
        raise
    if os.environ.get("TINY_START") == "fail":
        raise RuntimeError("the lamp is out: buy oil")
    tell("started")


async def drain() -> None:
    tell("draining")
    try:
        await pass_gate()
    except asyncio.CancelledError:
        tell("drain cancelled")
        raise
    for port in ports.values():
        port.close(1012, "service restart")
    await asyncio.gather(*gone.values())
    tell("drained")


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"served"})
    elif scope["path"] == "/control":
        await control(receive, send)
    else:
        await peer(scope["path"].removeprefix("/peer/"), receive, send)


async def peer(name: str, receive: Any, send: Any) -> None:
    await receive()
    ports[name], senders[name], received[name] = port_of(send), send, 0
    gone[name] = asyncio.get_running_loop().create_future()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        received[name] += len(message.get("text") or message.get("bytes") or "")
    gone[name].set_result(message["code"])


async def control(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        answer = await obey(**json.loads(message["text"]))
        await send({"type": "websocket.send", "text": json.dumps({"value": answer})})


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def obey(do: str, of: str, **more: Any) -> Any:
    port = ports[of]
    match do:
        case "which":
            return type(port).__name__
        case "buffered":
            return port.buffered_bytes()
        case "heard":
            return port.last_heard()
        case "ping":
            return port.ping()
        case "close":
            return port.close(**more)
        case "abort":
            return port.abort()
        case "memory":
            return resident_bytes()
        case "received":
            return received[of]
        case "gone":
            return await gone[of]
        case "send":  # not awaited: uvicorn's send waits for a peer that does not read
            task = asyncio.create_task(senders[of]({"type": "websocket.send", "bytes": bytes(more["size"])}))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return None
        case _:
            raise ValueError(do)


if "TINY_FRAME_BYTES" in os.environ:
    raise_limits(int(os.environ["TINY_FRAME_BYTES"]))

served = Lifecycle(start, drain).wrap(application)
