"""A cell as it lies in Redis, read whole, and what is untrue in it: recomputed here, independently of the scripts."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from dispatch.keys import CELL_PARTS, Keys
from dispatch.store.client import RedisClient, command

_SETS = ("free", "line", "heads", "due")
_LEASED = ("DISPATCHED", "ACCEPTED", "RUNNING")


class Picture:
    """Every part of a cell under its name, without the sentinels; records are unpacked."""

    def __init__(self, parts: dict[str, dict[str, Any]]) -> None:
        self.parts = parts
        self.nodes = parts["nodes"]
        self.jobs = parts["jobs"]
        self.due = parts["due"]
        self.held = {
            (node, lease): held for node, record in self.nodes.items() for lease, held in record["leases"].items()
        }
        self.waiting = [job for job, record in self.jobs.items() if record["waiting"]]

    @property
    def is_empty(self) -> bool:
        """Whether only the sentinels are left (P9)."""
        return not any(part for name, part in self.parts.items() if name != "meta")

    def faults(self) -> list[str]:
        """Sentences about what does not hold; empty when all is well."""
        checks = (self._of_nodes, self._of_leases, self._of_jobs, self._of_lines, self._of_steps, self._of_service)
        return [fault for check in checks for fault in check()]

    def _of_nodes(self) -> Iterator[str]:
        opened = {}
        for node, record in self.nodes.items():
            held = len(record["leases"])
            if held > record["limit"]:
                yield f"{node} holds {held} of {record['limit']}"
            is_open = record["class"] and not record["gone"] and not record["stale"] and not record["waking"]
            if is_open and held + record["unknown"] < record["limit"]:
                opened[node] = record["class"], (held + record["unknown"]) / record["limit"]
            if record["gone"] and not record["class"] and not held and f"gone {node}" not in self.due:
                yield f"{node} is nobody"
        listed = {node: record["listed"] for node, record in self.nodes.items() if record["listed"]}
        yield from _differ("listed", listed, {node: name for node, (name, _) in opened.items()})
        yield from _differ("free", set(self.parts["free"]), {f"{name} {node}" for node, (name, _) in opened.items()})
        loads = {node: float(load) for node, load in self.parts["load"].items()}
        yield from _differ("load", loads, {node: load for node, (_, load) in opened.items()})
        yield from _differ(
            "free_counts", _counts(self.parts["free_counts"]), Counter(name for name, _ in opened.values())
        )
        members = Counter(record["class"] for record in self.nodes.values() if record["class"])
        yield from _differ("members", _counts(self.parts["members"]), members)
        yield from _differ("classes", set(self.parts["classes"]), set(members))

    def _of_leases(self) -> Iterator[str]:
        told = {(node, lease) for leases in self.parts["foreign"].values() for lease, node in leases.items()}
        foreign = {at for at, held in self.held.items() if held["state"] == "foreign"}
        yield from _differ("foreign", told, foreign)
        for (node, lease), held in self.held.items():
            job = self.jobs.get(held["job"])
            current = job is not None and job["lease"] == lease and job["node"] == node
            if (held["state"] in ("granted", "sent")) != current:
                yield f"{held['state']} {lease} of {held['job']} at {node}: is it the current one? {current}"
            if held["state"] == "zombie" and job is not None and job["zombies"].get(lease) != node:
                yield f"{held['job']} does not know its zombie {lease} at {node}"
            if held["state"] == "foreign" and job is not None:
                yield f"{lease} at {node} is foreign, though {held['job']} is here"

    def _of_jobs(self) -> Iterator[str]:
        for job, record in self.jobs.items():
            if record["waiting"] != (record["state"] == "CREATED"):
                yield f"{job} is {record['state']}, waiting: {record['waiting']}"
            if bool(record["lease"]) != (record["state"] in _LEASED):
                yield f"{job} is {record['state']} with lease {record['lease']!r}"
            if record["lease"] and (record["node"], record["lease"]) not in self.held:
                yield f"{job} has lease {record['lease']}, and {record['node']} does not hold it"
            if record["lease"] and record["node"] in (*record["excluded"], *record["zombies"].values()):
                yield f"{record['node']} has {job} again, though it has a zombie of it or is excluded"
            for lease, node in record["zombies"].items():
                if self.held.get((node, lease), {}).get("state") != "zombie":
                    yield f"{job} remembers zombie {lease}, and {node} does not hold it"
        for session, index in self.parts["indexes"].items():
            if not any(job["session"] == session and job["index"] == int(index) for job in self.jobs.values()):
                yield f"the index {index} of {session} would stay for ever"

    def _of_lines(self) -> Iterator[str]:
        line, heads = set(), dict[str, float]()
        for job in self.waiting:
            kind, seq = self.jobs[job]["kind"], self.jobs[job]["seq"]
            line.add(f"{kind} {seq:016d} {job}")
            heads[kind] = min(seq, heads.get(kind, seq))
        yield from _differ("line", set(self.parts["line"]), line)
        yield from _differ("heads", self.parts["heads"], heads)

    def _of_steps(self) -> Iterator[str]:
        wanted = {f"lease {job} {record['lease']}" for job, record in self.jobs.items() if record["lease"]}
        wanted |= {
            f"zombie {n} {lease}" for (n, lease), held in self.held.items() if held["state"] in ("zombie", "foreign")
        }
        wanted |= {
            f"gone {node}"
            for node, record in self.nodes.items()
            if (record["gone"] or record["waking"]) and record["class"]
        }
        wanted |= {f"job {job}" for job, record in self.jobs.items() if not record["lease"]}
        # A job that waited keeps its deadline in the line while it is leased; a gone node may have had no class.
        possible = {f"job {job}" for job, record in self.jobs.items() if record["lease"]}
        possible |= {f"gone {node}" for node, record in self.nodes.items() if record["gone"] and not record["class"]}
        possible |= {f"gone {node}" for node, record in self.nodes.items() if record["stale"]}
        yield from _differ("due", set(self.due) - possible, wanted)

    def _of_service(self) -> Iterator[str]:
        for node, record in self.nodes.items():
            for job in self.waiting if record["listed"] else ():
                if self._may_have(self.jobs[job], node):
                    yield f"{job} waits while {node} is free"

    def _may_have(self, job: dict[str, Any], node: str) -> bool:
        record = self.nodes[node]
        asked = job["kind"].partition("|")[0].split(",")
        if not set(asked) <= set(self.parts["classes"][record["class"]].decode().split(",")):
            return False
        if node in job["excluded"] or node in job["zombies"].values():
            return False
        overtaken = job["index"] < int(self.parts["indexes"].get(job["session"], -1))
        return not (overtaken and record["since"] > job["created"])


async def picture(client: RedisClient, keys: Keys, cell: str) -> Picture:
    """Read a cell in one flush."""
    names = keys.cell(cell)
    calls = (
        command("ZRANGE", names[part], 0, -1, "WITHSCORES") if part in _SETS else command("HGETALL", names[part])
        for part in CELL_PARTS
    )
    return Picture(
        {part: _read(part, found) for part, found in zip(CELL_PARTS, await client.flush(*calls), strict=True)}
    )


def _read(part: str, found: Any) -> dict[str, Any]:
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    texts = {name.decode(): value for name, value in pairs if name}
    if part in _SETS:
        return {name: float(score) for name, score in texts.items()}
    if part in ("nodes", "jobs", "foreign"):
        return {name: _record(value) for name, value in texts.items()}
    return texts


def _record(packed: bytes) -> dict[str, Any]:
    """An unpacked record; Lua packs an empty table as a list."""
    record: dict[str, Any] = msgspec.msgpack.decode(packed)
    for name in ("leases", "zombies", "excluded"):
        if record.get(name) == []:
            record[name] = {}
    return record


def _counts(found: dict[str, bytes]) -> dict[str, int]:
    return {name: int(count) for name, count in found.items()}


def _differ(name: str, kept: Any, true: Any) -> Iterator[str]:
    if kept != true:
        yield f"{name} is {kept}, should be {true}"
