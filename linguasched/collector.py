"""Tunes Python's collector of reference cycles for a process that holds thousands of sockets for hours.

A full collection looks at every object and stops everything meanwhile: about 0.1 ms for each open socket, a second for
ten thousand. With Python's own thresholds that happens several times a minute, also when nobody speaks, since the
server's periodic walks over all sockets make enough young objects to be promoted. With these it happens when sockets
that were closed have left something to collect.
"""

import gc

# A walk over all sockets makes one object for each: it must not fill the youngest generation (20 000 sockets at most).
# The other two bound what closed sockets leave behind until then: some thousand of them, or a quarter of the open ones.
THRESHOLDS = (25_000, 5, 2)


def tune() -> None:
    """Call once, when everything is imported: that lives as long as the process, and is looked at no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
