"""Runs instances as separate processes, the way an operator does, for measurements and stories."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

_START_SECONDS = 30.0
_STOP_SECONDS = 40.0


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def instance(
    server: str, name: str, data_dir: Path, *, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[str]:
    """An instance under `daphne` or `uvicorn`, ready; gives its URL (`ws://…`) and stops it with SIGTERM afterwards.

    Raises `RuntimeError` when it does not become ready, or does not end with 0.
    """
    port = free_port()
    at = {
        "daphne": ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port)],
        "uvicorn": ["-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"],
    }[server]
    variables = {
        "LINGUASCHED_DATA_DIR": str(data_dir),
        "LINGUASCHED__SCHEDULER__PHASE2__ENABLED": "true",
        "LINGUASCHED__SCHEDULER__PHASE2__INSTANCE_ID": name,
        "LINGUASCHED_LOG_LEVEL": "WARNING",
    }
    path = log or data_dir / f"{name}.log"
    with path.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own server, with arguments made here
            [sys.executable, *at, "linguasched.asgi:application"],
            env=os.environ | variables | dict(environment or {}),
            cwd=Path(__file__).resolve().parents[2],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(process, port, path)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        code = process.wait(_STOP_SECONDS)
    if code != 0:
        raise RuntimeError(f"{name} under {server} ended with {code}: {path.read_text()[-2000:]}")


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the instance ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the instance was not ready after {_START_SECONDS:g} s: {log.read_text()[-2000:]}")
