"""Real servers with the tiny application, and a client so bare that it can misbehave."""

import base64
import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parents[3]
APPLICATION = "tests.dispatch.servers.tiny:served"
PATIENCE = 15.0  #: seconds after which a test that waits for a server gives up

#: How to run each server; {port} is filled in.
COMMANDS = {
    "daphne": ["-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", APPLICATION],
    "uvicorn": ["-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log", APPLICATION],
    "uvicorn-websockets": [
        *("-W", "ignore", "-m", "uvicorn", "--ws", "websockets"),
        *("--host", "127.0.0.1", "--port", "{port}", "--no-access-log", APPLICATION),
    ],
}


class Server:
    """One server process; end it with `signal` or by leaving the `with`."""

    def __init__(self, kind: str, *, gated: bool = False, environment: dict[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        events, told = os.pipe()
        held, self._gate = os.pipe()
        self._events = os.fdopen(events, "rb", buffering=0)  # so that what waits can be seen by select
        wanted = {"TINY_EVENTS": str(told), **(environment or {})}
        if gated:
            wanted["TINY_GATE"] = str(held)
        self.process = subprocess.Popen(  # noqa: S603 # our own words only
            [sys.executable, *(word.format(port=self.port) for word in COMMANDS[kind])],
            cwd=ROOT,
            env={**os.environ, **wanted},
            pass_fds=(told, held),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(told)
        os.close(held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._events.close()
        os.close(self._gate)

    def event(self) -> str:
        """The next event; "" when the process is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._events, selectors.EVENT_READ)
            assert selector.select(PATIENCE), "no event"
        return self._events.readline().decode().strip()

    def events(self) -> list[str]:
        """All events that are left, once the process is gone."""
        return [line.decode().strip() for line in self._events]

    def open_gate(self) -> None:
        os.write(self._gate, b".")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def exit(self) -> tuple[int, str]:
        """Exit status and stderr of a process that ends by itself."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stderr

    def listens(self) -> Self:
        """Wait until the server has said on stderr that it does; leaves later lines for `exit`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Listening on TCP" in line or "Uvicorn running" in line:
                return self
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def get(self) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status, answer.read()

    def websocket(self, path: str) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}{path}", compression=None, proxy=None, ping_interval=None)

    @contextlib.contextmanager
    def control(self) -> Iterator["Control"]:
        with self.websocket("/control") as connection:
            yield Control(connection)

    def raw(self, name: str) -> "RawPeer":
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a small window fills at once
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", self.port))
        return RawPeer(connection, name)


class Control:
    """Asks the application about the port of a peer."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def __call__(self, do: str, of: str, **more: Any) -> Any:
        self._connection.send(json.dumps({"do": do, "of": of, **more}))
        return json.loads(self._connection.recv(timeout=PATIENCE))["value"]

    def until(self, do: str, of: str, wanted: Any) -> Any:
        """Ask again and again until the answer is as wanted; each question is a round trip."""
        for _ in range(20_000):
            if wanted(answer := self(do, of)):
                return answer
        raise AssertionError(f"{do} stayed at {answer}")


class Ended(Exception):
    """The server closed the connection in order."""


class RawPeer:
    """A WebSocket client that does nothing by itself: it reads, answers pings and closes only when told."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.socket = connection
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /peer/{name} HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._read(1)
        assert b" 101 " in answer.splitlines()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        opcode, length = self._read(2)
        if length >= 126:
            length = int.from_bytes(self._read(2 if length == 126 else 8))
        return opcode & 0x0F, self._read(length)

    def read_to_reset(self) -> int:
        """Bytes that still came before the server reset the connection."""
        size = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(1 << 20):
                size += len(piece)
            raise Ended
        return size

    def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        """One short frame, masked with zeros."""
        assert len(payload) < 126
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise Ended
            data += piece
        return data
