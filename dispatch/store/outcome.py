"""What a script answers when a race was lost: values, not exceptions."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why something was not done."""

    FULL = "full"  #: the inbox is at its high-water mark
    MOVED = "moved"  #: somebody else owns the peer by now
    FENCED = "fenced"  #: a later connection of the same peer has taken over
    TAKEN = "taken"  #: another living process uses this instance id


class Refused(NamedTuple):
    """Not done, for a reason that the caller can act on; `detail` is the epoch, owner or length that refused."""

    reason: Reason
    detail: str = ""
