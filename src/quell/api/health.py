"""GET /healthz: the process is alive and its event loop turns. GET /readyz: it can take events now.

Both need no token, so they tell in words of their own what is wrong, and no path, name or figure of the inside: the log
has those. Plain text, or JSON for `?verbose` and for who accepts it.

Ready is shown by doing: a transaction is written when somebody asks, one at a time and at most once a second, so that
asking cannot wear out a disk.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec
import structlog
from msgspec import Struct

from quell.api.asgi import Scope, Send, header, respond
from quell.api.problem import Refusal
from quell.clock import Clock
from quell.controller.controller import Controller
from quell.errors import QueueFull, StoreError, StoreFull
from quell.storage import key_values
from quell.storage.store import Store

#: Seconds for which a transaction that was written shows that the next would be.
_FRESH = 1.0
#: Seconds one request waits for it; less than the second that orchestrators wait for an answer.
_PATIENCE = 0.7
#: Seconds without any commit after which a transaction that waits is one that fails.
_STUCK = 5.0
#: Bytes of room below which the disk counts as full: a commit may need as much.
_ROOM = 1 << 20

_KEY = "health.written"
_TEXT = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]

_log = structlog.get_logger(__name__)


class Check(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the things that must be so. since: epoch seconds of the first look that found it failing."""

    name: str
    ok: bool
    detail: str = ""
    since: float | None = None


class Health:
    """Of one controller. Everything on the event loop's thread."""

    def __init__(self, controller: Controller, *, clock: Clock = time.time) -> None:
        self._controller = controller
        self._clock = clock
        self._started = clock()
        self._writing = _Writing(controller.store, clock)
        self._since: dict[str, float] = {}
        #: When the journal was last read, on the monotonic clock, and what kept it from being read.
        self._read, self._unreadable = -math.inf, ""

    async def alive(self, scope: Scope, send: Send) -> None:
        """That this is answered at all is the proof."""
        _readable(scope)
        if _wants_json(scope):
            now = self._clock()
            body = {"status": "alive", "time": now, "uptime": now - self._started}
            await respond(send, 200, msgspec.json.encode(body) + b"\n", _JSON)
        else:
            await respond(send, 200, b"ok\n", _TEXT)

    async def ready(self, scope: Scope, send: Send) -> None:
        """200, or 503 with what is wrong."""
        _readable(scope)
        checks = await self.checks()
        failing = [check for check in checks if not check.ok]
        status = 503 if failing else 200
        if _wants_json(scope):
            body = {"status": "not ready" if failing else "ready", "time": self._clock(), "checks": checks}
            await respond(send, status, msgspec.json.encode(body) + b"\n", _JSON)
            return
        now = self._clock()
        lines = [
            f"not ready: {check.name}: {check.detail}, for {now - (check.since or now):.0f} s" for check in failing
        ]
        await respond(send, status, ("\n".join(lines or ["ready"]) + "\n").encode(), _TEXT)

    async def checks(self) -> list[Check]:
        written = await self._writing.wrong()
        if time.monotonic() - self._read >= _FRESH:
            self._read = time.monotonic()
            self._unreadable = await asyncio.to_thread(_unreadable, self._controller.store)
        faults = {
            "state": "the state is being read back after a failed write" if self._controller.pipeline.suspended else "",
            "store": written,
            "disk": _full(self._controller),
            "queue": _overfull(self._controller),
            "journal": self._unreadable,
        }
        return [self._check(name, detail) for name, detail in faults.items()]

    def _check(self, name: str, detail: str) -> Check:
        if not detail:
            if self._since.pop(name, None) is not None:
                _log.info("ready again", check=name)
            return Check(name=name, ok=True)
        if name not in self._since:
            self._since[name] = self._clock()
            _log.warning("not ready", check=name, reason=detail)
        return Check(name=name, ok=False, detail=detail, since=self._since[name])


class _Writing:
    """Whether the store can write, by writing."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._probe: asyncio.Future[None] | None = None
        self._began = 0.0
        #: Commits when the probe began, and failures when it ended.
        self._commits = -1
        self._failures = -1
        self._ended = -math.inf
        self._wrong = "nothing has been written yet"

    async def wrong(self) -> str:
        """What keeps it from writing; "": nothing does."""
        told = self._store.statistics()
        fresh = time.monotonic() - self._ended < _FRESH and told.failures == self._failures
        if self._probe is None and not fresh:
            self._begin(told.commits)
        if self._probe is not None:
            await asyncio.wait((self._probe,), timeout=_PATIENCE)
            self._look()
        return self._wrong

    def _begin(self, commits: int) -> None:
        self._began, self._commits = time.monotonic(), commits
        now = str(self._clock()).encode()
        try:
            future = self._store.submit(lambda connection: key_values.put(connection, _KEY, now))
        except StoreError:
            self._end("the store takes nothing")
            return
        self._probe = asyncio.wrap_future(future)

    def _look(self) -> None:
        probe = self._probe
        if probe is None:
            return
        if probe.done():
            self._probe = None
            self._end(_why(probe.exception()))
            return
        # Behind a long queue it waits its turn: then others' commits show that there is one.
        told = self._store.statistics()
        if told.commits > self._commits:
            self._began, self._commits = time.monotonic(), told.commits
        elif time.monotonic() - self._began >= _STUCK:
            self._wrong = "a write does not come to an end"

    def _end(self, wrong: str) -> None:
        self._ended, self._failures = time.monotonic(), self._store.statistics().failures
        self._wrong = wrong


def _why(error: BaseException | None) -> str:
    match error:
        case None:
            return ""
        case StoreFull():
            return "the disk is full"
        case _:
            return "a write failed"


def _full(controller: Controller) -> str:
    facts = os.statvfs(controller.folder)
    # Some blocks are kept for root.
    blocks = facts.f_bfree if os.geteuid() == 0 else facts.f_bavail
    return "the disk is full" if blocks * facts.f_frsize < _ROOM else ""


def _overfull(controller: Controller) -> str:
    limits = controller.settings.ingest
    try:
        controller.store.check(1, min(limits.max_event, limits.queue_bytes // 16))
    except QueueFull:
        return "too much waits to be written"
    return ""


def _unreadable(store: Store) -> str:
    try:
        store.recent(1)
    except Exception as error:  # noqa: BLE001 - a damaged page shows itself in whatever reads it; any fault is "not ready"
        _log.error("the journal cannot be read", error=str(error))
        return "the journal cannot be read"
    return ""


def _readable(scope: Scope) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        raise Refusal(405, f"{scope['method']} is not allowed at {scope['path']}", headers={"allow": "GET, HEAD"})


def _wants_json(scope: Scope) -> bool:
    query: Mapping[str, object] = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return "verbose" in query or b"application/json" in (header(scope, b"accept") or b"")
