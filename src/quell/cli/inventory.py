"""get workloads, nodes and groups: what runs where, and which groups it is in."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, clock, print_data, print_rows

if TYPE_CHECKING:
    from quell.client import Client

_NOUNS = {
    "workload": "workload",
    "workloads": "workload",
    "node": "node",
    "nodes": "node",
    "group": "group",
    "groups": "group",
}
#: Digits of an id that are shown; as many find a workload.
_DIGITS = 12


def shows(noun: str, output: Format) -> bool:
    """Whether `get` of this is about the inventory. Groups as YAML are documents, to be applied again."""
    noun = _NOUNS.get(noun.lower(), "")
    return noun in ("workload", "node") or (noun == "group" and output is not Format.YAML)


def show(context: typer.Context, noun: str, name: str | None, output: Format) -> None:
    with connect(context) as client:
        match _NOUNS[noun.lower()], name:
            case "workload", _:
                _show_workloads(_workloads(client, name), output, detailed=name is not None)
            case "node", _:
                _show_nodes([node for node in client.inventory.nodes() if name in (None, node["name"])], output)
            case _, None:
                _show_groups(client.inventory.groups(), output)
            case _, str(group):
                _show_members(client.inventory.members(group), group, output)


def _workloads(client: Client, name: str | None) -> list[dict[str, Any]]:
    """All; or those of a name, which may have * and ?; else the one of an id."""
    every = client.inventory.workloads()
    if name is None:
        return every
    named = [each for each in every if each["name"] is not None and fnmatchcase(each["name"], name)]
    return named or [client.inventory.workload(name)]


def _show_workloads(found: list[dict[str, Any]], output: Format, *, detailed: bool) -> None:
    columns = {
        "id": lambda known: known["id"][:_DIGITS],
        "name": lambda known: known["name"],
        "namespace": lambda known: known["namespace"],
        "node": lambda known: known["node"],
        "image": lambda known: known["image"],
        "service": lambda known: known["service"],
        "state": _state,
    }
    if detailed:
        columns["groups"] = lambda known: known["groups"]
        columns["told by"] = lambda known: known["sources"]
    print_rows(found, output, columns, empty="no workload is known")


def _state(known: dict[str, Any]) -> str:
    if known["gone"] is not None:
        return f"gone since {clock(known['gone'])}"
    if known["contested"]:
        return f"claimed by {' and '.join(known['contested'])}"
    return "running" if known["running"] else "stopped"


def _show_nodes(found: list[dict[str, Any]], output: Format) -> None:
    print_rows(
        found,
        output,
        {
            "name": lambda node: node["name"],
            "cluster": lambda node: node["cluster"],
            "workloads": lambda node: node["workloads"],
            "addresses": lambda node: node["addresses"],
            "os": lambda node: node["os"],
            "kernel": lambda node: node["kernel"],
            "told by": lambda node: node["sources"],
        },
        empty="no node is known",
    )


def _show_groups(found: list[dict[str, Any]], output: Format) -> None:
    print_rows(
        found,
        output,
        {
            "name": lambda group: group["name"],
            "kind": lambda group: group["kind"],
            "members": lambda group: group["members"],
            "rules": lambda group: group["rules"],
            "comment": lambda group: group["comment"],
        },
        empty="no groups",
    )


def _show_members(found: list[dict[str, Any]], group: str, output: Format) -> None:
    if output is not Format.TABLE:
        print_data({"name": group, "members": found}, output)
        return
    print_rows(
        found,
        output,
        {
            "id": lambda member: member["id"][:_DIGITS] if member["id"] != member["name"] else member["id"],
            "name": lambda member: member["name"],
            "namespace": lambda member: member["namespace"],
            "node": lambda member: member["node"],
            "image": lambda member: member["image"],
        },
        empty=f"{group} has no members",
    )
