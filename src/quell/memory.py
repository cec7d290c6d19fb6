"""How much memory is left to this process: in its control group, version 2 or 1, or on the machine. For both ends.

What the kernel would give back at once (clean pages of files that nobody has used lately) is not counted as used: a
database fills any limit with those. docs/own-events.md says when pressure is told of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

#: Percent below the threshold at which pressure is over.
_RELIEF = 10
#: Percent of the last minute in which everything in the group waited for memory (PSI "full avg60"), from which on it is
#: pressure whatever the figures of use say.
STALLED = 10.0
#: Version 1 writes this, rounded down to a page, where nobody set a limit.
_NO_LIMIT = 1 << 60
_MIB = 1 << 20


class Measure(Struct, frozen=True, kw_only=True):
    """used and limit in bytes. of: what has the limit, for people. stalled: percent, see STALLED; None: not known.

    out_of_memory: how often the group has been at its limit with nothing to give back; None: not known.
    """

    used: int
    limit: int
    of: str
    stalled: float | None = None
    out_of_memory: int | None = None

    @property
    def share(self) -> float:
        """Percent of the limit."""
        return 100 * self.used / self.limit

    def __str__(self) -> str:
        told = f"{self.used // _MIB} of {self.limit // _MIB} MiB of {self.of} are used ({self.share:.0f} %)"
        if self.stalled is not None and self.stalled >= STALLED:
            told += f", and {self.stalled:.0f} % of the last minute everything waited for memory"
        return told


class Pressure:
    """When to tell: once as it begins, and again after `pause` seconds at the earliest. Pure."""

    def __init__(self, threshold: float, pause: float) -> None:
        """threshold: percent of the limit. It is over 10 percent below."""
        self._threshold = threshold
        self._pause = pause
        self._under = False
        self._told: float | None = None
        self._seen: int | None = None

    def look(self, measure: Measure, now: float) -> str:
        """What to tell; "": nothing. now: seconds of any clock."""
        ran_out = self._seen is not None and (measure.out_of_memory or 0) > self._seen
        self._seen = measure.out_of_memory
        stalled = measure.stalled is not None and measure.stalled >= STALLED
        if not self._under and (ran_out or stalled or measure.share >= self._threshold):
            self._under = True
            if self._told is None or now - self._told >= self._pause:
                self._told = now
                return f"{measure}{'; it ran out meanwhile' if ran_out else ''}"
        elif self._under and not stalled and measure.share < self._threshold - _RELIEF:
            self._under = False
        return ""


def measure(root: Path = Path("/")) -> Measure | None:
    """The limit that is nearest to being reached: of this process's group, of one above it, or of the machine.

    None: nothing can be read.
    """
    try:
        places = _groups(root)
        found = [one for one in map(_version_2, places[0]) if one] or [one for one in map(_version_1, places[1]) if one]
        whole = _machine(root)
    except (OSError, ValueError, IndexError):
        return None
    found += [] if whole is None else [whole]
    return max(found, key=lambda one: one.share, default=None)


def _groups(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders of version 2 and of version 1, from the process's own group up. From inside a container only the mount's
    top may be seen, which is the container's group then.
    """
    lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    second = [path for number, _, path in lines if number == "0"]
    first = [path for _, names, path in lines if "memory" in names.split(",")]
    mounts = root / "sys/fs/cgroup"
    return (
        [folder for path in second for folder in _up(mounts, path)],
        [folder for path in first for folder in _up(mounts / "memory", path)],
    )


def _up(mount: Path, path: str) -> Iterator[Path]:
    here = mount / path.lstrip("/")
    yield from (folder for folder in (here, *here.parents) if folder.is_relative_to(mount) and folder.is_dir())


def _version_2(group: Path) -> Measure | None:
    limit = _text(group / "memory.max")
    if limit in {"", "0", "max"}:
        return None
    idle = _fields(group / "memory.stat").get("inactive_file", 0)
    return Measure(
        used=max(int(_text(group / "memory.current")) - idle, 0),
        limit=int(limit),
        of="its control group",
        stalled=_stalled(group / "memory.pressure"),
        out_of_memory=_fields(group / "memory.events").get("oom"),
    )


def _version_1(group: Path) -> Measure | None:
    limit = _text(group / "memory.limit_in_bytes")
    if limit in {"", "0"} or int(limit) >= _NO_LIMIT:
        return None
    idle = _fields(group / "memory.stat").get("total_inactive_file", 0)
    used = int(_text(group / "memory.usage_in_bytes")) - idle
    failed = _fields(group / "memory.oom_control").get("oom_kill")
    return Measure(used=max(used, 0), limit=int(limit), of="its control group", out_of_memory=failed)


def _machine(root: Path) -> Measure | None:
    told = _fields(root / "proc/meminfo")
    total, available = told.get("MemTotal:", 0) * 1024, told.get("MemAvailable:", 0) * 1024
    if not total:
        return None
    return Measure(
        used=total - available, limit=total, of="the machine", stalled=_stalled(root / "proc/pressure/memory")
    )


def _stalled(file: Path) -> float | None:
    """From lines such as "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"."""
    for line in _text(file).splitlines():
        words = line.split()
        if words[0] == "full":
            return float(words[2].removeprefix("avg60="))
    return None


def _fields(file: Path) -> dict[str, int]:
    """Lines of a word and a number."""
    words = [line.split() for line in _text(file).splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _text(file: Path) -> str:
    """Nothing where there is no such file, or it cannot be read: PSI may be switched off."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
