"""The command line: `quell` and its commands, one module a noun. Heavy imports wait until a command needs them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from quell import __version__
from quell.cli import (
    agents,
    approvals,
    audit,
    backups,
    completion,
    deviations,
    doctor,
    documents,
    dry_run,
    events,
    evidence,
    explain,
    export,
    flags,
    importing,
    login,
    notifications,
    overview,
    policies,
    processes,
    quarantines,
    rbac,
    rejects,
    rules,
    rulesets,
    settings,
    syslog,
    tokens,
    traces,
    users,
    webhooks,
)
from quell.cli.connection import DEFAULT_URL, Connection
from quell.cli.demo import command as demo
from quell.cli.exits import MEANINGS, Exit, exit_of
from quell.cli.output import visible
from quell.errors import ApiError, DocumentError, QuellError

app = typer.Typer(
    name="quell",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + ".",
)


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str, typer.Option("--url", envvar="QUELL_URL", help="The controller's address.")] = DEFAULT_URL,
    token: Annotated[
        str,
        typer.Option(
            "--token",
            envvar="QUELL_TOKEN",
            help="An API token; without one, the session of `quell login NAME`, or the admin.token of the state folder.",
            show_default=False,
        ),
    ] = "",
    state: Annotated[
        Path | None,
        typer.Option("--state", envvar="QUELL_STATE", help="The state folder of a controller on this machine."),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            envvar="QUELL_CA_FILE",
            help="PEM: whom to trust for https; default: the ca.crt of the state folder, else the system's list.",
        ),
    ] = None,
) -> None:
    """An open response engine for runtime security: detectors say what happened; Quell decides, acts, and can say why."""
    context.obj = Connection(url=url, token=token, state=state, ca_file=ca_file)


app.command()(processes.up)
app.command()(processes.controller)
app.command(context_settings=processes.PASS_THROUGH, add_help_option=False)(processes.agent)
app.command()(documents.apply)
app.command()(documents.get)
app.command()(documents.delete)
app.command()(documents.validate)
app.command()(export.export)
app.command()(explain.explain)
app.command()(dry_run.dry_run)
app.command()(settings.status)
app.command()(overview.overview)
app.command()(settings.pause)
app.command()(settings.resume)
app.command()(login.login)
app.command()(login.logout)
app.command()(backups.backup)
app.command()(backups.restore)
app.command()(doctor.doctor)
app.command()(rbac.rbac)
app.command()(agents.rotate_key)
app.command()(demo.demo)
app.add_typer(importing.app, name="import")
app.add_typer(rules.app, name="rules")
app.add_typer(policies.app, name="policies")
app.add_typer(policies.app, name="policy", hidden=True)
app.add_typer(rulesets.app, name="rulesets")
app.add_typer(rulesets.app, name="ruleset", hidden=True)
app.add_typer(deviations.app, name="deviations")
app.add_typer(deviations.app, name="deviation", hidden=True)
app.add_typer(events.app, name="events")
app.add_typer(evidence.app, name="evidence")
app.add_typer(notifications.app, name="notifications")
app.add_typer(flags.app, name="flags")
app.add_typer(traces.app, name="traces")
app.add_typer(rejects.app, name="rejects")
app.add_typer(quarantines.app, name="quarantines")
app.add_typer(approvals.app, name="approvals")
app.add_typer(approvals.breakers, name="breakers")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(webhooks.app, name="webhook", hidden=True)
app.add_typer(syslog.app, name="syslog")
app.add_typer(agents.app, name="agents")
app.add_typer(users.app, name="users")
app.add_typer(users.app, name="user", hidden=True)
app.add_typer(tokens.app, name="tokens")
app.add_typer(tokens.app, name="token", hidden=True)
app.add_typer(settings.app, name="settings")
app.add_typer(audit.app, name="audit")


@app.command()
def version() -> None:
    """Print this program's version."""
    print(__version__)


def asked_for(words: Sequence[str]) -> typer.Typer:
    """Of the application only what these words call, if they call anything: to make all of it takes longer than most calls."""
    rest = iter(words)
    noun = ""
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            noun = word
            break
    groups = [group for group in app.registered_groups if group.name == noun]
    if not groups:
        return app
    only = copy.copy(app)
    only.registered_groups, only.registered_commands = groups, []
    return only


def main() -> None:
    """The entry point: runs the command and turns an error into a short message and its exit code."""
    try:
        if completion.wanted_in_bash():
            completion.in_bash(lambda: app(prog_name="quell"))
        else:
            asked_for(sys.argv[1:])(prog_name="quell")
    except QuellError as error:
        _report(error)
        sys.exit(exit_of(error))
    except OSError as error:
        if error.filename is None:
            raise
        print(f"quell: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(Exit.INPUT)


def _report(error: QuellError) -> None:
    problems = error.problems if isinstance(error, DocumentError | ApiError) else []
    if problems:
        from quell.cli.output import console
        from quell.cli.problems import print_problems

        print_problems(console(error=True), problems)
        return
    print(f"quell: {visible(str(error))}", file=sys.stderr)
    advice = _ADVICE.get(exit_of(error))
    if advice:
        print(advice, file=sys.stderr)


#: Options before the noun that are followed by a value.
_WITH_VALUE = frozenset(("--url", "--token", "--state", "--ca-file"))

_ADVICE = {
    Exit.UNREACHABLE: "Is one running (`quell up`)? Another address: --url or QUELL_URL.",
    Exit.FORBIDDEN: "Log in as who may (quell login NAME), or give a token: --token, QUELL_TOKEN, or --state FOLDER on its machine.",
}
