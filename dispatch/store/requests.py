"""One request makes one job: the binding of a request's key to its job, created or found in one step (P3)."""

import hashlib
from typing import Any, NamedTuple

from dispatch.keys import Keys
from dispatch.store.script import Call, Script


class Binding(NamedTuple):
    """The job of a request. Whoever proposed another one drops what he stored for it."""

    job: str
    cell: str
    gen: int  #: how often the job has moved between cells, from 1
    fresh: bool  #: made by this very call; a repeated call finds the same job and says False


class Requests:
    """Builds the calls."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._bind = Script.load("bind_request")

    def bind(self, request_key: str, *, job: str, cell: str, ttl_ms: int, gen: int = 1) -> Call[Binding]:
        """Bind the request to the job proposed, or answer with what it is bound to.

        `request_key` is free text of a client (session, idempotency key and target language). Who bound before
        proposes its own job, cell and generation again, and wins if data loss left nothing there.
        """
        # Hashed: free text, of any length and with any braces, must not choose our keys and their slots.
        digest = hashlib.blake2b(request_key.encode(), digest_size=16).hexdigest()
        return self._bind.call(
            keys={"binding": self.keys.request(digest)}, read=_binding, job=job, cell=cell, gen=gen, ttl_ms=ttl_ms
        )


def _binding(reply: list[Any]) -> Binding:
    word, job, cell, gen = reply
    return Binding(job.decode(), cell.decode(), int(gen), word == b"created")
