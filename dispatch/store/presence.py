"""Which instances live: a life sign per instance id, and the list of all boots with their last one (DESIGN 5)."""

from typing import Any, NamedTuple

import msgspec

from dispatch.keys import Keys
from dispatch.store.outcome import Reason, Refused
from dispatch.store.script import Call, Script


class LifeSign(msgspec.Struct, frozen=True, kw_only=True):
    """The presence document: who lives under an instance id."""

    started_at: int  #: Unix ms of the boot; never rewritten
    hostname: str
    pid: int
    version: str
    boot: str  #: random id of this boot: together with the instance id the identity


class Boot(NamedTuple):
    """A boot on the list of instances."""

    instance: str
    boot: str
    age_ms: int  #: since its last life sign


class Presence:
    """Builds the calls. The life sign and the list lie in different slots, hence the calls come in pairs."""

    def __init__(self, keys: Keys, ttl_ms: int) -> None:
        self.keys = keys
        self.ttl_ms = ttl_ms
        self._claim = Script.load("presence_claim")
        self._renew = Script.load("presence_renew")
        self._remove = Script.load("presence_remove")
        self._touch = Script.load("instances_touch")
        self._list = Script.load("instances_list")

    def claim(self, instance: str, sign: LifeSign) -> Call[bool | Refused]:
        """Take the instance id for `sign.boot`: True, or `Refused(TAKEN, boot)` when another boot has it."""
        return self._claim.call(keys=self._keys(instance), read=_kept, **self._document(sign))

    def renew(self, instance: str, sign: LifeSign) -> Call[bool | Refused]:
        """Keep it: True, False when it was gone and is back, or `Refused(TAKEN, boot)` when another boot has it now."""
        return self._renew.call(keys=self._keys(instance), read=_kept, **self._document(sign))

    def remove(self, instance: str, boot: str) -> Call[bool | Refused]:
        """Give the instance id up: True, or `Refused(TAKEN, boot)` when another boot has it and keeps it."""
        return self._remove.call(keys=self._keys(instance), read=_kept, boot=boot)

    def left_ms(self, instance: str) -> Call[int]:
        """How long the life sign of this instance holds without being renewed; negative when there is none."""
        return Call(("PTTL", self.keys.presence(instance)), int)

    def find(self, instance: str) -> Call[LifeSign | None]:
        """The life sign of an instance; None when it gives none."""
        return Call(("GET", self.keys.presence(instance)), _life_sign)

    def touch_instances(self, instance: str, boot: str) -> Call[bool]:
        """Note in the list that this boot lives; False when it was not there (its start, or data loss)."""
        return self._touch.call(keys={"instances": self.keys.instances}, read=_was_listed, member=f"{instance} {boot}")

    def forget_instance(self, instance: str, boot: str) -> Call[Any]:
        """Take this boot off the list."""
        return Call(("ZREM", self.keys.instances, f"{instance} {boot}"), int)

    def instances(self) -> Call[list[Boot]]:
        """Every boot on the list, the one silent for longest first."""
        return self._list.call(keys={"instances": self.keys.instances}, read=_boots)

    def _keys(self, instance: str) -> dict[str, str]:
        return {"presence": self.keys.presence(instance)}

    def _document(self, sign: LifeSign) -> dict[str, Any]:
        return {"boot": sign.boot, "document": msgspec.json.encode(sign).decode(), "ttl_ms": self.ttl_ms}


def _kept(reply: list[Any]) -> bool | Refused:
    return Refused(Reason.TAKEN, reply[1].decode()) if reply[0] == b"taken" else reply[0] != b"restored"


def _was_listed(reply: list[Any]) -> bool:
    return bool(reply[0] == b"ok")


def _life_sign(reply: bytes | None) -> LifeSign | None:
    return None if reply is None else msgspec.json.decode(reply, type=LifeSign)


def _boots(reply: list[Any]) -> list[Boot]:
    listed = reply[1]
    boots = []
    for member, age_ms in zip(listed[::2], listed[1::2], strict=True):
        instance, _, boot = member.decode().partition(" ")
        boots.append(Boot(instance, boot, age_ms))
    return boots
