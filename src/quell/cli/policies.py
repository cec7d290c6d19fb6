"""policies list, show, status, mode, enable, disable, delete and options."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli import completion
from quell.cli.connection import connect
from quell.cli.documents import print_changes
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible

if TYPE_CHECKING:
    from quell.client import Client
    from quell.client.documents import Change
    from quell.client.policies import ListedPolicy

app = typer.Typer(
    help="Policies: what is expected of containers and services, what deviates from it, and what is done then.",
    no_args_is_help=True,
)


class Type(StrEnum):
    CONTAINER = "container"
    LINUX_SERVICE = "linux-service"
    CLUSTER = "cluster"
    TRACE = "trace"


class Status(StrEnum):
    DISABLED = "Disabled"
    AUDITING = "Auditing"
    ENFORCING = "Enforcing"
    PENDING = "Pending"


class ModeWord(StrEnum):
    AUDIT = "audit"
    ENFORCE = "enforce"


PolicyWord = Annotated[str, typer.Argument(help="A policy's name.", autocompletion=completion.policies)]
PolicyWords = Annotated[list[str], typer.Argument(help="Policies' names.", autocompletion=completion.policies)]
OfType = Annotated[Type | None, typer.Option("--type", help="Only of this type.")]
InStatus = Annotated[Status | None, typer.Option("--status", help="Only those in this state.", case_sensitive=False)]
AsSource = Annotated[str, typer.Option("--source", help="By what name, such as git/prod.", show_default=False)]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Also if it belongs to another source.")]
Unquarantine = Annotated[bool, typer.Option("--unquarantine", help="End the quarantines that it holds.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


@app.command("list")
def list_(
    context: typer.Context, *, type_: OfType = None, status: InStatus = None, output: Output = Format.TABLE
) -> None:
    """The policies, what each does now, and how many different deviations it found, and how often."""
    with connect(context) as client:
        found = client.policies.all(type=type_, status=status)
    print_rows(
        found,
        output,
        {
            "name": lambda policy: policy.name,
            "type": lambda policy: policy.type,
            "status": lambda policy: policy.status,
            "deviations (uniq/tot)": _counted,
            "response": lambda policy: _actions(policy.policy),
            "note": lambda policy: policy.notes,
        },
        empty="no policies",
    )


@app.command()
def show(context: typer.Context, policy: PolicyWord, output: Output = Format.TABLE) -> None:
    """One policy: what it does now, what it found, and what it says."""
    with connect(context) as client:
        found = client.policies.one(policy)
    if output is not Format.TABLE:
        print_data(found, output)
        return
    _print_state(found)
    print()
    from quell.documents.write import as_yaml

    print(as_yaml(found.policy), end="")


@app.command()
def status(context: typer.Context, policy: PolicyWord, output: Output = Format.TABLE) -> None:
    """What a policy does now and found lately. Exit code 0, whatever it found."""
    with connect(context) as client:
        found = client.policies.one(policy)
        deviations = client.deviations.all(10, policy=[policy], status=["open"])
    if output is not Format.TABLE:
        print_data({"policy": found, "deviations": deviations}, output)
        return
    _print_state(found)
    if deviations:
        print()
    from quell.cli.deviations import print_deviations

    if deviations:
        print_deviations(deviations, output, policies=False)


@app.command("mode")
def mode_(
    context: typer.Context,
    policy: PolicyWord,
    mode: Annotated[ModeWord, typer.Argument(help="audit: record what would be done. enforce: do it.")],
    *,
    source: AsSource = "",
    take_over: TakeOver = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Switch a policy between audit and enforce. One that kills or isolates takes an operator.

    What runs already is compared again at once: `quell policies simulate` says before what would be done.
    """
    with connect(context) as client:
        changed = client.policies.set_mode(policy, mode, source=source, take_over=take_over, dry_run=dry_run)
    _print([changed], output, dry_run=dry_run)


@app.command()
def enable(
    context: typer.Context,
    policies: PolicyWords,
    *,
    source: AsSource = "",
    take_over: TakeOver = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Put policies in force. One that kills or isolates takes an operator."""

    def switch(client: Client, name: str) -> Change:
        return client.policies.enable(name, source=source, take_over=take_over, dry_run=dry_run)

    _each(context, policies, switch, output, dry_run=dry_run)


@app.command()
def disable(
    context: typer.Context,
    policies: PolicyWords,
    *,
    source: AsSource = "",
    take_over: TakeOver = False,
    unquarantine: Unquarantine = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Put policies out of force. Without --unquarantine what they isolated stays isolated, and the answer names it."""

    def switch(client: Client, name: str) -> Change:
        return client.policies.disable(
            name, source=source, take_over=take_over, unquarantine=unquarantine, dry_run=dry_run
        )

    _each(context, policies, switch, output, dry_run=dry_run)


@app.command()
def delete(
    context: typer.Context,
    policies: PolicyWords,
    *,
    unquarantine: Unquarantine = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete policies. Their deviations are kept as long as any."""
    with connect(context) as client:
        found = [client.policies.one(name) for name in policies]
        if not yes:
            for policy in found:
                held = f", which holds {', '.join(policy.quarantines)} in quarantine" if policy.quarantines else ""
                typer.confirm(f"Delete policy {visible(policy.name)}{held}?", abort=True, err=True)
        changes = [
            change
            for policy in found
            for change in client.documents.delete("Policy", policy.name, unquarantine=unquarantine)
        ]
    _print(changes, output, dry_run=False)


@app.command()
def options(
    context: typer.Context,
    type_: Annotated[Type | None, typer.Argument(metavar="[TYPE]", help="Only policies of this type.")] = None,
    *,
    local: Annotated[bool, typer.Option("--local", help="Without a controller: no rulesets and webhooks.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """What can be written in a policy or ruleset: types, selectors, lists and actions; rulesets and webhooks."""
    import msgspec

    from quell.cli.policy_options import print_options

    if local:
        from quell.documents.policy_options import policy_options

        told = policy_options()
    else:
        with connect(context) as client:
            told = client.policies.options()
    if type_ is not None:
        told = msgspec.structs.replace(told, types=tuple(each for each in told.types if each.type == type_))
    print_options(told, output)


def _print_state(found: ListedPolicy) -> None:
    rows: dict[str, Any] = {
        "policy": f"{found.name}  ({found.type})",
        "status": found.status,
        "note": found.notes,
        "rulesets": ", ".join(found.rulesets),
        "deviations": f"{found.deviations.unique} different ones, found {found.deviations.total} times",
        "source": found.source,
        "changed": f"{clock(found.changed)} by {found.changed_by}" if found.changed else None,
        "quarantined": found.quarantines,
    }
    for name, value in rows.items():
        for each in value if isinstance(value, list) else [value]:
            if each:
                print(f"{name:12} {visible(str(each))}")


def _counted(policy: ListedPolicy) -> str:
    return f"{policy.deviations.unique}/{policy.deviations.total}"


def _actions(spec: dict[str, Any]) -> list[str]:
    response = spec.get("response") or {}
    entries = [*(response.get("default") or ()), *(response.get("actions") or ())]
    return list(dict.fromkeys(word for entry in entries for word in entry))


def _each(
    context: typer.Context, names: list[str], change: Callable[[Client, str], Change], output: Format, *, dry_run: bool
) -> None:
    with connect(context) as client:
        _print([change(client, name) for name in names], output, dry_run=dry_run)


def _print(changes: list[Change], output: Format, *, dry_run: bool) -> None:
    print_changes(changes, output, note=" (dry run)" if dry_run else "")
