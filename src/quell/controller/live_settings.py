"""The settings in force: those the controller was started with, and what was changed while it runs.

A change is checked, written together with its entries of the audit log, and then in force at once. What file,
environment or command line say cannot be changed: a reviewed configuration stays the truth. Only pausing always can.
What changed between two starts is noticed at the second and audited as Quell's own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Struct

from quell.configuration import From, Origin, ShownSetting, unknown
from quell.errors import Problem, SettingError, SettingFixed
from quell.model.audit import QUELL, Actor, AuditEntry
from quell.response.state import Safety
from quell.settings import SETTINGS, Settings
from quell.storage import audit, key_values
from quell.storage.store import Store

#: Under which the store keeps them.
_KEY = "settings"
_PAUSED = "safety.paused"
_PROTECTED = "safety.protected_namespaces"

_log = structlog.get_logger(__name__)


class Pause(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether destructive actions are paused, and since when, by whom and why where that is known."""

    paused: bool
    by: str = ""
    reason: str = ""
    #: Epoch seconds.
    since: float | None = None


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of settings, by name: values to set, and names that fall back to what they were started with."""

    set: dict[str, Any] = {}
    unset: list[str] = []
    reason: Annotated[str, Meta(max_length=1000)] = ""
    #: True: protected_namespaces may become empty.
    allow_empty: bool = False


class _Kept(Struct, frozen=True, kw_only=True):
    version: int = 0
    #: What was set while running, by name.
    changed: dict[str, Any] = {}
    #: What was in force last, as it is shown; None: this is the first start.
    in_force: dict[str, Any] | None = None
    pause: Pause = Pause(paused=False)


class LiveSettings:
    """On the event loop's thread only. lock: held by whoever changes them."""

    def __init__(self, store: Store, started: Settings, origins: Mapping[str, Origin]) -> None:
        self._store = store
        self._started = started
        self._origins = origins
        self._listeners: list[Callable[[Settings], None]] = []
        self.lock = asyncio.Lock()
        raw = store.read(lambda connection: key_values.get(connection, _KEY))
        self._kept = _Kept() if raw is None else msgspec.json.decode(raw, type=_Kept)
        self._notice()
        self.settings = self._effective(self._kept.changed)
        if not self.settings.safety.protected_namespaces:
            _log.warning("no namespace is protected: safety.protected_namespaces is empty")

    @property
    def version(self) -> int:
        """Counts the changes."""
        return self._kept.version

    @property
    def safety(self) -> Safety:
        return self.settings.safety.safety()

    @property
    def pause(self) -> Pause:
        if not self.settings.safety.paused:
            return Pause(paused=False)
        return self._kept.pause if self._kept.pause.paused else Pause(paused=True, by=self._origin(_PAUSED).where)

    def subscribe(self, listener: Callable[[Settings], None]) -> None:
        """Call it with the settings in force after each change."""
        self._listeners.append(listener)

    def shown(self, names: Collection[str] = SETTINGS.keys()) -> list[ShownSetting]:
        """Settings with all that is known of them; KeyError for a name that is none."""
        told = []
        for name in names:
            one, origin = SETTINGS[name], self._origin(name)
            told.append(ShownSetting.of(one, self.settings.value(name), origin))
        return told

    def check(self, wanted: Wanted) -> None:
        """Whether it could be changed so; nothing is. SettingError, SettingFixed."""
        self._effective(self._planned(wanted))

    async def change(self, wanted: Wanted, actor: Actor) -> None:
        """All of it or nothing. SettingError for what is wrong, SettingFixed for what cannot be changed here; StoreError.

        To be called with the lock held.
        """
        changed = self._planned(wanted)
        settings = self._effective(changed)
        if _PROTECTED in wanted.set and not settings.safety.protected_namespaces and not wanted.allow_empty:
            message = "an empty list protects no namespace, kube-system neither; say allow_empty if that is meant"
            raise SettingError(message, [Problem(file="", path=f"/set/{_PROTECTED}", message=message)])
        now, before = time.time(), self._kept.changed
        entries = [
            _entry(actor, name, self.settings.value(name), settings.value(name), wanted.reason)
            for name in SETTINGS
            if (name in before, before.get(name)) != (name in changed, changed.get(name))
        ]
        if not entries:
            return
        pause = self._kept.pause
        if before.get(_PAUSED) != changed.get(_PAUSED):
            on = Pause(paused=True, by=str(actor), reason=wanted.reason, since=now)
            pause = on if _PAUSED in changed else Pause(paused=False)
        kept = _Kept(version=self._kept.version + 1, changed=changed, in_force=_shown(settings), pause=pause)
        await asyncio.wrap_future(self._store.submit(lambda connection: _write(connection, kept, entries, now)))
        self._kept = kept
        self.settings = settings
        for entry in entries:
            _log.warning(
                "a setting was changed", setting=entry.name, before=entry.before, after=entry.after, by=str(actor)
            )
        for listener in self._listeners:
            listener(settings)

    def _planned(self, wanted: Wanted) -> dict[str, Any]:
        """What is then set while running."""
        changed = dict(self._kept.changed)
        problems: list[Problem] = []
        for name, value in wanted.set.items():
            path = f"/set/{name}"
            if name not in SETTINGS:
                problems.append(Problem(file="", path=path, message=unknown(name)))
                continue
            self._check_free(name, pausing=name == _PAUSED and value in (True, "true"))
            try:
                changed[name] = SETTINGS[name].read(value)
            except ValueError as error:
                problems.append(Problem(file="", path=path, message=f"{name}: {error}"))
        if changed.get(_PAUSED) is False:
            del changed[_PAUSED]  # resuming takes back the pause; that nothing is paused is nobody's setting
        for place, name in enumerate(wanted.unset):
            if name not in SETTINGS or name in wanted.set:
                message = f"{name} is both set and unset" if name in wanted.set else unknown(name)
                problems.append(Problem(file="", path=f"/unset/{place}", message=message))
                continue
            self._check_free(name, pausing=False)
            changed.pop(name, None)
        if problems:
            raise SettingError("\n".join(problem.message for problem in problems), problems)
        return changed

    def _check_free(self, name: str, *, pausing: bool) -> None:
        one, origin = SETTINGS[name], self._origins.get(name, Origin())
        if not one.live:
            raise SettingFixed(
                f"{name} cannot be changed while the controller runs: set {one.variable}, or {one.field} under"
                f" [{one.group}] in the settings file, and start it again"
            )
        # Pausing is the safe direction and always possible; its end is decided where it was pinned.
        if origin.pinned and not pausing and not (name == _PAUSED and not self._started.safety.paused):
            raise SettingFixed(f"{name} is set by {origin.kind}, {origin.where}: change it there")

    def _effective(self, changed: Mapping[str, Any]) -> Settings:
        values = {
            name: SETTINGS[name].read(value)
            for name, value in changed.items()
            if name == _PAUSED or not self._origins.get(name, Origin()).pinned
        }
        if self._started.safety.paused:
            values.pop(_PAUSED, None)
        return self._started.with_values(values)

    def _origin(self, name: str) -> Origin:
        origin = self._origins.get(name, Origin())
        if self.settings.value(name) == self._started.value(name) and (origin.pinned or name not in self._kept.changed):
            return origin
        return Origin(From.RUN_TIME)

    def _notice(self) -> None:
        """Write down what differs from what was in force last; a first start tells what is no default."""
        kept = self._kept
        changed = {name: value for name, value in kept.changed.items() if self._still_counts(name, value)}
        settings = self._effective(changed)
        after = _shown(settings)
        before = _shown(Settings()) if kept.in_force is None else kept.in_force
        if after == kept.in_force and changed == kept.changed:
            return
        entries = []
        for name, value in after.items():
            old = before.get(name, SETTINGS[name].shown(SETTINGS[name].default))
            if old != value:
                origin = self._origins.get(name, Origin(From.RUN_TIME) if name in changed else Origin())
                where = f"{origin.kind} {origin.where}".rstrip()
                entries.append(
                    AuditEntry(
                        actor=QUELL,
                        verb="change",
                        kind="setting",
                        name=name,
                        before=old,
                        after=value,
                        note=f"noticed at the start; it is from: {where}",
                    )
                )
        fresh = msgspec.structs.replace(kept, version=kept.version + 1, changed=changed, in_force=after)
        now = time.time()
        self._store.submit(lambda connection: _write(connection, fresh, entries, now)).result()
        self._kept = fresh
        for entry in entries if kept.in_force is not None else ():
            _log.warning(
                "a setting changed since the last start", setting=entry.name, before=entry.before, after=entry.after
            )

    def _still_counts(self, name: str, value: object) -> bool:
        """False: it is pinned by now, or of another version."""
        if name not in SETTINGS or (self._origins.get(name, Origin()).pinned and name != _PAUSED):
            return False
        try:
            SETTINGS[name].read(value)
        except ValueError:
            return False
        return True


def _entry(actor: Actor, name: str, before: object, after: object, reason: str) -> AuditEntry:
    one = SETTINGS[name]
    verb = "change"
    if name == _PAUSED:
        verb = "pause" if after else "resume"
    note = reason
    if name == _PROTECTED and not after:
        note = f"no namespace is protected any more. {reason}".rstrip()
    return AuditEntry(
        actor=actor, verb=verb, kind="setting", name=name, before=one.shown(before), after=one.shown(after), note=note
    )


def _shown(settings: Settings) -> dict[str, Any]:
    """As JSON gives it back, to be compared with what was kept."""
    return {name: one.shown(settings.value(name)) for name, one in SETTINGS.items()}


def _write(connection: sqlite3.Connection, kept: _Kept, entries: Collection[AuditEntry], now: float) -> None:
    key_values.put(connection, _KEY, msgspec.json.encode(kept))
    for entry in entries:
        audit.append(connection, entry, now)
