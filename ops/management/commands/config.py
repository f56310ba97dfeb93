"""Prints the effective configuration, and where each value came from."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from dispatch.conf import value_of, written


class Command(BaseCommand):
    help = "Print the effective configuration with the origin of each value, or the bare values of some keys."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "keys", nargs="*", metavar="KEY", help="print only the value of scheduler.phase2.instance_id, …"
        )

    def handle(self, *, keys: list[str], **options: Any) -> None:
        loaded = settings.LINGUASCHED
        for key in keys:
            if key not in loaded.origins:
                raise CommandError(f"{key} is not a key; 'manage.py config' lists them all")
            value = value_of(loaded.config, key)
            self.stdout.write(value if isinstance(value, str) else written(key, value))
        if keys:
            return

        lines = [f"# file: {loaded.path or 'none (LINGUASCHED_CONFIG is not set)'}", f"# data: {loaded.data_dir}"]
        for key, origin in loaded.origins.items():
            value = value_of(loaded.config, key)
            line = f"# {key} is not set" if value is None else f"{key} = {written(key, value)}"
            lines.append(f"{line:<76}  # {origin}")
        self.stdout.write("\n".join(lines))  # at once, so that `| head` may leave early
