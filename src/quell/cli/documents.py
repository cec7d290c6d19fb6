"""apply, get, delete and validate: the documents people write."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli import inventory
from quell.cli.connection import connect
from quell.cli.names import SeenNames
from quell.cli.output import Format, Output, console, print_data, print_rows, visible

if TYPE_CHECKING:
    from rich.text import Text

    from quell.client.documents import Change
    from quell.documents.load import Documents
    from quell.errors import Problem

Kind = Annotated[
    str, typer.Argument(help="ResponseRule, Group, Webhook, Syslog, Policy or Ruleset; or rules, groups, ...")
]
Shown = Annotated[str, typer.Argument(help="A kind of document (rules, groups, webhooks, ...), or workloads or nodes.")]
Files = Annotated[
    list[str], typer.Option("-f", "--file", help="A YAML file, a folder of them, or - for standard input.")
]

_VERB_STYLE = {"created": "green", "configured": "yellow", "moved": "yellow", "deleted": "red", "unchanged": "dim"}
_DIFF_STYLE = {"+": "green", "-": "red", "@": "cyan"}
#: What stands between the texts of two files.
_BETWEEN = "\n---\n"


def apply(
    context: typer.Context,
    file: Files,
    *,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            help="By what name these are applied, such as git/prod. What is applied by a name belongs to it.",
            show_default=False,
        ),
    ] = "",
    prune: Annotated[
        bool, typer.Option("--prune", help="Also delete what the same source applied before and is not here any more.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also change documents that belong to another source.")
    ] = False,
    unquarantine: Annotated[
        bool, typer.Option("--unquarantine", help="End the quarantines of rules that are disabled or deleted by this.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, as a diff, and change nothing.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Create or change documents: all of them, or none if one is wrong. The same again changes nothing.

    With --source and --prune a folder is the whole truth about its source: what is taken out of it is deleted, what
    others applied stays.
    """
    texts, documents = read_documents(file, SeenNames(context))
    if prune and not source:
        raise typer.BadParameter("--prune needs --source NAME: only what that source applied is deleted")
    from quell.errors import ApiError

    with connect(context) as client:
        try:
            changes = client.documents.apply(
                _BETWEEN.join(texts.values()).encode(),
                dry_run=dry_run,
                source=source,
                prune=prune,
                take_over=take_over,
                unquarantine=unquarantine,
            )
        except ApiError as error:
            problems = [_placed(problem, texts) for problem in error.problems]
            raise ApiError(error.status, error.title, error.detail, problems) from error
    print_changes(changes, output, note=" (dry run)" if dry_run else "")
    _print_warnings(documents.warnings)


def validate(
    files: Annotated[list[str], typer.Argument(help="YAML files, folders of them, or - for standard input.")],
) -> None:
    """Check documents without a controller; every problem of every file is printed."""
    _, documents = read_documents(files)
    from quell.documents.references import check

    pending = check(documents)
    _print_warnings((*documents.warnings, *(problem for _, problem in pending)))
    counts = {
        ("rule", "rules"): len(documents.rules),
        ("group", "groups"): len(documents.groups),
        ("webhook", "webhooks"): len(documents.webhooks),
        ("syslog receiver", "syslog receivers"): len(documents.syslogs),
        ("policy", "policies"): len(documents.policies),
        ("ruleset", "rulesets"): len(documents.rulesets),
    }
    told = ", ".join(f"{count} {one if count == 1 else many}" for (one, many), count in counts.items() if count)
    print(f"valid: {told or 'no documents'}")


