"""policies list, show, status, create, merge, diff, simulate, mode, enable, disable, delete, fingerprints and options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli import completion
from quell.cli.connection import connect
from quell.cli.deviations import DIGITS, Since, one, print_deviations
from quell.cli.documents import print_changes
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible

if TYPE_CHECKING:
    from quell.client import Client
    from quell.client.documents import Change
    from quell.client.policies import ListedPolicy, Outcome

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


class KindWord(StrEnum):
    IMAGE = "image"
    SERVICE = "service"


class CreatedAs(StrEnum):
    YAML = "yaml"
    JSON = "json"


Deviations = Annotated[
    list[str] | None,
    typer.Option(
        "--deviation",
        "-d",
        metavar="CHECKSUM",
        help="This one; 4 digits of it do.",
        autocompletion=completion.deviations,
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="All that are open.")]
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
        print_deviations(deviations, output, policies=False)


@app.command()
def create(
    context: typer.Context,
    *,
    from_observed: Annotated[
        bool, typer.Option("--from-observed", help="Of what was seen; the only way, beside writing one.")
    ] = False,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", help="For containers of this image; globs.", autocompletion=completion.images),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            help="For this service, by its control group or name; globs.",
            autocompletion=completion.services,
        ),
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="For what may run in this cluster.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the policy; default: made of what it is for.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply it as well; it only audits.")] = False,
    source: AsSource = "",
    output: Annotated[
        CreatedAs, typer.Option("-o", "--output", help="How to print it; json has what it is made of as well.")
    ] = CreatedAs.YAML,
) -> None:
    """Make a policy that expects what was seen of images, services or a cluster, and print it.

    It audits and makes a red flag. What was seen is in `quell policies fingerprints`: let a workload do all that it does,
    a restart and its nightly jobs included, before you rely on it.
    """
    if not from_observed:
        raise typer.BadParameter("say --from-observed; a policy that you write is applied by `quell apply -f FILE`")
    if sum((bool(image), bool(service), cluster is not None)) != 1:
        raise typer.BadParameter("give one of --image, --service and --cluster")
    with connect(context) as client:
        made = client.policies.observed(image=image or (), service=service or (), cluster=cluster, name=name)
        from quell.documents.write import SEPARATOR, as_yaml

        text = SEPARATOR.join(as_yaml(document) for document in made.documents)
        if apply:
            _print(client.documents.apply(text.encode(), source=source), Format.TABLE, dry_run=False)
            return
    if output is CreatedAs.JSON:
        print_data(made, Format.JSON)
        return
    for each in made.fingerprints:
        lacking = f", {each.dropped} more had no room" if each.dropped else ""
        print(
            visible(
                f"# {each.kind} {each.name}: {each.processes} processes, seen {each.count} times from "
                f"{clock(each.first)} to {clock(each.last)}{lacking}"
            )
        )
    print(text, end="")


@app.command()
def merge(
    context: typer.Context,
    policy: PolicyWord,
    *,
    deviation: Deviations = None,
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    source: AsSource = "",
    take_over: TakeOver = False,
    output: Output = Format.TABLE,
) -> None:
    """Merge deviations into a policy, or into its rulesets: they are expected from now on. Shows the diff and asks."""
    with connect(context) as client:
        read = client.policies.one(policy)
        chosen = _chosen(client, policy, deviation, everything=everything)
        if not yes:
            changes = client.policies.merge(policy, chosen, source=source, take_over=take_over, dry_run=True)
            print_changes(changes, Format.TABLE, note=" (not yet)")
            if not any(change.diff for change in changes):
                print("nothing would change: the policy allows it already", file=sys.stderr)
            typer.confirm(f"Merge {_number(chosen)} into policy {visible(policy)}?", abort=True, err=True)
        done = client.policies.merge(policy, chosen, source=source, take_over=take_over, version=read.revision)
    _print(done, output, dry_run=False)


@app.command()
def diff(
    context: typer.Context,
    policy: PolicyWord,
    *,
    deviation: Deviations = None,
    everything: Everything = False,
    output: Output = Format.TABLE,
) -> None:
    """What merging deviations would change of a policy, or of its rulesets."""
    with connect(context) as client:
        chosen = _chosen(client, policy, deviation, everything=everything)
        changes = client.policies.merge(policy, chosen, dry_run=True)
    if output is not Format.TABLE:
        print_data(changes, output)
        return
    for change in changes:
        print(
            "\n".join(visible(line) for line in change.diff.splitlines()) or f"{change.kind} {change.name}: no change"
        )


@app.command()
def simulate(
    context: typer.Context,
    policy: PolicyWord,
    *,
    mode: Annotated[ModeWord, typer.Option("--mode", help="The mode it would be in.")] = ModeWord.ENFORCE,
    since: Since = None,
    output: Output = Format.TABLE,
) -> None:
    """What a policy would do in another mode about what was seen, where that is not what it does now. Nothing is done."""
    with connect(context) as client:
        told = client.policies.simulate(policy, mode, since=since)
    if output is not Format.TABLE:
        print_data(told, output)
        return
    print_rows(
        told.differences,
        output,
        {
            "deviation": lambda each: each.checksum[:DIGITS],
            "count": lambda each: each.count or "not yet",
            "action": lambda each: each.action,
            "target": lambda each: each.target,
            told.now: lambda each: _decided(each.now),
            f"{told.then}?": lambda each: _decided(each.then),
            "message": lambda each: each.message,
        },
        empty=f"no difference: {told.deviations} deviations, for each the same",
    )


@app.command("fingerprints")
def fingerprints_(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="One image or service: its processes as a tree.", show_default=False)
    ] = None,
    *,
    kind: Annotated[KindWord | None, typer.Option("--kind", help="Only of images, or of services.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Only with this in their names.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """What was seen of images and services: `quell policies create --from-observed` makes policies of it."""
    from quell.cli.fingerprints import print_fingerprint, print_fingerprints

    with connect(context) as client:
        if name is None:
            print_fingerprints(client.policies.fingerprints(kind=kind, text=text), output)
            return
        kinds = [each for each in KindWord if kind in (None, each)]
        listed = client.policies.fingerprints(kind=kind, text=name)
        found = next((each for each in listed if each.name == name and each.kind in kinds), None)
        if found is None:
            raise typer.BadParameter(f"nothing was seen of {name}; `quell policies fingerprints` lists what was")
        print_fingerprint(client.policies.fingerprint(found.kind, name), output)


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


def _chosen(client: Client, policy: str, words: list[str] | None, *, everything: bool) -> list[str]:
    """Whole checksums."""
    if everything == bool(words):
        raise typer.BadParameter("say which: --deviation CHECKSUM, as often as needed, or --all")
    if not everything:
        return [one(client, word, policy).checksum for word in words or ()]
    found = client.deviations.all(policy=[policy], status=["open"])
    able = [each.checksum for each in found if each.addition]
    if len(able) < len(found):
        print(f"{len(found) - len(able)} of {len(found)} left out: no addition would allow them", file=sys.stderr)
    if not able:
        raise typer.BadParameter(f"policy {policy} has no open deviation that could be merged")
    return able


def _number(chosen: list[str]) -> str:
    return f"{len(chosen)} deviation{'s' if len(chosen) > 1 else ''}"


def _decided(outcome: Outcome) -> str:
    if not outcome.status:
        return "nothing"
    return f"{outcome.status} ({outcome.reason})" if outcome.reason else outcome.status


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
