"""The sockets open in this process: who is at the other end, and the way to it.

A peer that connects again replaces its old link; the old one's clean-up, however late, removes nothing but itself
(PHASE2 W7).
"""

import asyncio
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

Link = TypeVar("Link")
Some = TypeVar("Some", covariant=True)


class Lookup(Protocol[Some]):
    """The reading side of an exchange, for whoever needs only a part of what its links can do."""

    def get(self, peer: str) -> Some | None: ...


class Exchange(Generic[Link]):
    """Links by peer id."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self.empty = asyncio.Event()  #: set while no link is in
        self.empty.set()

    def plug(self, peer: str, link: Link) -> Link | None:
        """Put the link in; answers the one it replaced, which the caller has to end."""
        replaced = self._links.get(peer)
        self._links[peer] = link
        self.empty.clear()
        return replaced if replaced is not link else None

    def unplug(self, peer: str, link: Link) -> bool:
        """Take the link out, unless another one has replaced it by now."""
        if self._links.get(peer) is not link:
            return False
        del self._links[peer]
        if not self._links:
            self.empty.set()
        return True

    def get(self, peer: str) -> Link | None:
        return self._links.get(peer)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def __len__(self) -> int:
        return len(self._links)
