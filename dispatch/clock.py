"""Time, handed in, so that a test can hold it in its hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings: one to measure with, one to tell other machines."""

    def monotonic(self) -> float:
        """Seconds that never go back; means nothing to another process."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC; may jump."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
