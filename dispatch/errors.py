"""What can go wrong in dispatch that is nobody's answer: the whole tree.

DispatchError
├── DependencyDown      Redis did not answer in time, or cannot take writes now: *unknown*, never *no* (P7)
├── BrokenScript        a Lua script failed or answered in words that nobody knows
└── IdentityTaken       another living process uses this instance id
"""


class DispatchError(Exception):
    """Base of all errors that dispatch raises; the text is written for an operator."""


class DependencyDown(DispatchError):
    """Redis did not answer in time, or cannot take writes now. The state of what was asked is unknown; ask again."""


class BrokenScript(DispatchError):
    """A Lua script failed, or answered in words that nobody knows: a programming error, never a lost race."""


class IdentityTaken(DispatchError):
    """Another living process uses this instance id. Give every process its own `scheduler.phase2.instance_id`."""
