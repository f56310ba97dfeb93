"""Puts a crowd of no-op nodes and sessions on running instances and prints how they do."""

import asyncio
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.peers.load import Report, measure
from ops.peers.wire import WireError

NAMES = {
    "submit_to_node": "submit -> at the node",
    "in_node": "in the node",
    "node_to_session": "result -> at the session",
    "total": "total",
}


class Command(BaseCommand):
    help = "Load running instances with no-op nodes and sessions; print throughput and latency per stage."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--nodes", type=int, default=4)
        parser.add_argument("--sessions", type=int, default=64)
        parser.add_argument("--seconds", type=float, default=10.0)
        parser.add_argument("--rate", type=float, help="utterances a second, whatever comes back (open loop)")
        parser.add_argument(
            "--inflight", type=int, default=64, help="without --rate: as many under way at any time (64)"
        )
        parser.add_argument("--capacity", type=int, default=16, help="what each node declares (16)")
        parser.add_argument("--audio-ms", type=int, default=1000, help="length of an utterance's audio (1000)")
        parser.add_argument("--acks", action="store_true", help="nodes send job_ack and job_started too")
        parser.add_argument("--cross", action="store_true", help="nodes on the last URL, sessions on the first")
        parser.add_argument("--json", action="store_true", help="print one line of JSON")
        parser.add_argument("--url", action="append", help="an instance, repeatable (ws://127.0.0.1:5010)")

    def handle(self, *, json: bool, url: list[str] | None, **options: Any) -> None:
        names = ("nodes", "sessions", "seconds", "rate", "inflight", "capacity", "audio_ms", "acks", "cross")
        chosen = {name: options[name] for name in names}
        for name, value in chosen.items():
            if value is not None and not isinstance(value, bool) and value <= 0:
                raise CommandError(f"--{name.replace('_', '-')} {value} must be greater than 0")
        if options["cross"] and len(url or ()) < 2:
            raise CommandError("--cross needs --url twice: the sessions' instance first, the nodes' instance last")
        try:
            report = asyncio.run(measure(url or ["ws://127.0.0.1:5010"], **chosen))
        except WireError as error:
            raise CommandError(str(error)) from error
        if json:
            self.stdout.write(msgspec.json.encode(report).decode())
        else:
            self._print(report)
        if not report.completed:
            raise CommandError("no utterance came back")

    def _print(self, report: Report) -> None:
        pace = f"{report.inflight} in flight" if report.rate is None else f"{report.rate:g} a second"
        where = ", nodes and sessions on different instances" if report.cross else ""
        self.stdout.write(f"{report.nodes} nodes, {report.sessions} sessions, {pace}{where}")
        self.stdout.write(
            f"{report.completed} of {report.submitted} utterances came back in {report.wall_s:.2f} s: "
            f"{report.per_second:.1f} a second"
        )
        self.stdout.write(f"{'ms':<26}{'p50':>10}{'p95':>10}{'p99':>10}{'max':>10}")
        for name, stage in report.stages.items():
            figures = (stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.max_ms)
            self.stdout.write(f"{NAMES[name]:<26}" + "".join(f"{figure:>10.3f}" for figure in figures))
        for what, counts in (("errors", report.errors), ("notices", report.notices)):
            if counts:
                self.stdout.write(f"{what}: " + ", ".join(f"{code} {times}" for code, times in counts.items()))
