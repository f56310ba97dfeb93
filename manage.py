#!/usr/bin/env python
"""Django's command line, for this project."""

import os
import sys

from django.core.management import execute_from_command_line

from dispatch.conf import ConfigError


def main() -> None:
    """Run one command. A configuration that cannot be used ends it with the message alone, no traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "linguasched.settings")
    try:
        execute_from_command_line(sys.argv)
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
