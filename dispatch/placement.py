"""Level 1: which cell, and which classes of nodes inside it (DESIGN 4).

Pure and synchronous over a small directory of figures that are at most a second old. A stale figure costs a look, never
a free node: the cell looks for itself when none of the hints holds.
"""

import msgspec

from dispatch.languages import fits

HINTS = 16  #: classes passed along at most
DEFAULT_CELL = "default#0"


class CellFigures(msgspec.Struct, frozen=True):
    """What is known of a cell: tokens of its classes, and how many of their nodes have a free slot."""

    classes: dict[str, str]
    free: dict[str, int]


class Choice(msgspec.Struct, frozen=True):
    """Where a job goes, and why."""

    cell: str
    hints: tuple[str, ...]  #: class ids that fit and had a free node, the narrowest first
    fitting: int  #: classes that fit at all


class Directory:
    """The newest figures of every cell, replaced whole by the directory keeper."""

    def __init__(self) -> None:
        self.cells: dict[str, CellFigures] = {}

    def choose(self, kind: str) -> Choice:
        """The cell for a job of this kind (`tokens|tenant`)."""
        figures = self.cells.get(DEFAULT_CELL)
        if figures is None:
            return Choice(DEFAULT_CELL, (), 0)
        needs = kind.partition("|")[0]
        fitting = [each for each, tokens in figures.classes.items() if fits(needs, tokens)]
        # The narrowest class first, so that versatile nodes stay free for what only they can do.
        free = sorted((len(figures.classes[each]), each) for each in fitting if figures.free.get(each, 0) > 0)
        return Choice(DEFAULT_CELL, tuple(each for _, each in free[:HINTS]), len(fitting))
