"""Auditor: what a cell keeps about its nodes is recomputed, and what is untrue is said aloud."""

from dispatch import metrics
from dispatch.placement import DEFAULT_CELL
from dispatch.roles.auditor import Auditor
from dispatch.store.client import command
from tests.dispatch.service.stand import Stand


def faults() -> float:
    return float(metrics.cell_faults._value.get())


async def test_a_true_cell_gives_no_fault_and_an_untrue_one_does(client, prefix, clock):
    stand = await Stand(client, prefix, clock).start()
    try:
        await stand.node()
        auditor = stand.role(Auditor)
        before = faults()
        await auditor.turn()
        assert faults() == before
        # A bug that loses a free node: the list of free slots no longer has it.
        await client.run(command("DEL", stand.instance.core.keys.cell(DEFAULT_CELL)["free"]))
        await auditor.turn()
        assert faults() > before
    finally:
        await stand.close()


async def test_cells_of_other_instances_are_theirs_to_audit(client, prefix, clock):
    stand = await Stand(client, prefix, clock).start()
    try:
        await stand.node()
        await client.run(command("DEL", stand.instance.core.keys.cell(DEFAULT_CELL)["free"]))
        before = faults()
        await Auditor(stand.instance.core, lambda cell: False).turn()
        assert faults() == before
    finally:
        await stand.close()
