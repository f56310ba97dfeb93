"""`make bench`: what a decision costs, and what whole jobs cost, on this machine, now.

    python -m tests.load.bench [decision] [jobs] [--rounds N] [--json FILE]

Quote ratios and medians; the machine and the hour belong to them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dispatch.conf import Redis
from dispatch.store.client import connect
from linguasched.embedded import binary
from linguasched.redis_server import RedisServer
from ops.peers.load import race
from tests.load.decision import costs, rates
from tests.load.servers import instance

_FLEETS: tuple[tuple[int, int, int | None], ...] = (
    (100, 1, None),
    (10_000, 1, None),
    (100_000, 1, None),
    (100, 50, None),
    (10_000, 50, None),
    (100_000, 50, None),
    (1_000, 50, 5),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["decision", "jobs"], help="what to measure (everything)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args()
    parts = options.parts or ["decision", "jobs"]
    console = Console()
    console.print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {options.rounds} rounds")
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    if "decision" in parts:
        figures |= asyncio.run(_decision(console, options.rounds))
    if "jobs" in parts:
        figures["jobs"] = _jobs(console, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


async def _decision(console: Console, rounds: int) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as home,
        RedisServer(binary(), Path(home) / "redis.sock", directory=Path(home)) as server,
    ):
        client = connect(Redis(timeout_ms=5000), server.url)
        fleets = await costs(client, _FLEETS, rounds=rounds)
        rate = await rates(client, rounds=rounds)
        await client.aclose()
    table = Table("nodes", "classes", "job_submit in Redis, µs", "to 100 nodes", "found", title="Decision")
    base = {each.classes: each.script_us for each in fleets if each.nodes == 100}
    for each in fleets:
        ratio = f"{each.script_us / base[each.classes]:.2f}"
        table.add_row(f"{each.nodes}", f"{each.classes}", f"{each.script_us}", ratio, f"{each.found}/{each.jobs}")
    console.print(table)
    console.print(
        f"bind + submit {rate.bind_and_submit:.0f}/s, no-op EVALSHA {rate.no_op:.0f}/s in the same run: "
        f"one decision costs {rate.ratio:.1f} no-ops"
    )
    as_rows = [
        {
            "nodes": each.nodes,
            "classes": each.classes,
            "script_us": each.script_us,
            "found": each.found,
            "jobs": each.jobs,
        }
        for each in fleets
    ]
    return {"decision": as_rows, "bind_and_submit": rate.bind_and_submit, "no_op": rate.no_op}


def _jobs(console: Console, rounds: int) -> list[dict[str, Any]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for server in ("daphne", "uvicorn"):
            for cross in (False, True):
                name = f"{server}, {'across two instances' if cross else 'one instance'}"
                rows.setdefault(name, []).append(_race(server, cross))
    table = Table("whole jobs", "p50 ms", "p99 ms", "jobs/s at 64", "p50 ms at 64", "p99 ms at 64", title="Round trip")
    summary = []
    for name, races in rows.items():
        figures: dict[str, Any] = {
            key: round(statistics.median(each[key] for each in races), 2)
            for key in ("p50_ms", "p99_ms", "thr_per_s", "thr_p50_ms", "thr_p99_ms")
        }
        table.add_row(name, *(f"{value:g}" for value in figures.values()))
        summary.append({"peer": name, "errors": [each["errors"] for each in races if each["errors"]], **figures})
    console.print(table)
    return summary


def _race(server: str, cross: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as home, contextlib.ExitStack() as running:
        names = ("a", "b") if cross else ("a",)
        urls = [running.enter_context(instance(server, name, Path(home))) for name in names]
        result = asyncio.run(race(urls, cross=cross))
        return result.as_result(f"linguasched under {server}")


if __name__ == "__main__":
    main()
