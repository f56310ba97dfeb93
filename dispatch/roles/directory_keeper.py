"""Keeps level 1's figures fresh: once a second, the classes of every cell and how many of their nodes are free.

Also keeps the shared list of cells, by which a new incarnation anywhere is known everywhere within a second, and the
list of the nodes' last beats.
"""

from dispatch.placement import CellFigures, Directory
from dispatch.roles.base import Role
from dispatch.service.core import Core
from dispatch.store.client import command, mapping

_FORGOTTEN = 200  #: nodes forgotten in one turn


class DirectoryKeeper(Role):
    """One turn reads the list of cells and the figures of each."""

    name = "directory_keeper"

    def __init__(self, core: Core, directory: Directory) -> None:
        super().__init__(core.clock, core.config.scheduler.phase2.node_snapshot.refresh_interval_ms / 1000)
        self._core = core
        self._directory = directory

    async def turn(self) -> None:
        await self._core.publish_cells()
        for cell in list(self._core.incarnations):
            await self._read(cell)
        await self._forget()

    async def _forget(self) -> None:
        """Take nodes that nobody has seen for long off the lists, whoever died before doing so."""
        patience = self._core.config.scheduler.phase2.node_snapshot.remove_stale_after_seconds
        if not patience:
            return
        run, keys, before = self._core.client.run, self._core.keys, self._core.clock.wall_ms() - patience * 1000
        gone = await run(command("ZRANGEBYSCORE", keys.nodes_last_seen, "-inf", before, "LIMIT", 0, _FORGOTTEN))
        if gone:
            await run(command("SREM", keys.nodes_all, *gone))
            await run(command("ZREM", keys.nodes_last_seen, *gone))

    async def _read(self, cell: str) -> None:
        keys = self._core.keys.cell(cell)
        counts, members = await self._core.client.flush(
            command("HGETALL", keys["free_counts"]), command("HKEYS", keys["members"])
        )
        known = self._directory.cells.get(cell)
        tokens = known.classes if known else {}
        present = [each.decode() for each in members if each]
        unknown = [each for each in present if each not in tokens]
        if unknown:
            # A class id is the hash of its tokens, so what was read once stays true.
            found = await self._core.client.run(command("HMGET", keys["classes"], *unknown))
            tokens = tokens | {each: text.decode() for each, text in zip(unknown, found, strict=True) if text}
        classes = {each: tokens[each] for each in present if each in tokens}
        free = {each: int(count) for each, count in mapping(counts).items() if each}
        if known is not None and known.classes.keys() == classes.keys():
            classes = known.classes
        self._directory.cells[cell] = CellFigures(classes, free)
