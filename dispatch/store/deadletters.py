"""What could not be delivered: dead letters, with everything that a person needs to judge them (DESIGN 5, P6)."""

from typing import Any, NamedTuple

import msgspec

from dispatch.keys import Keys
from dispatch.store.script import Call, Script


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a letter; its entry's `payload` and `moved_at` (Unix ms) are added when it is moved."""

    id: str = ""  #: of the event
    kind: str = ""
    target: str = ""  #: "node <id>" or "session <id>"
    job_id: str = ""
    session_id: str = ""  #: when the session was the target
    lease: str = ""
    reason: str  #: one of a few words
    first_error: str = ""
    last_error: str = ""
    deliveries: int = 0  #: how often it was tried
    source_instance: str = ""  #: instance that wrote the envelope
    created_at: int  #: Unix ms: when it was put into the inbox
    trace_id: str = ""


class Buried(NamedTuple):
    """The letter lies there."""

    id: str  #: its id among the dead letters
    displaced: int  #: old letters that made room for it


class DeadLetters:
    """Builds the calls; `limit` is how many letters are kept per instance, the oldest go first."""

    def __init__(self, keys: Keys, group: str, limit: int) -> None:
        self.keys = keys
        self.group = group
        self.limit = limit
        self._bury = Script.load("dlq_bury")

    def bury(self, instance: str, entry: str, letter: DeadLetter) -> Call[Buried | None]:
        """Move the entry out of the inbox of `instance` into its dead letters.

        None when the entry is not in the inbox any more: a repeated call, or Redis lost its data.
        """
        flat = [word for name, value in msgspec.structs.asdict(letter).items() for word in (name, value)]
        return self._bury.call(
            keys={"inbox": self.keys.inbox(instance), "dlq": self.keys.dlq(instance)},
            read=_buried,
            group=self.group,
            entry=entry,
            letter=flat,
            limit=self.limit,
        )

    def count(self, instance: str) -> Call[int]:
        """How many dead letters this instance has."""
        return Call(("XLEN", self.keys.dlq(instance)), int)


def _buried(reply: list[Any]) -> Buried | None:
    return None if reply[0] == b"already" else Buried(reply[1].decode(), int(reply[2]))
