"""Logs are events with facts, one per line on stderr: JSON for machines, colours for people, payloads for nobody.

LINGUASCHED_LOG = json | console (default: console on a terminal, else json), LINGUASCHED_LOG_LEVEL = debug | info | …
"""

import logging
import logging.config
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dispatch.conf import ConfigError, Problem

FORMATS = ("json", "console")
LEVELS = ("debug", "info", "warning", "error", "critical")

# What people said, what they heard, and what opens doors.
PRIVATE = frozenset({"audio", "payload", "tts_audio", "text_asr", "text_translated", "token", "password"})


def choose(environ: Mapping[str, str], stderr: TextIO = sys.stderr) -> dict[str, str]:
    """`{"format", "level"}` for this process; raises `ConfigError` for a word that is neither."""
    chosen = {
        "format": (environ.get("LINGUASCHED_LOG") or ("console" if stderr.isatty() else "json")).lower(),
        "level": (environ.get("LINGUASCHED_LOG_LEVEL") or "info").lower(),
    }
    problems = [
        Problem(variable, environ.get(variable), f"choose one of {', '.join(allowed)}")
        for name, variable, allowed in (
            ("format", "LINGUASCHED_LOG", FORMATS),
            ("level", "LINGUASCHED_LOG_LEVEL", LEVELS),
        )
        if chosen[name] not in allowed
    ]
    if problems:
        raise ConfigError(problems)
    return chosen


def configure(chosen: Mapping[str, str]) -> None:
    """Set up structlog and `logging` together, so that Django's and the servers' lines look like ours.

    Django calls this with `settings.LOGGING` (it is `settings.LOGGING_CONFIG`).
    """
    level = chosen["level"].upper()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        drop_private,
    ]
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if chosen["format"] == "console"
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "events": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "events"}},
            "root": {"handlers": ["stderr"], "level": level},
            # Django brings its own handlers and levels; without them its lines come to the root like all others.
            "loggers": {
                name: {"handlers": [], "level": "NOTSET", "propagate": True} for name in ("django", "django.server")
            },
        }
    )


def drop_private(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Take out what must not be logged, whoever passed it, also from dicts inside the event."""
    return {key: _public(value) for key, value in event.items() if key not in PRIVATE}


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items() if key not in PRIVATE}
    return value
