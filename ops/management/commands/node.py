"""Runs a reference node until it is told to stop."""

import asyncio
import signal
from contextlib import ExitStack
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.peers import speech
from ops.peers.node import EVERY_PAIR, Engine, EngineError, Languages, Node, NodeRefused, echo


class Command(BaseCommand):
    help = "Run a reference node: it takes jobs from a scheduler and lets an engine do them. Ctrl-C ends it."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--engine", choices=("echo", "speech"), default="echo", help="echo needs nothing")
        parser.add_argument("--url", default="ws://127.0.0.1:5010/ws/node")
        parser.add_argument("--id", help="node id; without it the scheduler gives one")
        parser.add_argument("--capacity", type=int, default=4, help="how many jobs it does at the same time (4)")
        parser.add_argument("--latency", type=int, default=0, metavar="MS", help="wait so long before each job (0)")
        parser.add_argument("--no-acks", action="store_true", help="send only results, as the real nodes do")

    def handle(self, *, engine: str, capacity: int, **options: Any) -> None:
        if capacity < 1:
            raise CommandError(f"--capacity {capacity}: a node does at least one job at a time")
        try:
            with ExitStack() as stack:
                chosen: Engine = echo
                languages: Languages = EVERY_PAIR
                if engine == "speech":
                    chosen, languages = stack.enter_context(speech.Speech(min(capacity, speech.WORKERS))), speech.PAIRS
                node = Node(
                    options["url"],
                    chosen,
                    node_id=options["id"],
                    capacity=capacity,
                    latency_ms=options["latency"],
                    acks=not options["no_acks"],
                    languages=languages,
                )
                asyncio.run(_until_stopped(node))
        except (EngineError, NodeRefused) as error:
            raise CommandError(str(error)) from error


async def _until_stopped(node: Node) -> None:
    work = asyncio.create_task(node.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()
