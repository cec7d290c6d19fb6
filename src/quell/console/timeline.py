"""A trace's flags over time, as SVG: a lane for each severity, a mark for each flag. Pure."""

from __future__ import annotations

from markupsafe import Markup

from quell.console.words import clock, moment, plural
from quell.model.action import Severity
from quell.model.trace import Trace

#: Units of the drawing.
_WIDTH, _LEFT, _RIGHT, _LANE, _BOTTOM = 640, 62, 12, 24, 20
_TICKS = 3
#: Seconds within which moments are told to the millisecond.
_SHORT = 10


def timeline(trace: Trace) -> Markup:
    """Of the flags that the trace lists."""
    lanes = [each for each in Severity if any(flag.severity is each for flag in trace.flags)]
    begin, end = trace.first, max(trace.last, trace.first + 0.001)
    high = len(lanes) * _LANE + _BOTTOM
    inner = _WIDTH - _LEFT - _RIGHT

    def x(time: float) -> float:
        return _LEFT + inner * min(1.0, max(0.0, (time - begin) / (end - begin)))

    parts = []
    for place, severity in enumerate(lanes):
        y = place * _LANE + _LANE / 2
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, _WIDTH - _RIGHT, y, y)
        )
        parts.append(Markup('<text class="axis" x="0" y="{}">{}</text>').format(y + 4, severity.value))
        parts += [
            Markup('<g><title>{} UTC: {} {}</title><circle class="mark {}" cx="{}" cy="{}" r="6"/></g>').format(
                moment(flag.time), severity.value, flag.name, severity.value, f"{x(flag.time):.1f}", y
            )
            for flag in trace.flags
            if flag.severity is severity
        ]
    for tick in range(_TICKS):
        at = begin + (end - begin) * tick / (_TICKS - 1)
        anchor = "start" if tick == 0 else "end" if tick == _TICKS - 1 else "middle"
        parts.append(
            Markup('<text class="axis" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                f"{x(at):.1f}", high - 5, anchor, _told(at, end - begin)
            )
        )
    title = f"Flags from {moment(trace.first)} to {moment(trace.last)} UTC"
    description = f"{plural(len(trace.flags), 'flag')}; the table below has each."
    return Markup(
        '<svg class="chart line" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(_WIDTH, high, title, description, Markup("").join(parts))


def _told(seconds: float, span: float) -> str:
    """The time of day; within minutes to the second or closer, and over days with the date."""
    if span < 600:
        return moment(seconds)[11 : 23 if span < _SHORT else 19]
    return clock(seconds) if span < 86_400 else moment(seconds)[5:16]
