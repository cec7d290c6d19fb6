"""rules list, show, insert, edit, try, move, enable, disable, delete, restore-defaults and options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli import completion
from quell.cli.connection import connect
from quell.cli.documents import print_changes
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible

if TYPE_CHECKING:
    from quell.client import Client
    from quell.client.documents import Change
    from quell.client.rules import ListedRule

app = typer.Typer(
    help="The response rules, in their order. Order is for people: it changes no decision.", no_args_is_help=True
)

RuleWord = Annotated[str, typer.Argument(help="A rule's id or name.", autocompletion=completion.rules)]
RuleWords = Annotated[list[str], typer.Argument(help="Rules' ids or names.", autocompletion=completion.rules)]
Event = Annotated[
    str | None,
    typer.Option(
        "--event", "-e", help="The category, or a kind of security event.", autocompletion=completion.categories
    ),
]
Group = Annotated[
    str | None,
    typer.Option("--group", "-g", help='The group it applies to; "": everything.', autocompletion=completion.groups),
]
Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        "-c",
        help="type:value, such as level:Critical; {process: [nc, ncat]} for any of several. All criteria must hold.",
        autocompletion=completion.criteria,
    ),
]
Actions = Annotated[
    list[str] | None,
    typer.Option(
        "--action",
        "-a",
        help="A word, with parameters as makeRedFlag:severity=high,impact=... or {makeRedFlag: {severity: high}}.",
        autocompletion=completion.actions,
    ),
]
Endpoints = Annotated[
    list[str] | None,
    typer.Option("--webhook", "-w", help="A webhook's name.", autocompletion=completion.webhooks),
]
Comment = Annotated[str | None, typer.Option("--comment", help="What it is for.")]
ModeWord = Annotated[str | None, typer.Option("--mode", help="enforce, or audit: record and do nothing.")]
Cooldown = Annotated[str | None, typer.Option("--cooldown", help="Between two successes on one target, such as 5m.")]
Ttl = Annotated[str | None, typer.Option("--ttl", help="After how long its quarantines end, such as 1h.")]
CountLimit = Annotated[str | None, typer.Option("--limit", help="At most so many of its actions, such as 10/1m.")]
MaxAge = Annotated[str | None, typer.Option("--max-age", help="How old an event it acts on may be, such as 60s.")]
Approval = Annotated[bool | None, typer.Option("--approval/--no-approval", help="Whether a person has to agree.")]
EvidenceFirst = Annotated[
    bool | None, typer.Option("--evidence/--no-evidence", help="Whether evidence is gathered before its kills.")
]
Broad = Annotated[
    bool | None,
    typer.Option("--allow-broad/--no-allow-broad", help="That a destructive rule on everything is meant."),
]
AsSource = Annotated[str, typer.Option("--source", help="By what name, such as git/prod.", show_default=False)]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Also if it belongs to another source.")]
Unquarantine = Annotated[bool, typer.Option("--unquarantine", help="End the quarantines that it holds.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]
Top = Annotated[bool, typer.Option("--top", help="Above all others.")]
Below = Annotated[
    str | None, typer.Option("--below", help="Directly below this rule.", autocompletion=completion.rules)
]
Above = Annotated[
    str | None, typer.Option("--above", help="Directly above this rule.", autocompletion=completion.rules)
]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    category: Annotated[
        str | None,
        typer.Option("--category", help="Only this category or kind.", autocompletion=completion.categories),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Only of this group.", autocompletion=completion.groups)
    ] = None,
    enabled: Annotated[bool | None, typer.Option("--enabled/--disabled", help="Only enabled or disabled ones.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Only with this text in what they say.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """The rules as they stand, with what each does now."""
    with connect(context) as client:
        found = client.rules.all(category=category, group=group, enabled=enabled, text=text)
    print_rows(
        found,
        output,
        {
            "place": lambda rule: rule.place,
            "id": lambda rule: rule.id,
            "name": lambda rule: rule.name,
            "on": lambda rule: rule.rule["event"],
            "group": lambda rule: rule.rule.get("group"),
            "criteria": lambda rule: list(map(_written, rule.rule.get("criteria", ()))),
            "actions": lambda rule: [_word(action) for action in rule.rule["actions"]],
            "status": _status,
            "matched": lambda rule: rule.matched,
        },
        empty="no rules",
    )


@app.command()
def show(context: typer.Context, rule: RuleWord, output: Output = Format.TABLE) -> None:
    """One rule: what it says, what it does now, and what it holds in quarantine."""
    with connect(context) as client:
        found = _found(client, rule)
        of = len(client.rules.all())
    if output is not Format.TABLE:
        print_data(found, output)
        return
    rows = {
        "rule": f"{found.id}  {found.name}",
        "place": f"{found.place} of {of}",
        "status": _status(found),
        "note": found.notes,
        "default": found.default,
        "source": found.source,
        "changed": f"{clock(found.changed)} by {found.changed_by}" if found.changed else None,
        "quarantined": found.quarantines,
    }
    for name, value in rows.items():
        for each in value if isinstance(value, list) else [value]:
            if each:
                print(f"{name:12} {visible(str(each))}")
    print()
    print(_yaml(_editable(found)), end="")


@app.command()
def insert(
    context: typer.Context,
    *,
    event: Event = None,
    group: Group = None,
    criterion: Criteria = None,
    action: Actions = None,
    webhook: Endpoints = None,
    name: Annotated[str | None, typer.Option("--name", help="Its name; default: one with its id.")] = None,
    comment: Comment = None,
    mode: ModeWord = None,
    cooldown: Cooldown = None,
    ttl: Ttl = None,
    limit: CountLimit = None,
    max_age: MaxAge = None,
    approval: Approval = None,
    evidence: EvidenceFirst = None,
    allow_broad: Broad = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Not in force yet.")] = False,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Rules as documents or as their fields, in YAML or JSON; -: standard input."),
    ] = None,
    top: Top = False,
    below: Below = None,
    above: Above = None,
    source: AsSource = "",
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Insert a rule, said by options or in a file: last, or where --top, --below or --above says."""
    from quell.cli.rule_words import given, rules_in

    fields = given(
        criterion,
        action,
        webhook,
        name=name,
        event=event,
        group=group or None,
        comment=comment,
        mode=mode,
        cooldown=cooldown,
        ttl=ttl,
        limit=limit,
        max_age=max_age,
        approval=approval,
        evidence=evidence,
        allow_broad=allow_broad,
        disable=disabled or None,
    )
    if file is not None and fields:
        raise typer.BadParameter("--file says all of the rules: leave out what says parts of one")
    if file is None and ("event" not in fields or "actions" not in fields):
        raise typer.BadParameter("a rule needs --event and at least one --action; or give a --file")
    rules = [fields] if file is None else rules_in(file)
    with connect(context) as client:
        changes = client.rules.insert(
            rules, _after(client, top=top, below=below, above=above), source=source, dry_run=dry_run
        )
    _print(changes, output, dry_run=dry_run)


