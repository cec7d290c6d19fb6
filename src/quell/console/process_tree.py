"""A trace's processes as nested lists with the flags of each: read out as a tree, drawn as one by traces.css. Pure.

Written without recursion: a chain may have hundreds of processes, and browsers nest elements only so deeply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from quell.console.page import address
from quell.console.words import clock, iso, moment
from quell.model.trace import Trace, TraceFlag, TraceProcess

#: Levels that are nested; what is deeper stands beside its parent and says so.
_LEVELS = 24
#: Characters of a command line.
_COMMAND = 200


def drawn(trace: Trace) -> Markup:
    """One list for each process that nobody is known to have started; and flags that are about no process."""
    flags: dict[int | None, list[TraceFlag]] = {}
    for flag in trace.flags:
        flags.setdefault(flag.process, []).append(flag)
    children: dict[int | None, list[TraceProcess]] = {}
    for process in trace.processes:
        children.setdefault(process.parent, []).append(process)
    parts = [Markup('<ul class="tree">')]
    for top in sorted(children.get(None, ()), key=_started):
        parts += _branch(top, children, flags)
    if None in flags:
        parts.append(Markup('<li><span class="quiet">about no process that can be told from others</span>'))
        parts.append(_flags(flags[None]))
        parts.append(Markup("</li>"))
    parts.append(Markup("</ul>"))
    return Markup("").join(parts)


def _branch(
    top: TraceProcess, children: dict[int | None, list[TraceProcess]], flags: dict[int | None, list[TraceFlag]]
) -> Iterator[Markup]:
    """What is above everything and not flagged stands in one line."""
    above = [top]
    while above[-1].id not in flags and len(children.get(above[-1].id, ())) == 1:
        above += children[above[-1].id]
    first = above.pop()
    yield Markup("<li>")
    if above:
        named = Markup(' <span aria-hidden="true">→</span><span class="unseen">, which started</span> ').join(
            [_named(each) for each in above]
        )
        yield Markup('<span class="above">{}</span><ul><li>').format(named)
    # Each is (a process, its level), or what closes one; the last is looked at first.
    waiting: list[tuple[TraceProcess, int] | Markup] = [Markup("</li>")]
    yield from _line(first, 0, flags.get(first.id, ()))
    waiting += _below(first, 1, children)
    while waiting:
        next_ = waiting.pop()
        if isinstance(next_, Markup):
            yield next_
            continue
        process, level = next_
        yield Markup("<li>")
        yield from _line(process, level, flags.get(process.id, ()))
        under = children.get(process.id, ())
        if level < _LEVELS:
            waiting.append(Markup("</li>"))
            waiting += _below(process, level + 1, children)
        else:
            yield Markup("</li>")
            waiting += [(each, level + 1) for each in sorted(under, key=_started, reverse=True)]
    if above:
        yield Markup("</ul></li>")


def _below(
    process: TraceProcess, level: int, children: dict[int | None, list[TraceProcess]]
) -> list[tuple[TraceProcess, int] | Markup]:
    """A list of its children, in the order in which it is taken from the end."""
    under = sorted(children.get(process.id, ()), key=_started)
    if not under:
        return []
    return [Markup("</ul>"), *((each, level) for each in reversed(under)), Markup("<ul>")]


def _started(process: TraceProcess) -> tuple[float, float, int]:
    return process.start_time or 0.0, float(process.start_ticks or 0), process.id


def _named(process: TraceProcess) -> Markup:
    pid = Markup(' <span class="quiet">{}</span>').format(process.pid) if process.pid is not None else ""
    return Markup("<b>{}</b>{}").format(process.name or process.exe or "?", pid)


def _line(process: TraceProcess, level: int, flags: Sequence[TraceFlag]) -> Iterator[Markup]:
    command = process.cmdline or process.exe or ""
    if command == process.name:
        command = ""
    parts = [_named(process)]
    if process.user:
        parts.append(Markup('<span class="quiet">{}</span>').format(process.user))
    if command:
        cut = command[:_COMMAND] + ("…" if len(command) > _COMMAND else "")
        parts.append(Markup("<code>{}</code>").format(cut))
    if process.start_time is not None:
        parts.append(
            Markup('<span class="quiet">since <time datetime="{}" title="{} UTC">{}</time></span>').format(
                iso(process.start_time), moment(process.start_time), clock(process.start_time)
            )
        )
    if level > _LEVELS:
        parts.append(Markup('<span class="quiet">level {}, below the one above</span>').format(level))
    yield Markup('<div class="process{}">{}</div>').format(" flagged" if flags else "", Markup(" ").join(parts))
    if flags:
        yield _flags(flags)


def _flags(flags: Sequence[TraceFlag]) -> Markup:
    """A line for each kind of flag."""
    kinds: dict[str, list[TraceFlag]] = {}
    for flag in sorted(flags, key=lambda each: each.time):
        kinds.setdefault(flag.class_path, []).append(flag)
    lines = []
    for same in kinds.values():
        first = same[0]
        times = Markup(" <b>{} times</b>").format(len(same)) if len(same) > 1 else ""
        said = "" if first.description in ("", first.name) else first.description
        lines.append(
            Markup(
                '<li class="flag"><span class="badge {}">{}</span>{} <a href="{}">{}</a> <span class="quiet">{} {}</span></li>'
            ).format(
                first.severity.value,
                first.severity.value,
                times,
                address("flags", first.id),
                first.name,
                clock(first.time),
                said,
            )
        )
    return Markup('<ul class="flags-of">{}</ul>').format(Markup("").join(lines))