def get(
    context: typer.Context,
    kind: Shown,
    name: Annotated[
        str | None, typer.Argument(help="One by its name (a workload also by its id); without it, all.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show documents as the controller holds them, or what runs where. -o yaml of documents can be applied again.

    Groups are shown with the learned and reserved ones and the number of their members, one group with its members;
    -o yaml gives the groups' documents.
    """
    if inventory.shows(kind, output):
        inventory.show(context, kind, name, output)
        return
    with connect(context) as client:
        documents = client.documents.all(kind, name)
    if output is Format.YAML:
        import yaml

        print(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True), end="")
        return
    print_rows(
        documents,
        output,
        {
            "kind": lambda document: document["kind"],
            "name": lambda document: document["metadata"]["name"],
            "id": lambda document: _spec(document).get("id"),
            "on": lambda document: _spec(document).get("event") or _spec(document).get("type"),
            "what": _summary,
        },
        empty=f"no {kind}",
    )


def delete(
    context: typer.Context,
    kind: Kind,
    name: Annotated[str, typer.Argument(help="The document's name.")],
    *,
    unquarantine: Annotated[bool, typer.Option("--unquarantine", help="Also end the quarantines it holds.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also delete the rules that refer to it.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete a document. Without --unquarantine what it isolated stays isolated, and the answer says so."""
    if not yes:
        typer.confirm(f"Delete {kind} {name}?", abort=True, err=True)
    with connect(context) as client:
        changes = client.documents.delete(kind, name, unquarantine=unquarantine, force=force)
    print_changes(changes, output)


def read_documents(names: list[str], events: Mapping[str, str] | None = None) -> tuple[dict[str, str], Documents]:
    """The texts as they are, by file, and what they say; DocumentError with all problems of all files.

    events: names of events that are known beside those that everybody knows.
    """
    from quell.documents.load import load_paths, load_text
    from quell.errors import DocumentError, Problem

    if names == ["-"]:
        text = sys.stdin.read()
        return {"standard input": text}, load_text(text, "standard input", events or {})
    paths = [Path(name) for name in names]
    missing = [Problem(file=str(path), message="no such file or folder") for path in paths if not path.exists()]
    if missing:
        raise DocumentError(missing)
    files = [file for path in paths for file in ([path] if path.is_file() else _documents_in(path))]
    return {str(file): file.read_text() for file in files}, load_paths(paths, events or {})


def _documents_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in {".yaml", ".yml"})


def _placed(problem: Problem, texts: dict[str, str]) -> Problem:
    """A problem of the texts joined, at its place in the file that it is in."""
    import msgspec

    if problem.file or not problem.line:
        return problem
    line = problem.line
    for file, text in texts.items():
        lines = (text + _BETWEEN).count("\n")
        if line <= lines:
            return msgspec.structs.replace(problem, file=file, line=line)
        line -= lines
    return problem


def _print_warnings(warnings: Sequence[Problem]) -> None:
    if warnings:
        from quell.cli.problems import print_problems

        print_problems(console(error=True), warnings, kind="warning")


def print_changes(changes: list[Change], output: Format, note: str = "", *, places: bool = False) -> None:
    """places: also where rules stand."""
    if output is not Format.TABLE:
        print_data(changes, output)
        return
    from rich.text import Text

    screen = console()
    for change in changes:
        place = f", place {change.place}" if places and change.place else ""
        number = f" (id {change.id}{place})" if change.id else ""
        screen.print(
            Text.assemble(
                f"{change.kind} ", (change.name, "bold"), f"{number} ", (change.verb, _VERB_STYLE[change.verb]), note
            )
        )
        for warning in change.warnings:
            screen.print(Text.assemble("  ", ("warning", "yellow"), f": {visible(warning)}"), soft_wrap=True)
        for line in change.diff.splitlines():
            screen.print(_coloured(line), soft_wrap=True)


def _coloured(line: str) -> Text:
    from rich.text import Text

    return Text(f"  {visible(line)}", _DIFF_STYLE.get(line[:1], ""))


def _spec(document: dict[str, Any]) -> dict[str, Any]:
    spec = document.get("spec")
    return spec if isinstance(spec, dict) else {}


def _summary(document: dict[str, Any]) -> str:
    spec = _spec(document)
    words = [_word(action) for action in spec.get("actions", ())] if isinstance(spec.get("actions"), list) else []
    state = "disabled" if spec.get("disable") or spec.get("enabled") is False else str(spec.get("mode", ""))
    address = str(spec.get("url") or spec.get("address") or "")
    return ", ".join(part for part in (*words, address, str(spec.get("comment", "")), state) if part)


def _word(action: Any) -> str:
    return next(iter(action), "") if isinstance(action, dict) else str(action)
