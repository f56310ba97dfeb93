"""Cuts a session's stream of audio chunks into utterances (PROTOCOL 7.1, with its defects repaired).

Pure: no clock, no timer, no task. Whoever drives a `Cutter` says what time it is, asks when to come back, and gets
the same cuts however late or often it comes:

    cutter.feed(audio, is_final=False, now=now)
    for cut in cutter.due(now): ...
    sleep until cutter.next_deadline()

A chunk first joins the *open* audio. A trigger turns the open audio into a *pending* cut, which matures after the
hangover; chunks that come meanwhile are open audio of the next utterance. What differs from the first generation:

- The web client's silence detector sends its empty final just before the last audio (9.1 no. 5). So audio that comes
  soon after an empty final, during its hangover, joins that utterance, also when there was nothing else in it.
- A cut too short to be an utterance waits half a second for what follows and leads it; when nothing follows, the
  timer sends it alone.
- Every cut has exactly one flag, since real nodes hoard audio that has none (9.2 no. 3): a cut by length counts as
  timed out, the end of the session as manual, because nothing follows that a node could wait for.
- Silence, however long, ends nothing.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from dispatch.conf import WebTaskSegmentation

Reason = Literal["manual", "pause", "timeout", "max_duration", "max_length", "close"]
Flag = Literal["is_manual_cut", "is_pause_triggered", "is_timeout_triggered"]

_FLAG: Final[dict[Reason, Flag]] = {
    "manual": "is_manual_cut",
    "pause": "is_pause_triggered",
    "timeout": "is_timeout_triggered",
    "max_duration": "is_timeout_triggered",
    "max_length": "is_timeout_triggered",
    "close": "is_manual_cut",
}

_MERGE_SECONDS = (
    0.5  #: how long a cut that is too short waits for what it could lead; a spoken "yes" must not wait long
)

_OPUS_PACKET_MS = 20
_OPUS_PACKETS_COUNTED = 16_384  # five minutes; counting on would only cost time
_OPUS_PACKET_BYTES = 60  # the protocol's estimate for streams that are not length-prefixed packets


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """One utterance, ready to become a job."""

    index: int  #: `utterance_index`: counts on by one from the session's start
    audio: bytes
    reason: Reason
    padding_ms: int  #: silence that the node appends
    flag: Flag  #: the one cut flag of `job_assign`


@dataclass(slots=True)
class _Audio:
    """Bytes in order, and how long they last."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    duration_ms: int = 0
    heard_at: float = 0.0  #: when the last of it came

    def add(self, audio: bytes, duration_ms: int, now: float) -> None:
        self.parts.append(audio)
        self.size += len(audio)
        self.duration_ms += duration_ms
        self.heard_at = now

    def lead(self, following: "_Audio") -> "_Audio":
        """This audio and then the following."""
        return _Audio(
            self.parts + following.parts,
            self.size + following.size,
            self.duration_ms + following.duration_ms,
            max(self.heard_at, following.heard_at),
        )


@dataclass(slots=True)
class _Pending:
    """Audio that a trigger has closed, in its hangover."""

    audio: _Audio
    reason: Reason
    due: float
    takes_until: float | None  #: late audio joins up to here; `None` = it does not


