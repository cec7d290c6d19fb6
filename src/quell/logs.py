"""Structured logs on stderr: a line an occurrence, JSON for machines, key=value for people. Secrets are hidden.

Every line has time (UTC, ISO 8601), level and event, then its fields. What libraries log through the standard library
(uvicorn, asyncio, websockets) takes the same way, and so does an error that nothing caught.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

import structlog
from structlog.typing import EventDict, Processor

from quell.secrets import redact

#: Fields of a line itself; in the order in which a line begins.
_FIRST = ("time", "level", "event")

_log = structlog.get_logger(__name__)


def configure(*, json: bool | None = None, level: str = "info") -> None:
    """Set up logging for this process; None: JSON unless stderr is a terminal. Called by a composition root."""
    people = sys.stderr.isatty() if json is None else not json
    number = logging.getLevelNamesMapping()[level.upper()]
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        # Before what hides: the text of an error is where a secret comes out. Local variables are never shown.
        structlog.processors.format_exc_info,
        _hide,
    ]
    if people:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
        processors += [_escape, console]
    else:
        processors += [_in_order, structlog.processors.JSONRenderer(ensure_ascii=False)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    # Libraries tell of each connection at info: that is for whoever looks for a fault.
    root.setLevel(logging.INFO if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.captureWarnings(capture=True)
    # Where something else has taken these places, a test runner for instance, it keeps them.
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _crashed
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_crashed


class _Stderr:
    """Writes lines. A log that cannot be written, on a full disk for instance, must not stop what it tells of."""

    _lock = threading.Lock()

    def __init__(self, *_: object) -> None:
        """Structlog hands over the name of the module."""

    def msg(self, line: str) -> None:
        try:
            with self._lock:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):
            return

    log = debug = info = warning = error = critical = exception = fatal = msg


class _Bridge(logging.Handler):
    """What the standard library's loggers are told, as if it had been told to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        more = {"exc_info": record.exc_info} if record.exc_info else {}
        _log.log(record.levelno, message, logger=record.name, **more)


def _hide(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Every field without its secrets (quell.secrets)."""
    return {name: value if name in ("time", "level") else redact(value, name) for name, value in entry.items()}


def _in_order(_logger: object, _method: str, entry: EventDict) -> EventDict:
    return {name: entry.pop(name) for name in _FIRST if name in entry} | dict(entry)


def _escape(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """What would move the cursor, colour or hide, escaped: logs hold what attackers choose."""
    return {
        name: "".join(c if c.isprintable() or (c == "\n" and name == "exception") else ascii(c)[1:-1] for c in value)
        if isinstance(value, str)
        else value
        for name, value in entry.items()
    }


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _log.critical("ended by an error that nothing caught", exc_info=(kind, error, trace))


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = "" if args.thread is None else args.thread.name
    _log.critical(
        "a thread ended by an error that nothing caught",
        thread=name,
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )
