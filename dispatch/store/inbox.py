"""The inbox of an instance: a stream of envelopes, never trimmed over what is unread (DESIGN 5, P6)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from dispatch.errors import BrokenScript
from dispatch.keys import Keys
from dispatch.store.client import RedisClient
from dispatch.store.outcome import Reason, Refused
from dispatch.store.script import Call, Script

FROM_THE_START = "0-0"  #: cursor of the first page of `take`, and after the last one

_UNOPENED_MS = 600_000  #: how long an inbox lives that nobody has opened; longer than any envelope matters
_GRACE_SECONDS = 1.0  #: how long a blocking read may overrun its time before the connection counts as dead
_GROUP_IS_GONE = ("NOGROUP", "UNBLOCKED")  #: the second while the read was waiting, before Redis 7


class Entry(NamedTuple):
    """What lies in an inbox."""

    id: str  #: `<ms>-<n>`, given by Redis
    payload: bytes  #: an encoded envelope; empty when the entry has no such field

    @property
    def created_ms(self) -> int:
        """Redis' clock when the entry was put in, Unix ms."""
        return int(self.id.partition("-")[0])


class Page(NamedTuple):
    """Entries taken up again."""

    cursor: str  #: where the next page begins; `FROM_THE_START` when this was the last
    entries: list[Entry]


class Failed(NamedTuple):
    """An envelope could not be delivered now; it is tried again."""

    error: str  #: for the dead letter: what happened, without what people said


#: What became of an envelope: `DONE`, "dropped:<one of a few words>" when nobody wants it, or failed.
Delivery = str | Failed
DONE = "done"


class Inbox:
    """Builds the calls; the one blocking read runs by itself, since it has a connection of its own."""

    def __init__(self, keys: Keys, group: str) -> None:
        self.keys = keys
        self.group = group
        self._open = Script.load("inbox_open")
        self._put = Script.load("inbox_put")
        self._take = Script.load("inbox_take")
        self._ack = Script.load("inbox_ack")
        self._close = Script.load("inbox_close")

    def put(self, instance: str, envelope: bytes, *, limit: int) -> Call[str | Refused]:
        """Put an encoded envelope into the inbox of `instance`: its entry id, or `Refused(FULL, length)`."""
        return self._put.call(
            keys=self._keys(instance), read=_put, payload=envelope, limit=limit, unopened_ms=_UNOPENED_MS
        )

    def ensure_group(self, instance: str) -> Call[bool]:
        """Make the group that reads the inbox; True when it was missing."""
        return self._open.call(keys=self._keys(instance), read=_created, group=self.group)

    def take(self, instance: str, *, idle_ms: int, count: int, cursor: str = FROM_THE_START) -> Call[Page]:
        """Take up again up to `count` entries that were read at least `idle_ms` ago and never acknowledged.

        For an instance that comes back under its old id, and for answers that got lost on their way.
        """
        return self._take.call(
            keys=self._keys(instance),
            read=_page,
            group=self.group,
            consumer=instance,
            idle_ms=idle_ms,
            cursor=cursor,
            count=count,
        )

    def ack(self, instance: str, entries: Sequence[str]) -> Call[Any]:
        """These entries (at least one) are dealt with: acknowledged and deleted in one step."""
        return self._ack.call(keys=self._keys(instance), read=_ok, group=self.group, entries=list(entries))

    def close(self, instance: str) -> Call[bool]:
        """Remove the inbox of an instance that ends; False when something lies in it, which stays for a while."""
        return self._close.call(keys=self._keys(instance), read=_closed, unopened_ms=_UNOPENED_MS)

    def length(self, instance: str) -> Call[int]:
        """Entries in the inbox, those in hand included."""
        return Call(("XLEN", self.keys.inbox(instance)), int)

    async def read(self, client: RedisClient, instance: str, *, count: int, block_ms: int) -> list[Entry]:
        """Wait up to `block_ms` for new entries; an empty list when none came, or when the group had to be made anew.

        Raises:
            DependencyDown: no answer came; it may have held entries that nobody saw: `take` finds them.
            BrokenScript: Redis answered with an error that no retry mends.
        """
        key = self.keys.inbox(instance)
        call = Call(
            ("XREADGROUP", "GROUP", self.group, instance, "COUNT", count, "BLOCK", block_ms, "STREAMS", key, ">"), _new
        )
        try:
            return await client.wait(call, seconds=block_ms / 1000 + _GRACE_SECONDS)
        except BrokenScript as error:
            if not str(error.__cause__).startswith(_GROUP_IS_GONE):
                raise
        await client.run(self.ensure_group(instance))
        return []

    def _keys(self, instance: str) -> dict[str, str]:
        return {"inbox": self.keys.inbox(instance)}


def _ok(reply: list[Any]) -> bool:
    return bool(reply[0] == b"ok")


def _closed(reply: list[Any]) -> bool:
    return bool(reply[0] == b"closed")


def _created(reply: list[Any]) -> bool:
    return bool(reply[0] == b"created")


def _put(reply: list[Any]) -> str | Refused:
    return Refused(Reason.FULL, reply[1].decode()) if reply[0] == b"full" else reply[1].decode()


def _page(reply: list[Any]) -> Page:
    _, cursor, entries = reply
    return Page(cursor.decode(), [_entry(id, dict(zip(flat[::2], flat[1::2], strict=True))) for id, flat in entries])


def _new(reply: list[Any]) -> list[Entry]:
    """`[[key, [(id, {name: value})]]]`, as redis-py hands it out; an empty list when no entry came."""
    return [_entry(id, fields) for _, entries in reply for id, fields in entries]


def _entry(id: bytes, fields: dict[bytes, bytes]) -> Entry:
    return Entry(id.decode(), fields.get(b"payload", b""))
