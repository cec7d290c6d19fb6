"""What may never be touched on this machine. SEMANTICS section 8, Protected.

Things are recognised by what they are (pid and start, executable's device and inode, systemd unit, control group), never
by a name, which anyone can take. The list is data: data/protected.toml, which a file of the operator extends.
"""

from __future__ import annotations

import os
import re
import threading
import time
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from quell.agent.executables import Executables
from quell.agent.proc import Facts, read_process
from quell.agent.users import user_name
from quell.errors import SettingError

_DEFAULTS = Path(__file__).with_name("data") / "protected.toml"
#: Seconds after which executables are looked up again: an upgrade gives them new inodes.
_LOOK_AGAIN = 10.0
#: Seconds before that from which on the next check may come too late not to.
_MARGIN = 0.5
#: Slices whose owners may start units of any name, so that a name there proves nothing.
_FOREIGN_SLICES = ("user.slice", "machine.slice", "kubepods.slice", "kubepods")
_UNIT = re.compile(r"[\w@.\\:-]+\.(service|scope|slice|socket|mount)", re.ASCII)


class ProtectedList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of a list file."""

    #: systemd units of the machine itself; every process in them is protected.
    units: tuple[str, ...] = ()
    #: Control groups by path; every process in or below them is protected.
    cgroups: tuple[str, ...] = ()
    #: User -> paths (globs) of executables that are protected while this user runs them; "*": whoever does.
    executables: Mapping[str, tuple[str, ...]] = {}
    #: In an operator's file: leave out what Quell protects by default. It is told loudly.
    without_defaults: bool = False


class Protected:
    """Ask it with check(). Safe to use from several threads."""

    def __init__(self, *lists: ProtectedList, own: Iterable[int] = ()) -> None:
        """own: pids of this product's processes that run now, this one being always among them."""
        self._units = {unit for each in lists for unit in each.units}
        self._cgroups = {path.rstrip("/") or "/" for each in lists for path in each.cgroups}
        paths: dict[str, list[str]] = {}
        for each in lists:
            for user, some in each.executables.items():
                paths.setdefault(user, []).extend(some)
        self._lock = threading.Lock()
        self._executables = {user: Executables(some) for user, some in paths.items()}
        #: The files they are, by user, and when that was looked up (monotonic seconds).
        self._found: tuple[dict[str, set[tuple[int, int]]], float] = {}, float("-inf")
        self._own: set[tuple[int, int]] = set()
        #: Sentences for people about a list that protects less than it should.
        self.warnings: tuple[str, ...] = ()
        for pid in (os.getpid(), *own):
            self.add_process(pid)

    @classmethod
    def load(cls, path: Path | None = None, *, own: Iterable[int] = ()) -> Protected:
        """The default list, and that of the operator's file if one is given. SettingError: the file cannot be used."""
        defaults = read_list(_DEFAULTS)
        if path is None:
            return cls(defaults, own=own)
        extra = read_list(path)
        if not extra.without_defaults:
            return cls(defaults, extra, own=own)
        protected = cls(extra, own=own)
        protected.warnings = (
            f"{path} leaves out the default list of what is protected: container runtimes, kubelet and sshd can be killed",
        )
        return protected

    def add_process(self, pid: int) -> bool:
        """Protect the process that has this pid now, such as the controller. False: there is none."""
        facts = read_process(pid, full=False)
        if facts is None or facts.process.start_ticks is None:
            return False
        self._own.add((pid, facts.process.start_ticks))
        return True

    def extend(self, entries: Iterable[str]) -> None:
        """Protect more: units by name ("x.service"), control groups ("cgroup:/path") and executables by path or glob.

        SettingError: an entry is none of these.
        """
        for entry in entries:
            if entry.startswith("cgroup:/"):
                self._cgroups.add(entry.removeprefix("cgroup:").rstrip("/") or "/")
            elif entry.startswith("/"):
                with self._lock:
                    self._executables.setdefault("*", Executables(())).add(entry)
                    self._found = {}, float("-inf")
            elif _UNIT.fullmatch(entry):
                self._units.add(entry)
            else:
                raise SettingError(
                    f"protected: expected a unit, cgroup:/PATH or the path of an executable, got {entry!r}"
                )

    def check(self, facts: Facts) -> str:
        """Why this process must not be touched, as a sentence; "" if it may be."""
        process = facts.process
        if process.pid == 1:
            return "it is process 1 of the machine"
        if facts.kernel_thread:
            return "it is a thread of the kernel"
        if (process.pid, process.start_ticks) in self._own:
            return "it is a process of Quell itself"
        for path in facts.placement.paths:
            if group := self._group(path):
                return f"it is in the protected control group {group}"
            # A runtime told to use another driver than its own starts containers below its unit: those are not it.
            if facts.container_id is None and (unit := self._unit(path)):
                return f"it belongs to the protected unit {unit}"
        if facts.exe_id is not None:
            for user, ids in self._ids().items():
                if facts.exe_id in ids and user in ("*", str(process.uid), process.user or _name(process.uid)):
                    return f"its executable {process.exe} is protected"
        return ""

    def _group(self, path: str) -> str:
        return next((group for group in self._cgroups if path == group or path.startswith(f"{group}/")), "")

    def _unit(self, path: str) -> str:
        """The protected unit a path of control groups lies in: only slices of the machine itself may stand before it."""
        for part in path.split("/")[1:]:
            if part in self._units:
                return part
            if not part.endswith(".slice") or part in _FOREIGN_SLICES:
                return ""
        return ""

    def is_at_hand(self) -> bool:
        """Whether check, asked now, need not look up again which files are protected, which may have to be waited for."""
        return time.monotonic() - self._found[1] < _LOOK_AGAIN - _MARGIN

    def _ids(self) -> dict[str, set[tuple[int, int]]]:
        ids, looked = self._found
        if time.monotonic() - looked <= _LOOK_AGAIN:
            return ids
        with self._lock:
            ids, looked = self._found
            now = time.monotonic()
            if now - looked > _LOOK_AGAIN:
                ids = {user: some.ids() for user, some in self._executables.items()}
                self._found = ids, now
            return ids


def read_list(path: Path) -> ProtectedList:
    """Read a list file (TOML). SettingError: it is missing or has an entry that is not known."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), ProtectedList)
    except OSError as error:
        raise SettingError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: {error}") from error


def _name(uid: int | None) -> str | None:
    return None if uid is None else user_name(uid)
