"""Asks once a second what became of this instance's open utterances, and ends those past their deadline.

So losing an envelope, an instance or the data of Redis costs a second, not a job (DESIGN 5).
"""

from collections import defaultdict

from dispatch.connections.session import Utterance
from dispatch.errors import DependencyDown
from dispatch.roles.base import Role
from dispatch.service.core import Core
from dispatch.service.jobs import Jobs
from dispatch.service.sessions import SessionLink
from dispatch.switchboard import Exchange

_PAGE = 256  #: jobs asked about in one call


class UtteranceWatch(Role):
    """One turn looks at every session that waits for something."""

    name = "utterance_watch"

    def __init__(self, core: Core, jobs: Jobs, sessions: "Exchange[SessionLink]") -> None:
        super().__init__(core.clock, 1.0)
        self._core = core
        self._jobs = jobs
        self._sessions = sessions

    async def turn(self) -> None:
        now = self._core.clock.monotonic()
        asked: dict[str, list[tuple[SessionLink, Utterance]]] = defaultdict(list)
        for link in self._sessions:
            if link.idle.is_set():
                continue
            link.overdue(now)
            for utterance in link.unsettled(now):
                asked[utterance.cell].append((link, utterance))
        pages = [
            (cell, pairs[start : start + _PAGE])
            for cell, pairs in asked.items()
            for start in range(0, len(pairs), _PAGE)
        ]
        for number, (cell, pairs) in enumerate(pages):
            try:
                await self._ask(cell, pairs)
            except DependencyDown:
                # Nobody else is asked about now: each would wait as long, and deadlines have to be kept.
                for link, utterance in (pair for _, rest in pages[number:] for pair in rest):
                    link.untold(utterance)
                raise

    async def _ask(self, cell: str, pairs: list[tuple[SessionLink, Utterance]]) -> None:
        views = await self._jobs.states(cell, [utterance.job for _, utterance in pairs])
        for (link, utterance), view in zip(pairs, views, strict=True):
            link.told(utterance, view)