@app.command()
def edit(
    context: typer.Context,
    rule: RuleWord,
    *,
    event: Event = None,
    group: Group = None,
    criterion: Criteria = None,
    action: Actions = None,
    webhook: Endpoints = None,
    comment: Comment = None,
    mode: ModeWord = None,
    cooldown: Cooldown = None,
    ttl: Ttl = None,
    limit: CountLimit = None,
    max_age: MaxAge = None,
    approval: Approval = None,
    evidence: EvidenceFirst = None,
    allow_broad: Broad = None,
    clear: Annotated[
        list[str] | None, typer.Option("--clear", help="A field that it is to be without, such as criteria or comment.")
    ] = None,
    source: AsSource = "",
    take_over: TakeOver = False,
    unquarantine: Unquarantine = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Change a rule: what the options say, or without any its YAML in $EDITOR. Its place stays."""
    from quell.cli.rule_words import difference, given

    fields = given(
        criterion,
        action,
        webhook,
        event=event,
        group=group,
        comment=comment,
        mode=mode,
        cooldown=cooldown,
        ttl=ttl,
        limit=limit,
        max_age=max_age,
        approval=approval,
        evidence=evidence,
        allow_broad=allow_broad,
    ) | dict.fromkeys(clear or ())
    with connect(context) as client:
        found = _found(client, rule)

        def change(fields: dict[str, Any]) -> Change:
            return client.rules.edit(
                found.id,
                fields,
                source=source,
                take_over=take_over,
                unquarantine=unquarantine,
                dry_run=dry_run,
                version=found.revision,
            )

        if fields:
            changed = change(fields)
        else:
            from quell.cli.editor import edited

            before = _editable(found)
            done = edited(
                _yaml(before),
                f"rule {found.id}, {found.name}, place {found.place}; saved as it is: nothing is changed",
                lambda after: None if after == before else change(difference(before, after)),
            )
            if done is None:
                print("nothing is changed", file=sys.stderr)
                return
            changed = done
    _print([changed], output, dry_run=dry_run)


@app.command("try")
def try_(
    context: typer.Context,
    rule: Annotated[
        str | None,
        typer.Argument(
            help="A rule that is there: as it is, or as the options change it.", autocompletion=completion.rules
        ),
    ] = None,
    *,
    event: Event = None,
    group: Group = None,
    criterion: Criteria = None,
    action: Actions = None,
    webhook: Endpoints = None,
    events: Annotated[
        int, typer.Option("--events", min=1, max=10_000, help="How many of the newest to look at.")
    ] = 1000,
    output: Output = Format.TABLE,
) -> None:
    """Which of the last events a rule would have matched. Nothing is changed, and nothing is done."""
    from quell.cli.rule_words import given

    fields = given(criterion, action, webhook, event=event, group=group)
    if rule is None and ("event" not in fields or "actions" not in fields):
        raise typer.BadParameter("name a rule, or say one with --event and at least one --action")
    with connect(context) as client:
        found = None if rule is None else _found(client, rule)
        told = client.rules.trial(fields, of=None if found is None else found.id, events=events)
    if output is not Format.TABLE:
        print_data(told, output)
        return
    for warning in told.warnings:
        print(f"warning: {visible(warning)}", file=sys.stderr)
    print(f"{told.matched} of the last {told.looked_at} events would have matched")
    if told.latest:
        print_rows(
            told.latest,
            output,
            {
                "received": lambda met: clock(met.received),
                "level": lambda met: met.level.value,
                "event": lambda met: met.name,
                "id": lambda met: met.id,
            },
            empty="",
        )


@app.command()
def move(
    context: typer.Context,
    rule: RuleWord,
    *,
    top: Top = False,
    bottom: Annotated[bool, typer.Option("--bottom", help="Below all others.")] = False,
    below: Below = None,
    above: Above = None,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Put a rule at another place, for people who read the list: no decision changes."""
    if not (top or bottom or below or above):
        raise typer.BadParameter("where to: --top, --bottom, --below RULE or --above RULE")
    with connect(context) as client:
        after = _after(client, top=top, bottom=bottom, below=below, above=above)
        changed = client.rules.move(_found(client, rule).id, after, dry_run=dry_run)
    _print([changed], output, dry_run=dry_run)


@app.command()
def enable(
    context: typer.Context,
    rules: RuleWords,
    *,
    source: AsSource = "",
    take_over: TakeOver = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Put rules in force. One that kills, isolates or renices takes an operator."""

    def switch(client: Client, number: int) -> Change:
        return client.rules.enable(number, source=source, take_over=take_over, dry_run=dry_run)

    _each(context, rules, switch, output, dry_run=dry_run)


@app.command()
def disable(
    context: typer.Context,
    rules: RuleWords,
    *,
    source: AsSource = "",
    take_over: TakeOver = False,
    unquarantine: Unquarantine = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Put rules out of force. Without --unquarantine what they isolated stays isolated, and the answer names it."""

    def switch(client: Client, number: int) -> Change:
        return client.rules.disable(
            number, source=source, take_over=take_over, unquarantine=unquarantine, dry_run=dry_run
        )

    _each(context, rules, switch, output, dry_run=dry_run)


@app.command()
def delete(
    context: typer.Context,
    rules: RuleWords,
    *,
    unquarantine: Unquarantine = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete rules. Without --unquarantine what they isolated stays isolated, and the answer names it."""
    with connect(context) as client:
        found = [_found(client, word) for word in rules]
        if not (yes or dry_run):
            for rule in found:
                held = f", which holds {', '.join(rule.quarantines)} in quarantine" if rule.quarantines else ""
                typer.confirm(f"Delete rule {rule.id} ({visible(rule.name)}){held}?", abort=True, err=True)
            if not unquarantine and any(rule.quarantines for rule in found):
                unquarantine = typer.confirm("End these quarantines too?", err=True)
        changes = [client.rules.delete(rule.id, unquarantine=unquarantine, dry_run=dry_run) for rule in found]
    _print(changes, output, dry_run=dry_run)


@app.command("restore-defaults")
def restore_defaults(
    context: typer.Context,
    *,
    reset: Annotated[
        bool, typer.Option("--reset", help="Also those that were edited or enabled, as they are shipped: disabled.")
    ] = False,
    take_over: TakeOver = False,
    unquarantine: Unquarantine = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Put back default rules that were deleted. They are disabled, and stand below all others."""
    with connect(context) as client:
        changes = client.rules.restore_defaults(
            reset=reset, take_over=take_over, unquarantine=unquarantine, dry_run=dry_run
        )
    if not changes and output is Format.TABLE:
        print("the default rules are all there", file=sys.stderr)
        return
    _print(changes, output, dry_run=dry_run)


@app.command()
def options(
    context: typer.Context,
    category: Annotated[
        str | None, typer.Argument(help="Only this category.", autocompletion=completion.categories)
    ] = None,
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Without a controller: no groups, webhooks and names seen.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """What can be written in a rule: criteria, names, actions; groups and webhooks."""
    from quell.cli.rule_options import print_options

    if local:
        from quell.documents.options import rule_options
        from quell.documents.rule import category_of

        meant = category_of(category or "")
        if category and meant is None:
            raise typer.BadParameter(f"no category {category}")
        told = rule_options() if meant is None else rule_options(categories=[meant[0]])
    else:
        with connect(context) as client:
            told = client.rules.options(category)
    print_options(told, output)


def _found(client: Client, word: str) -> ListedRule:
    """By id, or else by name; the path of a request cannot hold a name with a slash. ApiError 404."""
    if "/" in word and (named := client.rules.all(name=word)):
        return named[0]
    return client.rules.one(word)


def _after(
    client: Client, *, top: bool = False, bottom: bool = False, below: str | None = None, above: str | None = None
) -> int | None:
    if sum((top, bottom, below is not None, above is not None)) > 1:
        raise typer.BadParameter("a rule has one place: say one of --top, --bottom, --below and --above")
    if below is not None:
        return _found(client, below).id
    if above is not None:
        return -_found(client, above).id
    return 0 if top else None


def _each(
    context: typer.Context, words: list[str], change: Callable[[Client, int], Change], output: Format, *, dry_run: bool
) -> None:
    with connect(context) as client:
        found = [_found(client, word) for word in words]
        _print([change(client, rule.id) for rule in found], output, dry_run=dry_run)


def _print(changes: list[Change], output: Format, *, dry_run: bool) -> None:
    print_changes(changes, output, note=" (dry run)" if dry_run else "", places=True)


def _status(rule: ListedRule) -> str:
    return f"{rule.status} (broad)" if any("allow_broad" in note for note in rule.notes) else rule.status


def _editable(rule: ListedRule) -> dict[str, Any]:
    return {name: value for name, value in rule.rule.items() if name not in ("id", "name")}


def _yaml(fields: dict[str, Any]) -> str:
    from quell.documents.write import as_yaml

    return as_yaml(fields)


def _written(criterion: Any) -> str:
    if isinstance(criterion, dict):
        return f"{criterion['type']}:{'|'.join(criterion['value'])}"
    return str(criterion)


def _word(action: Any) -> str:
    return next(iter(action), "") if isinstance(action, dict) else str(action)
