"""A trace drawn: what it is, and the tree of its processes with the flags of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from quell.cli.notifications import about
from quell.cli.output import clock, print_trimmed, visible
from quell.model.trace import TraceFlag, TraceProcess
from quell.model.trace_view import TraceShown

_STYLES = {"critical": "bold white on red", "high": "bold red", "medium": "yellow", "low": "cyan", "info": "dim"}
_PRIORITIES = {"Critical": "bold white on red", "High": "bold red", "Low": "cyan"}
#: Characters of a command line that are shown.
_COMMAND = 120


def print_trace(console: Console, trace: TraceShown) -> None:
    if not console.is_terminal:
        console.width = 10_000  # a line a process and a flag, however long, for grep
    print_trimmed(console, _head(trace), Text(), *_trees(trace))


def _head(trace: TraceShown) -> Table:
    priority = Text(f"{trace.priority} {trace.score:g}", _PRIORITIES[trace.priority])
    if trace.suppressed_by:
        priority.append(f"  suppressed by {visible(trace.suppressed_by)}", "dim")
    elif trace.would_suppress:
        priority.append(f"  policy {visible(trace.would_suppress)} would suppress it: it is in audit mode", "dim")
    counts = ", ".join(f"{count} {severity}" for severity, count in trace.severities.items())
    facts: dict[str, str | Text] = {
        "trace": trace.id,
        "priority": priority,
        "status": _status(trace),
        "flags": f"{trace.flag_count}: {counts}",
        "from": clock(trace.first),
        "to": clock(trace.last),
        "about": about(trace.subject),
        "node": trace.subject.node or "",
        "users": ", ".join(trace.users),
        "trigger": trace.trigger_class,
        "ancestors": trace.trigger_ancestors,
        "note": trace.note,
    }
    table = Table.grid(padding=(0, 3, 0, 0))
    for word, value in facts.items():
        if value:
            table.add_row(Text(word, "bold"), value if isinstance(value, Text) else Text(visible(value)))
    return table


def _status(trace: TraceShown) -> str:
    if trace.merged_into:
        return f"a part of {trace.merged_into} since {clock(trace.closed)}"
    if trace.closed is not None:
        return f"closed {clock(trace.closed)}, {trace.closed_by}"
    return trace.status


def _trees(trace: TraceShown) -> Iterable[RenderableType]:
    """One for each machine's first process; and the flags about no process that can be told."""
    flags: dict[int | None, list[TraceFlag]] = {}
    for flag in trace.flags:
        flags.setdefault(flag.process, []).append(flag)
    children: dict[int | None, list[TraceProcess]] = {}
    for process in trace.processes:
        children.setdefault(process.parent, []).append(process)
    for process in sorted(children.get(None, ()), key=_started):
        above = [process]
        # What is above everything and not flagged needs no lines of its own.
        while above[-1].id not in flags and len(children.get(above[-1].id, ())) == 1:
            above += children[above[-1].id]
        top = above.pop()
        named = Text(" → ", "dim").join([Text(_named(one), "dim") for one in above]) if above else None
        tree = Tree(named or _line(top), guide_style="dim")
        _grow(tree.add(_line(top)) if named else tree, top, children, flags)
        yield tree
    if None in flags:
        tree = Tree(Text("about no process that can be told from others", "dim"), guide_style="dim")
        for line in _grouped(flags[None]):
            tree.add(line)
        yield tree
    if trace.flag_count > len(trace.flags):
        yield Text(f"and {trace.flag_count - len(trace.flags)} more flags, which are counted and not listed", "dim")


def _grow(
    tree: Tree,
    process: TraceProcess,
    children: dict[int | None, list[TraceProcess]],
    flags: dict[int | None, list[TraceFlag]],
) -> None:
    waiting = [(tree, process)]
    while waiting:
        at, one = waiting.pop()
        for line in _grouped(flags.get(one.id, ())):
            at.add(line)
        waiting += [(at.add(_line(child)), child) for child in sorted(children.get(one.id, ()), key=_started)]


def _started(process: TraceProcess) -> tuple[float, float, int]:
    return process.start_time or 0.0, float(process.start_ticks or 0), process.id


def _named(process: TraceProcess) -> str:
    return visible(process.name or process.exe or "?") + (f" ({process.pid})" if process.pid else "")


def _line(process: TraceProcess) -> Text:
    text = Text(_named(process), "bold" if process.flags else "")
    if process.user:
        text.append(f"  {visible(process.user)}", "default" if process.flags else "dim")
    command = process.cmdline or process.exe
    if command and command != process.name:
        text.append(f"  {visible(command[:_COMMAND])}{'…' if len(command) > _COMMAND else ''}", "dim")
    if process.start_time is not None:
        text.append(f"  since {clock(process.start_time)}", "dim")
    return text


def _grouped(flags: Sequence[TraceFlag]) -> Iterable[Text]:
    """A line for each kind of flag."""
    kinds: dict[str, list[TraceFlag]] = {}
    for flag in flags:
        kinds.setdefault(flag.class_path, []).append(flag)
    for same in kinds.values():
        first = same[0]
        text = Text(f"⚑ {first.severity}", _STYLES[first.severity])
        if len(same) > 1:
            text.append(f" {len(same)} times", "bold")
        text.append(f"  {clock(first.time)}", "default")
        if len(same) > 1:
            text.append(f" to {clock(same[-1].time)}", "dim")
        text.append(f"  {visible(first.name)}", "default")
        if first.description not in ("", first.name):
            text.append(f": {visible(first.description)}", "dim")
        yield text
