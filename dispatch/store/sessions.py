"""The session record: what an instance must know to answer for a session whose connection was elsewhere (DESIGN 5)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dispatch.keys import Keys
from dispatch.store.client import mapping
from dispatch.store.outcome import Reason, Refused
from dispatch.store.script import Call, Script

_OWN_FIELDS = ("epoch", "instance", "src", "tgt")


class Entry(NamedTuple):
    """Where an utterance stands for one target language."""

    job: str
    cell: str


class SessionRecord(NamedTuple):
    """The record as it lies there. After data loss entries may come back before the rest: then `epoch` is 0."""

    epoch: int
    instance: str
    src: str
    tgt: str
    entries: dict[tuple[int, str], Entry]  #: by utterance index and target language


class Sessions:
    """Builds the calls; `ttl_ms` is how long the record stays without being renewed."""

    def __init__(self, keys: Keys, ttl_ms: int) -> None:
        self.keys = keys
        self.ttl_ms = ttl_ms
        self._open = Script.load("session_open")
        self._enter = Script.load("session_enter")
        self._close = Script.load("session_close")

    def open(self, session: str, *, epoch: int, instance: str, src: str, tgt: str) -> Call[bool | Refused]:
        """Write the record for the session's present connection; called again with the owner, it keeps it alive.

        `Refused(FENCED, epoch)` when a later connection has the session. Entries of earlier connections stay.
        """
        return self._open.call(
            keys=self._keys(session),
            read=_outcome,
            epoch=epoch,
            instance=instance,
            src=src,
            tgt=tgt,
            ttl_ms=self.ttl_ms,
        )

    def enter(self, session: str, index: int, target: str, *, job: str, cell: str) -> Call[Any]:
        """Note the job of an utterance; sent in the same flush as `Requests.bind`."""
        return self._enter.call(
            keys=self._keys(session), read=_ok, utterance=f"{index} {target}", job=f"{job} {cell}", ttl_ms=self.ttl_ms
        )

    def settle(self, session: str, entries: Sequence[tuple[int, str]]) -> Call[Any]:
        """The session has the results of these (index, target); at least one."""
        return Call(("HDEL", self.keys.session(session), *(f"{index} {target}" for index, target in entries)), int)

    def record(self, session: str) -> Call[SessionRecord | None]:
        """The record; None when the session is unknown, expired or lost."""
        return Call(("HGETALL", self.keys.session(session)), _record)

    def close(self, session: str, *, epoch: int) -> Call[bool | Refused]:
        """The session has ended: True, or `Refused(FENCED, epoch)` when a later connection has it and keeps it."""
        return self._close.call(keys=self._keys(session), read=_outcome, epoch=epoch)

    def _keys(self, session: str) -> dict[str, str]:
        return {"record": self.keys.session(session)}


def _ok(reply: list[Any]) -> bool:
    return bool(reply[0] == b"ok")


def _outcome(reply: list[Any]) -> bool | Refused:
    return Refused(Reason.FENCED, reply[1].decode()) if reply[0] == b"fenced" else True


def _record(reply: Any) -> SessionRecord | None:
    fields = mapping(reply)
    if not fields:
        return None
    epoch, instance, src, tgt = (fields.pop(name, "") for name in _OWN_FIELDS)
    entries = {}
    for utterance, entry in fields.items():
        index, target = utterance.split(" ", 1)
        entries[int(index), target] = Entry(*entry.split(" ", 1))
    return SessionRecord(int(epoch or 0), instance, src, tgt, entries)
