"""explain: the decision record of an event, past or imagined."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, console, print_data
from quell.errors import EventError

if TYPE_CHECKING:
    from quell.detectors import Detector
    from quell.model.event import Event
    from quell.model.explanation import Explanation
    from quell.response.state import State

Rules = Annotated[
    list[str] | None, typer.Option("-f", "--file", help="Documents to judge the event by: a YAML file or folder.")
]
EventFile = Annotated[str | None, typer.Option("--event", help="A file with one event, or - for standard input.")]


def explain(
    context: typer.Context,
    event_id: Annotated[str | None, typer.Argument(help="An event the controller has taken.")] = None,
    *,
    file: Rules = None,
    event: EventFile = None,
    detector: Annotated[str, typer.Option("--detector", help="Whose format the event file has.")] = "native",
    near_misses: Annotated[
        bool, typer.Option("--near-misses", help="Also the rules that did not match, and on what they failed.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say why something was done, or what would be.

    With an event's id: the record of what the controller decided, and what came of it.
    With -f and --event: what these documents would decide, without a controller. The event counts as received when it
    happened, by a fresh engine whose agent on that machine can do everything.
    """
    offline = file is not None or event is not None
    if (event_id is None) is not offline or (file is None) is not (event is None):
        raise typer.BadParameter("give an event's id, or both -f DOCUMENTS and --event FILE")
    if event_id is not None:
        with connect(context) as client:
            explanation = client.events.explanation(event_id, near_misses=near_misses)
    else:
        assert file is not None and event is not None  # noqa: PT018, S101 - just checked
        explanation = _imagine(file, event, detector, near_misses=near_misses)
    if output is not Format.TABLE:
        print_data(explanation, output)
        return
    from quell.cli.record import print_record

    print_record(console(), explanation, near_misses=near_misses, imagined=offline)


def _imagine(files: list[str], event_file: str, detector: str, *, near_misses: bool) -> Explanation:
    """The record a controller with these documents alone would make of this event."""
    import msgspec

    from quell.cli.documents import read_documents
    from quell.controller.rulebook import alone
    from quell.detectors import DETECTORS
    from quell.evaluate import evaluate
    from quell.matching.index import compile  # noqa: A004 - the word of the design
    from quell.model.explanation import Explanation, facts

    if detector not in DETECTORS:
        raise typer.BadParameter(f"there are {', '.join(DETECTORS)}; got {detector}", param_hint="--detector")
    _, documents = read_documents(files)
    index = compile(alone(documents), revision=1)
    raw = sys.stdin.buffer.read() if event_file == "-" else Path(event_file).read_bytes()
    event = _only(DETECTORS[detector], raw.strip())
    if event.time is not None:
        event = msgspec.structs.replace(event, received=event.time)
    decision = evaluate(event, index, _able(event), event.received, near_misses=near_misses)
    return Explanation(event=facts(event), decision=decision)


def _only(detector: Detector, document: bytes) -> Event:
    """The one event of a document. EventError: it is none, or holds several."""
    from quell.detectors import Divided
    from quell.detectors.context import NOTHING, Skipped

    if not isinstance(detector, Divided):
        return detector.decode(document, id=None, received=time.time())
    parts = [part for part in detector.split(document, NOTHING) if not isinstance(part, (str, Skipped))]
    for part in parts:
        if isinstance(part, EventError):
            raise part
    if len(parts) != 1:
        raise EventError(f"the document holds {len(parts)} events; give it one of them")
    return detector.decode(parts[0], id=None, received=time.time())  # type: ignore[arg-type] # errors were raised


def _able(event: Event) -> State:
    """A fresh engine with one agent, on the event's machine, that can do everything."""
    from quell.catalogue.table import ACTIONS
    from quell.model.action import ActionClass
    from quell.response.state import AgentFacts, State

    state = State()
    agent = AgentFacts(
        id="agent",
        node=event.subject.node or "",
        machine_id=event.subject.machine_id or "",
        boot_id=(event.subject.process.boot_id if event.subject.process else None) or "",
        capabilities=frozenset(spec.word for spec in ACTIONS.values() if spec.action_class is ActionClass.AGENT),
    )
    state.set_agents([agent])
    return state
