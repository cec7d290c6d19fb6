"""Charts as SVG, drawn here: they need no script and stand still while a page loads.

Each has a title and a description for who does not see it, and the same figures as a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape
from msgspec import Struct

from quell.console.words import clock, count

#: Units of the drawing; it is as wide as its place on the page.
_WIDTH, _HEIGHT = 640, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 4, 8, 20
_GRID = 3


class Series(Struct, frozen=True, kw_only=True):
    """Values of one kind, one a bar. tone: a class of console.css that colours it, such as "info" or "danger"."""

    name: str
    tone: str
    values: Sequence[float]


def bars(title: str, starts: Sequence[float], step: int, series: Sequence[Series], *, empty: str = "") -> Markup:
    """Bars over time, of each moment the series upon each other. starts: epoch seconds; step: seconds of a bar."""
    totals = [sum(each.values[n] for each in series) for n in range(len(starts))]
    whole = sum(totals)
    top = _nice(max(totals, default=0))
    inner, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    wide = inner / max(1, len(starts))
    parts = []
    for n in range(_GRID + 1):
        y = _TOP + high * n / _GRID
        value = top * (_GRID - n) / _GRID
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
    for place, start in enumerate(starts):
        x, y = _LEFT + place * wide, _TOP + high
        told = ", ".join(f"{count(each.values[place])} {each.name}" for each in series if each.values[place])
        drawn = []
        for each in series:
            tall = high * each.values[place] / top
            if tall > 0:
                tall = max(tall, 1.0)
                y -= tall
                drawn.append(
                    f'<rect class="{each.tone}" x="{x + wide * 0.1:.2f}" y="{y:.2f}" '
                    f'width="{wide * 0.8:.2f}" height="{tall:.2f}"/>'
                )
        # A place to point at that is as high as the chart.
        hit = f'<rect class="hit" x="{x:.2f}" y="{_TOP}" width="{wide:.2f}" height="{high}"/>'
        parts.append(f"<g><title>{clock(start)}: {escape(told) or 'nothing'}</title>{''.join(drawn)}{hit}</g>")
    for place in range(0, len(starts), max(1, len(starts) // 6)):
        x = _LEFT + place * wide
        parts.append(f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - 5}">{clock(starts[place])}</text>')
    if not whole and empty:
        middle = _LEFT + inner / 2
        parts.append(
            Markup('<text class="none" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                middle, _TOP + high / 2 + 4, empty
            )
        )
    description = f"{title}: {count(whole)} in {len(starts)} bars of {_length(step)}, at most {count(max(totals, default=0))} in one."
    # What is joined here is numbers, our own words and what was escaped above.
    drawing = Markup("".join(parts))  # noqa: S704
    return Markup(
        '<figure class="figure"><svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>'
        "{}{}</figure>"
    ).format(_WIDTH, _HEIGHT, title, description, drawing, _legend(series), _table(title, starts, series))


def _legend(series: Sequence[Series]) -> Markup:
    items = [
        Markup(
            '<li><svg class="key {}" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" rx="2"/></svg>{} <b>{}</b></li>'
        ).format(each.tone, each.name, count(sum(each.values)))
        for each in series
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _table(title: str, starts: Sequence[float], series: Sequence[Series]) -> Markup:
    """Only what is not nought."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(each.name) for each in series)
    rows = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            clock(start),
            Markup("").join(Markup('<td class="number">{}</td>').format(count(each.values[n])) for each in series),
        )
        for n, start in enumerate(starts)
        if any(each.values[n] for each in series)
    ]
    if not rows:
        return Markup("")
    return Markup(
        '<details class="figures"><summary>As a table</summary><div class="scroll" tabindex="0" role="region" aria-label="{0}, as a table"><table>'
        '<thead><tr><th scope="col">UTC</th>{1}</tr></thead><tbody>{2}</tbody></table></div></details>'
    ).format(title, head, Markup("").join(rows))


def share(part: float, whole: float, tone: str = "info") -> Markup:
    """A bar that says how much of the whole a part is; the figure stands beside it."""
    wide = 100 * part / whole if whole else 0
    return Markup(
        '<svg class="share {}" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="6"/><rect width="{}" height="6"/></svg>'
    ).format(tone, f"{wide:.1f}")


def _nice(most: float) -> float:
    """The end of the axis: 3, 6, 15, 30, 60, 150 and so on, so that the grid's lines have whole numbers."""
    size = 1.0
    while True:
        for lead in (3, 6, 15):
            if lead * size >= most:
                return lead * size
        size *= 10


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def _length(step: int) -> str:
    return f"{step // 60} min"
