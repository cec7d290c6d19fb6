"""notifications events, security-events, risk-reports, all and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.exporting import As, FileFormat, To, write
from quell.cli.filters import Filters, filter_of, follow, print_following, search, takes_filters
from quell.cli.output import Format, Output, clock, print_rows

if TYPE_CHECKING:
    from quell.model.notification import Notification
    from quell.model.subject import Subject

app = typer.Typer(
    help="Events, security events and risk reports: what is to be told, newest first.", no_args_is_help=True
)


class List(StrEnum):
    """As quell.model.notification.NotificationList, which would be loaded for each `quell --help`."""

    EVENTS = "events"
    SECURITY_EVENTS = "security-events"
    RISK_REPORTS = "risk-reports"
    ALL = "all"


Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, help="At most so many; with --follow, so many to begin with.")
]
Follow = Annotated[bool, typer.Option("--follow", help="Go on with what comes, the newest last.")]
Oldest = Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")]


def _command(which: List, about: str) -> None:
    """Adds the command of one list."""

    @takes_filters()
    def command(
        context: typer.Context,
        wanted: Filters,
        *,
        limit: Limit = 20,
        oldest_first: Oldest = False,
        going_on: Follow = False,
        output: Output = Format.TABLE,
    ) -> None:
        _show(context, which, wanted, limit=limit, oldest_first=oldest_first, going_on=going_on, output=output)

    app.command(which.value, help=about)(command)


_MORE = "Those that a rule suppresses are left out, unless asked for; `quell explain ID` shows one whole."
_command(List.EVENTS, f"What happens to the platform and to containers. {_MORE}")
_command(List.SECURITY_EVENTS, f"Incidents, threats, violations and deviations from policies. {_MORE}")
_command(List.RISK_REPORTS, f"Scans for vulnerabilities, compliance checks and admission control. {_MORE}")
_command(List.ALL, f"The three lists as one. {_MORE}")


@app.command()
@takes_filters()
def export(
    context: typer.Context,
    wanted: Filters,
    *,
    which: Annotated[List, typer.Option("--list", help="Which list.")] = List.ALL,
    format: As = FileFormat.NDJSON,  # noqa: A002 - the word of the option
    file: To = Path("-"),
    oldest_first: Oldest = False,
) -> None:
    """Save what a search finds, all of it. docs/notifications.md describes the columns."""
    from quell.model.notification import NotificationList

    named, searched = NotificationList(which), filter_of(wanted)
    with connect(context) as client:
        write(
            file,
            lambda told: client.notifications.export(
                named, format.value, searched, oldest_first=oldest_first, told=told
            ),
        )


def _show(
    context: typer.Context,
    which: List,
    wanted: Filters,
    *,
    limit: int,
    oldest_first: bool,
    going_on: bool,
    output: Format,
) -> None:
    from quell.model.notification import NotificationList

    if going_on and (oldest_first or "until" in wanted):
        raise typer.BadParameter("--follow goes on for ever, the newest last: neither --oldest-first nor --until fits")
    with connect(context) as client:
        ask = partial(client.notifications.page, NotificationList(which), filter_of(wanted))
        if going_on:
            print_following(
                follow(ask, limit), output, [(_WIDTHS.get(name, 0), show) for name, show in _COLUMNS.items()]
            )
        else:
            print_rows(search(ask, limit, oldest_first=oldest_first), output, _COLUMNS, empty="nothing was found")


def _rules(one: Notification) -> str:
    return ", ".join(rule.name or rule.ref for rule in one.rules)


def _actions(one: Notification) -> str:
    told = ", ".join(
        " ".join(filter(None, (each.action, each.status, each.reason, each.outcome))) for each in one.actions
    )
    return f"suppressed: {told}" if one.suppressed else told


def about(subject: Subject) -> str:
    """Whom an event is about, in a few words: the workload, else the host, else a user or group."""
    container, pod = subject.container, subject.pod
    if pod is not None and pod.name:
        workload = pod.name
    else:
        workload = "" if container is None else container.name or container.id[:12]
    if workload:
        return f"{subject.namespace}/{workload}" if subject.namespace else workload
    return subject.image or subject.node or subject.namespace or subject.user or subject.group or ""


_COLUMNS: Mapping[str, Callable[[Notification], object]] = {
    "received": lambda one: clock(one.received),
    "level": lambda one: one.level,
    "name": lambda one: one.name,
    "about": lambda one: about(one.subject),
    "rules": _rules,
    "actions": _actions,
    "id": lambda one: one.id,
}
#: Of columns in lines that come one by one.
_WIDTHS = {"received": 24, "level": 9, "name": 32, "about": 24, "rules": 12, "actions": 20}
