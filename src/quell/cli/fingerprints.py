"""What was seen of images and services, for people: a line each, or one as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quell.cli.output import Format, clock, console, print_data, print_rows, print_trimmed, visible

if TYPE_CHECKING:
    from rich.tree import Tree

    from quell.client.policies import ListedFingerprint, ShownFingerprint


def print_fingerprints(found: Sequence[ListedFingerprint], output: Format) -> None:
    print_rows(
        found,
        output,
        {
            "kind": lambda each: each.kind,
            "name": lambda each: each.name,
            "processes": lambda each: each.processes,
            "seen": lambda each: each.count,
            "no room": lambda each: each.dropped,
            "first": lambda each: clock(each.first),
            "last": lambda each: clock(each.last),
        },
        empty="nothing was seen of any image or service",
    )


def print_fingerprint(found: ShownFingerprint, output: Format) -> None:
    if output is not Format.TABLE:
        print_data(found, output)
        return
    from rich.tree import Tree

    tree = Tree(visible(f"{found.kind} {found.name}, seen {found.count} times, last {clock(found.last)}"))
    for root in found.roots:
        _grow(tree, root)
    print_trimmed(console(), tree)


def _grow(tree: Tree, process: dict[str, Any]) -> None:
    from rich.text import Text

    told = [f"{process['name']}  {process['exe']}  {process['user']}"]
    told += [f"listens on {_ports(each)}" for each in process.get("listening", ())]
    told += [_talk(each) for each in process.get("talks", ())]
    branch = tree.add(Text(visible("; ".join(told))))
    for child in process.get("children", ()):
        _grow(branch, child)


def _talk(talk: dict[str, Any]) -> str:
    peers = ", ".join([*talk.get("names", ()), *talk.get("networks", ())]) or "somebody"
    return f"{'to' if talk.get('direction') == 'egress' else 'from'} {peers} {_ports(talk)}"


def _ports(told: dict[str, Any]) -> str:
    end = told.get("end")
    return f"{told.get('protocol', 'TCP')} {told['port']}{f'-{end}' if end else ''}"
