"""The options of every command that searches events, and the search itself: page after page, and what comes later."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from quell.cli.output import Format, clock, console, print_data, visible
from quell.moments import parse_moment

if TYPE_CHECKING:
    from quell.model.notification import Filter, SearchPage

Item = TypeVar("Item")
#: What was given, by the filter's name (quell.model.notification.Filter).
Filters = dict[str, Any]
Command = Callable[..., None]

#: Seconds between two looks for what is new, and what is asked for at once.
_EVERY = 1.0
_PAGE = 500


class Ask(Protocol[Item]):
    """A page of a search."""

    def __call__(self, limit: int, *, cursor: str | None = None, oldest_first: bool = False) -> SearchPage[Item]: ...


def moment(text: str) -> float:
    """The parser of an option that is a time."""
    try:
        return parse_moment(text, time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _options(
    *,
    since: Annotated[
        float | None,
        typer.Option("--since", parser=moment, metavar="TIME", help="Received then or later: 2h ago, or a time."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option("--until", parser=moment, metavar="TIME", help="Received before then: 2h ago, or a time."),
    ] = None,
    level: Annotated[list[str] | None, typer.Option("--level", help='A level, or ">=Warning" and the like.')] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="The detector's or the catalogue's name; globs.")
    ] = None,
    category: Annotated[list[str] | None, typer.Option("--category", help="Such as security-event.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="incident, threat or violation.")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="Members of this group.")] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", help="The first digits of a container's id, or its, a pod's or a service's name; globs."
        ),
    ] = None,
    namespace: Annotated[list[str] | None, typer.Option("--namespace", help="A namespace; globs.")] = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="A host's name; globs.")] = None,
    image: Annotated[list[str] | None, typer.Option("--image", help="An image; globs.")] = None,
    source: Annotated[list[str] | None, typer.Option("--source", help="A detector, such as falco.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="Id or name of a rule or policy that it matched.")
    ] = None,
    action: Annotated[list[str] | None, typer.Option("--action", help="An action that was asked for.")] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="What was decided of it: granted, refused or held.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help='Words that all stand in it; "in quotes" with blanks. No case.'),
    ] = None,
    decided: Annotated[bool, typer.Option("--decided", help="Only those that a rule or policy matched.")] = False,
    include_suppressed: Annotated[
        bool, typer.Option("--include-suppressed", help="Also those that a rule keeps out of notifications.")
    ] = False,
) -> None:
    """The filters. Each that takes a list can be given several times, and then means any of them."""


def takes_filters(*without: str, of: Callable[..., None] | None = None) -> Callable[[Command], Command]:
    """A command gets the filters as options, but for those named, and what was given as `wanted`.

    of: a function that has them as parameters, in place of those of events.
    """
    options = [one for one in _parameters(of or _options) if one.name not in without]

    def decorate(command: Command) -> Command:
        own = [one for one in _parameters(command) if one.name != "wanted"]
        # Typer shows options in this order: what a command is for comes first.
        parameters = [one for one in own if one.kind is not inspect.Parameter.KEYWORD_ONLY]
        parameters += options
        parameters += [one for one in own if one.kind is inspect.Parameter.KEYWORD_ONLY]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            wanted = {one.name: given.pop(one.name) for one in options}
            chosen = {name: value for name, value in wanted.items() if value is not None and value != []}
            command(wanted=chosen, **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def filter_of(wanted: Filters) -> Filter:
    """For quell.client."""
    from quell.model.notification import Filter

    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()}
    return Filter(**given)


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def search(ask: Ask[Item], limit: int, *, begin: Ask[Item] | None = None, oldest_first: bool = False) -> list[Item]:
    """Up to so many items; begin: asks for the first page. On a terminal it says how far a long search is."""
    cursor: str | None = None
    left = limit
    screen = console(error=True)
    searching: AbstractContextManager[Any] = screen.status("searching") if screen.is_terminal else nullcontext()
    found: list[Item] = []
    with searching as status:
        while left > 0:
            asking = ask if begin is None or cursor else begin
            page = asking(min(left, _PAGE), cursor=cursor, oldest_first=oldest_first)
            found += page.items
            left -= len(page.items)
            cursor = page.next
            if cursor is None:
                break
            if status is not None:
                status.update(f"searching, {len(found)} found, back to {clock(page.searched_until)}")
    return found


def follow(ask: Ask[Item], limit: int) -> Iterator[Item]:
    """The last so many items, the newest last, and then each that comes, until it is interrupted."""
    first = ask(limit)
    yield from reversed(first.items)
    cursor = first.resume
    while True:
        page = ask(_PAGE, cursor=cursor, oldest_first=True)
        yield from page.items
        cursor = page.resume
        if page.complete:
            time.sleep(_EVERY)


def print_following(
    items: Iterator[Item], form: Format, columns: Sequence[tuple[int, Callable[[Item], object]]]
) -> None:
    """A line an item, at once; a document an item in YAML. columns: the least width of each, and what it shows."""
    import msgspec

    try:
        for item in items:
            match form:
                case Format.TABLE:
                    cells = [visible(str(value(item) or "-")).ljust(width) for width, value in columns]
                    print("  ".join(cells).rstrip(), flush=True)
                case Format.JSON:
                    print(msgspec.json.encode(item).decode(), flush=True)
                case Format.YAML:
                    print("---")
                    print_data(item, form)
                    sys.stdout.flush()
    except KeyboardInterrupt:
        return
