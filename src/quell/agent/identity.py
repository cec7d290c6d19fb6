"""Whether the process found is the process meant. Pure: facts in, the disagreement out. SEMANTICS section 8, Identity."""

from __future__ import annotations

from quell.agent.proc import HZ, Facts
from quell.model.subject import Process

#: Seconds by which a start given as a time may differ from /proc's. /proc counts whole ticks (0.01 s), a detector stamps
#: the end of the clone call, and the boot time, taken from two clocks, moves while NTP slews one of them (0.5 ms a second).
START_TOLERANCE = 0.05

#: Detectors shorten ids of containers to so many characters; fewer would not name one container.
SHORTEST_ID = 12

_COMM = 15  # the kernel keeps this many bytes of a name


def disagreement(
    target: Process, facts: Facts, *, container_id: str | None = None, names: frozenset[str] = frozenset()
) -> str:
    """The first fact of target that does not hold for the process found, as a sentence; "" if all hold.

    names are those a detector may use for the user of the process found (quell.agent.proc.names_of).
    """
    found = facts.process
    if target.boot_id is not None and target.boot_id != found.boot_id:
        return f"the event is of boot {target.boot_id}, this is boot {found.boot_id}"
    if reason := start_disagreement(target, found):
        return reason
    if target.exe is not None:
        if found.exe is None:
            return "its executable cannot be read here"
        if _plain(target.exe) != _plain(found.exe):
            return f"its executable is {found.exe}, not {target.exe}"
    elif target.name is not None and target.name.encode()[:_COMM] != (found.name or "").encode()[:_COMM]:
        return f"its name is {found.name}, not {target.name}"
    if container_id is not None and not any(_same_id(container_id, each) for each in facts.placement.containers):
        where = f"in container {facts.container_id[:12]}" if facts.container_id else "in no container"
        return f"it is {where}, not in {container_id[:12]}"
    if target.uid is not None and target.uid != found.uid:
        return f"its effective user is {found.uid}, not {target.uid}"
    # A user without a name on either list is known by number alone.
    if target.user is not None and target.user not in names | {str(found.uid)} and (names or target.uid is None):
        return f"its user is {' or '.join(sorted(names)) or found.uid}, not {target.user}"
    return ""


def start_disagreement(target: Process, found: Process) -> str:
    """The same for the start alone, which with the pid names one process instance of a boot."""
    if target.start_ticks is None and target.start_time is None:
        return "the event does not say when the process started, so the pid may be another's by now"
    if target.start_ticks is not None and target.start_ticks != found.start_ticks:
        return f"it started at tick {found.start_ticks}, not {target.start_ticks}: the pid was given to another process"
    if target.start_time is not None and abs(target.start_time - (found.start_time or 0.0)) > START_TOLERANCE:
        return (
            f"it started at {found.start_time:.3f}, not {target.start_time:.3f}: the pid was given to another process"
        )
    return ""


def too_fresh(found: Process, seen: float | None) -> str:
    """Why a process without a pidfd kept from first sight may have come after the event, as a sentence; "" if it did not.

    A start is known to a clock tick only; two processes of one pid within a tick could not be told apart.
    """
    if seen is None:
        return "the event does not say when it happened, so the process may be a later one"
    if (found.start_time or 0.0) + 1 / HZ >= seen:
        return f"it started within a clock tick of the event, or later ({found.start_time:.3f}, event {seen:.3f})"
    return ""


def _plain(exe: str) -> str:
    """As detectors differ: with or without the mark of a deleted file, and the slash that /proc puts before memfd:."""
    exe = exe.removesuffix(" (deleted)")
    return exe.removeprefix("/") if exe.startswith("/memfd:") else exe


def _same_id(given: str, full: str) -> bool:
    return len(given) >= SHORTEST_ID and full.startswith(given)
