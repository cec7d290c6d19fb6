"""Overview: what goes on, and what waits for somebody. Live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from msgspec import Struct

from quell.api.services import Services
from quell.console import charts
from quell.console.charts import Series
from quell.console.page import Call, Page, Parts, Route, Section, View
from quell.console.rendering import fragment
from quell.controller.overview import Overview, Span
from quell.controller.past import as_decided
from quell.model.decision import Decision, OutcomeStatus
from quell.model.event import Event
from quell.storage.store import Store

#: Events that the list of the latest shows.
_LATEST = 12
#: Seconds for which a live chart stays as it is.
_CHART = {Span.HOUR: 5.0, Span.QUARTER: 30.0, Span.DAY: 60.0}
_TONES = {
    OutcomeStatus.DONE: "good",
    OutcomeStatus.GONE: "quiet",
    OutcomeStatus.REFUSED: "warn",
    OutcomeStatus.EXPIRED: "warn2",
    OutcomeStatus.FAILED: "bad",
}


class Line(Struct, frozen=True):
    """An event of the latest."""

    event: Event
    decision: Decision


async def show(call: Call) -> View:
    try:
        span = Span(call.query.one("span", Span.HOUR.value))
    except ValueError:
        span = Span.HOUR
    services = call.services
    told = await asyncio.to_thread(services.overviews.overview, span)
    lines = await asyncio.to_thread(latest, services.controller.store)
    values = {
        "span": span,
        "spans": list(Span),
        "told": told,
        "rate": None,
        "lines": lines,
        "events_chart": events_chart(told),
        "outcomes_chart": outcomes_chart(told),
    }
    return View(template="pages/overview.html", values=values)


def live(services: Services) -> Parts:
    before: tuple[float, int] | None = None
    drawn: dict[Span, tuple[float, dict[str, str]]] = {}

    async def parts() -> Mapping[str, str]:
        nonlocal before
        now = time.monotonic()
        told = await asyncio.to_thread(services.overviews.overview, Span.HOUR)
        rate = None if before is None else max(0.0, (told.written - before[1]) / max(0.001, now - before[0]))
        before = (now, told.written)
        lines = await asyncio.to_thread(latest, services.controller.store)
        found = {
            "tiles": fragment("pages/overview_tiles.html", told=told),
            "rules": fragment("pages/overview_rules.html", told=told),
            "latest": fragment("pages/overview_latest.html", lines=lines, rate=rate),
        }
        for span, seconds in _CHART.items():
            if span not in drawn or now - drawn[span][0] >= seconds:
                of_span = told if span is Span.HOUR else await asyncio.to_thread(services.overviews.overview, span)
                charted = {
                    f"events-{span.value}": str(events_chart(of_span)),
                    f"outcomes-{span.value}": str(outcomes_chart(of_span)),
                }
                drawn[span] = (now, charted)
            found |= drawn[span][1]
        return found

    return parts


def latest(store: Store) -> list[Line]:
    """The newest events that no rule keeps out of notifications."""
    return [
        Line(as_decided(stored), stored.decision) for stored in store.recent(_LATEST) if not stored.decision.suppressed
    ]


def events_chart(told: Overview) -> Markup:
    return charts.bars(
        "Events",
        [bar.start for bar in told.bars],
        told.step,
        [
            Series(name="answered", tone="info", values=[bar.answered for bar in told.bars]),
            Series(name="only kept", tone="quiet", values=[bar.events - bar.answered for bar in told.bars]),
        ],
        empty=f"No event in the last {told.span}",
    )


def outcomes_chart(told: Overview) -> Markup:
    """Of the statuses that came up, and of `done` always."""
    series: list[Any] = []
    for status, tone in _TONES.items():
        values = [bar.outcomes.get(status.value, 0) for bar in told.bars]
        if any(values) or status is OutcomeStatus.DONE:
            series.append(Series(name=status.value, tone=tone, values=values))
    return charts.bars(
        "Outcomes of actions",
        [bar.start for bar in told.bars],
        told.step,
        series,
        empty=f"No action in the last {told.span}",
    )


PAGE = Page(
    name="overview",
    title="Overview",
    section=Section.WATCH,
    routes=(Route(path="/overview", handler=show),),
    key="o",
    icon="overview",
)