class Cutter:
    """The audio of one session that is not yet cut. Times are seconds of one monotonic clock."""

    def __init__(
        self,
        settings: WebTaskSegmentation,
        start_index: int = 0,
        *,
        audio_format: str = "opus",
        sample_rate: int = 16_000,
    ) -> None:
        self._settings = settings
        self._format = (audio_format, sample_rate)
        self._pause = settings.pause_ms / 1000
        self._open = _Audio()
        self._pause_ends: float | None = None  # when the open audio is cut unless a chunk comes
        self._pending: deque[_Pending] = deque()
        self._matured: list[Cut] = []
        self._matured_at = 0.0
        self._last_chunk: float | None = None
        self.next_index = start_index  #: index of the next cut; silence consumes none

    @property
    def buffered_bytes(self) -> int:
        """Audio that was fed and not yet handed out."""
        waiting = sum(pending.audio.size for pending in self._pending) + sum(len(cut.audio) for cut in self._matured)
        return self._open.size + waiting

    def feed(self, audio: bytes, *, is_final: bool, now: float) -> None:
        """Takes one chunk. Call `due` afterwards: some triggers cut at once."""
        self._advance(now)
        gap = 0.0 if self._last_chunk is None else now - self._last_chunk
        self._last_chunk = now
        if self._joins_pending(audio, now):
            return
        if audio:
            self._open.add(audio, audio_duration_ms(audio, *self._format), now)
        reason = self._trigger(gap, is_final=is_final)
        if reason is None:
            self._pause_ends = now + self._pause
        else:
            self._close_open(reason, now, takes_late=is_final and not audio)
        self._advance(now)

    def next_deadline(self) -> float | None:
        """When `due` has something to do, perhaps a time in the past; `None` = not before the next chunk."""
        if self._matured:
            return self._matured_at
        return self._next_event()

    def due(self, now: float) -> list[Cut]:
        """The cuts that are ready, in order."""
        self._advance(now)
        ready, self._matured = self._matured, []
        return ready

    def close(self) -> list[Cut]:
        """Everything that is left, at once: the session has ended, nothing more will come."""
        if self._open.size:
            self._pending.append(_Pending(self._open, "close", self._open.heard_at, None))
            self._open = _Audio()
        self._pause_ends = None
        while self._pending:
            self._mature(self._pending.popleft(), last=not self._pending)
        ready, self._matured = self._matured, []
        return ready

    def _trigger(self, gap: float, *, is_final: bool) -> Reason | None:
        """Why the open audio is cut now, by the rules 1 to 4 of PROTOCOL 7.1: a later one replaces an earlier."""
        reason: Reason | None = None
        if gap > self._pause:
            reason = "pause"
        if self._open.duration_ms >= self._settings.max_duration_ms:
            reason = "max_duration"
        if is_final:
            reason = "manual"
        if self._open.size > self._settings.max_bytes:
            reason = "max_length"
        return reason

    def _joins_pending(self, audio: bytes, now: float) -> bool:
        """Whether the chunk belongs to an utterance that an empty final has just ended; a second final adds nothing."""
        if not self._pending or self._open.size:
            return False
        last = self._pending[-1]
        if last.takes_until is None or now > last.takes_until:
            return False
        if audio:
            last.audio.add(audio, audio_duration_ms(audio, *self._format), now)
        if last.audio.size > self._settings.max_bytes:
            last.reason = "max_length"
            self._hurry(now)
        self._advance(now)
        return True

    def _close_open(self, reason: Reason, now: float, *, takes_late: bool) -> None:
        """Turns the open audio into a pending cut. Without audio there is none, but late audio may still make one."""
        self._pause_ends = None
        if not self._open.size and not takes_late:
            return
        if reason == "max_length":
            self._hurry(now)
        edge = self._settings.edge_stabilization
        hangover_ms = {"manual": edge.hangover_manual_ms, "max_length": 0}.get(reason, edge.hangover_auto_ms)
        due = now + hangover_ms / 1000  # earlier cuts that are due later still leave first
        takes_until = now + self._settings.late_audio_ms / 1000 if takes_late else None
        self._pending.append(_Pending(self._open, reason, due, takes_until))
        self._open = _Audio()

    def _hurry(self, now: float) -> None:
        """Ends all hangovers, since cuts leave in order and one of them may not wait."""
        for pending in self._pending:
            pending.due = min(pending.due, now)

    def _next_event(self) -> float | None:
        events = [self._pending[0].due] if self._pending else []
        if self._pause_ends is not None and self._open.size:
            events.append(self._pause_ends)
        return min(events, default=None)

    def _advance(self, now: float) -> None:
        """Lets everything happen that was to happen until now, each thing at its own time."""
        while (event := self._next_event()) is not None and event <= now:
            if self._pending and self._pending[0].due <= event:
                self._mature(self._pending.popleft(), last=False)
            else:
                self._close_open("timeout", event, takes_late=False)

    def _mature(self, pending: _Pending, *, last: bool) -> None:
        """Makes a cut of it, or lets it lead what follows when it is too short to stand alone."""
        audio, edge = pending.audio, self._settings.edge_stabilization
        if not audio.size:
            return
        if audio.duration_ms < edge.short_merge_threshold_ms and pending.reason != "timeout" and not last:
            if self._pending:
                self._pending[0].audio = audio.lead(self._pending[0].audio)
            else:
                self._open = audio.lead(self._open)
                self._pause_ends = self._open.heard_at + min(self._pause, _MERGE_SECONDS)
            return
        padding = {"manual": edge.padding_manual_ms, "max_length": 0}.get(pending.reason, edge.padding_auto_ms)
        if not self._matured:
            self._matured_at = pending.due
        self._matured.append(
            Cut(
                index=self.next_index,
                audio=b"".join(audio.parts),
                reason=pending.reason,
                padding_ms=padding,
                flag=_FLAG[pending.reason],
            )
        )
        self.next_index += 1


def audio_duration_ms(data: bytes, audio_format: str, sample_rate: int) -> int:
    """How long the audio lasts, in ms.

    `opus` in the length-prefixed form (PROTOCOL 2.1) is counted exactly, 20 ms a packet; other `opus` is estimated at
    60 bytes a packet. Everything else is taken for 16-bit mono samples at `sample_rate` Hz.
    """
    if audio_format != "opus":
        return len(data) * 1000 // (2 * sample_rate)
    packets = _count_packets(data)
    return (len(data) // _OPUS_PACKET_BYTES if packets is None else packets) * _OPUS_PACKET_MS


def _count_packets(data: bytes) -> int | None:
    """Packets of a stream of `[u16 little-endian length][packet]`; `None` when it is no such stream."""
    position, packets, end = 0, 0, len(data)
    while position + 2 < end and packets < _OPUS_PACKETS_COUNTED:
        length = data[position] | data[position + 1] << 8
        if not length:
            return None
        position += 2 + length
        packets += 1
    return packets if position == end else None
