"""Runs instances of the scheduler as processes, just as an operator would."""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from linguasched.redis_server import RedisCluster, RedisServer, free_port, wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS, STOP_SECONDS = 30.0, 45.0  #: patience, not an expectation
NODE_FRAME_BYTES = 4 * 1024 * 1024  #: a lower limit than the default, so that tests need not send as much

ServerKind = Literal["daphne", "uvicorn"]

#: How to run each server; {port} is filled in.
COMMANDS: dict[ServerKind, tuple[str, ...]] = {
    "daphne": ("daphne", "-b", "127.0.0.1", "-p", "{port}"),
    "uvicorn": ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log"),
}


class Backend:
    """One Redis under one key prefix, as instances and tests are told of it."""

    def __init__(self, servers: RedisServer | RedisCluster, prefix: str) -> None:
        self.prefix = prefix
        self.settings: dict[str, str] = {"mode": "single", "url": servers.url, "key_prefix": prefix}
        if isinstance(servers, RedisCluster):
            self.settings = {"mode": "cluster", "cluster_urls": ",".join(servers.urls), "key_prefix": prefix}


class InstanceProcess:
    """One instance; `wait_ready` before use, `stop` at the end."""

    def __init__(self, instance_id: str, backend: Backend, home: Path, *, kind: ServerKind = "daphne") -> None:
        self.id = instance_id
        self.port = free_port()
        self._log = home / f"{instance_id}.log"
        settings = {
            "PHASE2__ENABLED": "true",
            "PHASE2__INSTANCE_ID": instance_id,
            "MAX_JOBS_CAP_PER_NODE": "256",
            "JOB_TIMEOUT__PENDING_TIMEOUT_SECONDS": "1",
            "LIMITS__NODE_FRAME_BYTES": str(NODE_FRAME_BYTES),
            "LIMITS__NODE_BUFFER_BYTES": str(4 * NODE_FRAME_BYTES),
            **{f"PHASE2__REDIS__{name.upper()}": value for name, value in backend.settings.items()},
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LINGUASCHED")}
        command = [sys.executable, "-m", *(word.format(port=self.port) for word in COMMANDS[kind])]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own command line
                [*command, "linguasched.asgi:application"],
                cwd=ROOT,
                env=inherited
                | {"LINGUASCHED_DATA_DIR": str(home), "LINGUASCHED_LOG": "json"}
                | {f"LINGUASCHED__SCHEDULER__{name}": value for name, value in settings.items()},
                stdout=log,
                stderr=log,
            )

    def url(self, door: str) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/{door}"

    def wait_ready(self) -> None:
        wait_until(lambda: self.readyz()[0] == 200, what=f"instance {self.id} is ready", seconds=START_SECONDS)

    def readyz(self) -> tuple[int, list[str]]:
        """Status and problems; status 0 when nobody answers yet."""
        assert self.process.poll() is None, f"instance {self.id} has ended:\n{self._log.read_text()[-4000:]}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(body)["problems"] if is_json else [body.decode()]
        except OSError:
            return 0, []
        finally:
            connection.close()

    def resident_kib(self) -> int:
        """Memory that the process occupies now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def terminate(self) -> None:
        """SIGTERM: the instance drains and ends by itself."""
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self) -> int:
        """The exit status of a process that was told to end."""
        return self.process.wait(timeout=STOP_SECONDS)

    def stop(self) -> None:
        """End it as an operator does, and fail unless it ended well and without an error in its log."""
        try:
            self.terminate()
            assert self.wait_exit() == 0, self._log.read_text()[-4000:]
        finally:
            self.kill()
        assert self.errors() == []

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def errors(self) -> list[dict[str, Any]]:
        """What the instance logged as an error: nothing that a peer does may cause one."""
        events = (json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{"))
        return [event for event in events if event.get("level") in ("error", "critical")]
