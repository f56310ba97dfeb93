"""What is too large for a script: the speech of a job and what a node answered, as plain keys with a TTL (DESIGN 3)."""

from typing import Any

from dispatch.keys import Keys
from dispatch.store.client import command
from dispatch.store.script import Call


class Payloads:
    """Builds the calls; all are plain commands, and any of them may be repeated."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def put_payload(self, job: str, body: str | bytes, ttl_ms: int) -> Call[Any]:
        """Store the JSON members of the assignment, speech included."""
        return command("SET", self.keys.payload(job), body, "PX", ttl_ms)

    def get_payload(self, job: str) -> Call[bytes | None]:
        """What was stored for this job; None when it is over, expired or lost."""
        return command("GET", self.keys.payload(job))

    def put_result(self, job: str, lease: str, frame: str | bytes, ttl_ms: int) -> Call[Any]:
        """Store what the node of this lease answered."""
        return command("SET", self.keys.result(job, lease), frame, "PX", ttl_ms)

    def get_result(self, job: str, lease: str) -> Call[bytes | None]:
        """What the node of this lease answered; None when it is delivered, expired or lost."""
        return command("GET", self.keys.result(job, lease))

    def drop(self, job: str, lease: str = "") -> Call[Any]:
        """Both, in one command: the job is over, and the session has what the node of `lease` answered."""
        results = (self.keys.result(job, lease),) if lease else ()
        return command("UNLINK", self.keys.payload(job), *results)
