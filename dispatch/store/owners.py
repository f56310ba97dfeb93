"""Who holds a peer's socket, under an epoch that no data loss sets back (DESIGN 5, P5)."""

from typing import Any, NamedTuple

from dispatch.keys import Keys, epoch_of
from dispatch.store.outcome import Reason, Refused
from dispatch.store.script import Call, Script


class Claimed(NamedTuple):
    """The socket is ours."""

    epoch: int  #: above every earlier one of this peer; microseconds of Redis' clock, unless that went back
    previous: str | None  #: instance that held the socket before, also when it is ourselves


class Owners:
    """Builds the calls; `owner_key` is `keys.node_owner(…)` or `keys.session_owner(…)`, times are in ms."""

    def __init__(self, keys: Keys, ttl_ms: int) -> None:
        self.keys = keys
        self.ttl_ms = ttl_ms
        self._claim = Script.load("owner_claim")
        self._renew = Script.load("owner_renew")
        self._release = Script.load("owner_release")

    def claim(self, owner_key: str, *, instance: str, above: int = 0) -> Call[Claimed]:
        """Take the socket for `instance`, whoever had it; `above` is an epoch that somebody else knows of (a cell)."""
        return self._claim.call(
            keys=_keys(owner_key), read=_claimed, instance=instance, above=above, ttl_ms=self.ttl_ms
        )

    def renew(self, owner_key: str, *, instance: str, epoch: int) -> Call[bool | Refused]:
        """Keep the socket on record: True, or False when the record was gone (data loss) and is back now.

        `Refused(MOVED, epoch)` when a later connection has it; only this closes a socket.
        """
        return self._renew.call(
            keys=_keys(owner_key), read=_renewed, instance=instance, epoch=epoch, ttl_ms=self.ttl_ms
        )

    def release(self, owner_key: str, *, epoch: int) -> Call[bool | Refused]:
        """Give the socket up: True, or `Refused(MOVED, epoch)` when a later connection has it and keeps it."""
        return self._release.call(keys=_keys(owner_key), read=_released, epoch=epoch, ttl_ms=self.ttl_ms)

    def owner(self, owner_key: str) -> Call[str | None]:
        """The instance that holds the socket; None when nobody does."""
        return Call(("GET", owner_key), _text_or_none)


def _keys(owner_key: str) -> dict[str, str]:
    return {"owner": owner_key, "latest": epoch_of(owner_key)}


def _claimed(reply: list[Any]) -> Claimed:
    return Claimed(int(reply[1]), reply[2].decode() or None)


def _renewed(reply: list[Any]) -> bool | Refused:
    return Refused(Reason.MOVED, reply[1].decode()) if reply[0] == b"moved" else reply[0] == b"renewed"


def _released(reply: list[Any]) -> bool | Refused:
    return Refused(Reason.MOVED, reply[1].decode()) if reply[0] == b"moved" else True


def _text_or_none(reply: bytes | None) -> str | None:
    return None if reply is None else reply.decode()
