"""Groups join the utterances of a session that belong to one conversation turn (PROTOCOL 7.5).

A part joins while the last playback ended at most two seconds ago; without a report of playback the group's last part
counts instead of its creation, or a group would live two seconds however lively the talk (PHASE3 8).
"""

_JOIN_SECONDS = 2.0
_MAX_PARTS = 8
_MAX_CHARS = 800


class Groups:
    """The current group of one session; times are monotonic seconds."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._id = ""
        self._parts = 0
        self._chars = 0
        self._anchor = 0.0

    def join(self, text: str, *, now: float, now_ms: int) -> tuple[str, int]:
        """The group and the part index (from 0) for a new result with this text."""
        fits = self._parts < _MAX_PARTS and self._chars + len(text) <= _MAX_CHARS
        if not self._id or not fits or now - self._anchor > _JOIN_SECONDS:
            self._id = f"group_{self._session}_{now_ms}"
            self._parts = self._chars = 0
        self._anchor = now
        self._chars += len(text)
        self._parts += 1
        return self._id, self._parts - 1

    def playback_ended(self, group: str, *, now: float) -> None:
        """The client has played this group to its end."""
        if group == self._id:
            self._anchor = now
