"""doctor: what is missing on this machine, and why it matters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quell.cli.connection import Connection, authority_of, default_state, token_of
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, print_rows


class Part(StrEnum):
    CONTROLLER = "controller"
    AGENT = "agent"
    ALL = "all"


def doctor(
    context: typer.Context,
    *,
    role: Annotated[Part, typer.Option("--role", help="What this machine is to be.")] = Part.ALL,
    agent_state: Annotated[
        Path | None, typer.Option("--agent-state", help="The agent's folder; default: agent in the state folder.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="QUELL_CONFIG", help="The controller's file of settings.")
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, metavar="SECONDS", help="How long to look at most; what is left over is a warning."
        ),
    ] = 2.5,
    output: Output = Format.TABLE,
) -> None:
    """Say what this machine lacks for a controller or an agent, why it matters and what to do. Changes nothing.

    Exit code 0: nothing is missing, though there may be warnings. 1: something is missing.
    """
    from quell.doctor.examine import examine  # the agent's and the client's libraries: only who asks pays for them
    from quell.doctor.finding import Case, Role, Verdict
    from quell.secrets import Secret

    connection = context.find_object(Connection) or Connection()
    state = connection.state or default_state()
    case = Case(
        roles=frozenset(Role) if role is Part.ALL else frozenset((Role(role.value),)),
        url=connection.url.rstrip("/"),
        token=Secret(token_of(connection)),
        state=state,
        agent_state=agent_state or state / "agent",
        config=config,
        ca_file=authority_of(connection),
    )
    findings = examine(case, patience=patience)
    print_rows(
        findings,
        output,
        {
            "verdict": lambda finding: finding.verdict.value,
            "for": lambda finding: finding.role,
            "check": lambda finding: finding.check,
            "found": lambda finding: finding.what,
            "why, and what to do": lambda finding: finding.why,
        },
        empty="nothing was looked at",
    )
    if any(finding.verdict is Verdict.MISSING for finding in findings):
        raise typer.Exit(Exit.FAILED)
