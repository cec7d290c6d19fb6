"""Structured logs on stderr: one line an occurrence, key=value for people, JSON for machines (QUELL's --log-format)."""

from __future__ import annotations

import logging
import sys

import structlog

#: Values under these keys never reach a log.
SECRET_KEYS = frozenset({"token", "secret", "authorization", "cookie", "password", "key", "headers"})


def configure(*, json: bool = False, level: str = "info") -> None:
    """Set up structlog for this process. Called once, by a composition root."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def redact(_logger: object, _method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the value of every key that may hold a secret."""
    for key in entry:
        if key in SECRET_KEYS:
            entry[key] = "[redacted]"
    return entry
