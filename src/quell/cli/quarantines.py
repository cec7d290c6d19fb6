"""quarantines add, list, show and release."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, console, print_data, print_rows, visible

if TYPE_CHECKING:
    from quell.client import Client
    from quell.client.agents import LetGo, LetGoAll
    from quell.model.explanation import Explanation

app = typer.Typer(help="What is cut off from the network, and by whom.", no_args_is_help=True)

#: Digits of a container's id that are shown; as many find it.
_DIGITS = 12
_HEX = frozenset("0123456789abcdef")
_LOOK_AGAIN = 0.05

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Key = Annotated[str, typer.Argument(help="As `quell quarantines list` shows it; of an id 12 digits do.")]


@app.command()
def add(
    context: typer.Context,
    workload: Annotated[str | None, typer.Argument(help="A container: its id, 12 digits of it, or its name.")] = None,
    *,
    pod: Annotated[str | None, typer.Option("--pod", help="A pod: NAMESPACE/NAME or its uid.")] = None,
    pid: Annotated[int | None, typer.Option("--pid", min=1, help="A process: all of its network namespace.")] = None,
    node: Annotated[
        str | None,
        typer.Option("--node", help="Where it runs. With --pid, default: this machine; else what the inventory knows."),
    ] = None,
    start_ticks: Annotated[
        int | None,
        typer.Option(
            "--start-ticks", min=0, help="When the process started: field 22 of /proc/PID/stat on its machine."
        ),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", help="End by itself after this time, such as 1h. Default: when let go.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Close loopback as well, and the ports of probes.")] = False,
    investigator: Annotated[
        list[str] | None,
        typer.Option(
            "--investigator", help="An address that may reach it meanwhile, and gets answers. Several may be given."
        ),
    ] = None,
    comment: Annotated[str, typer.Option("--comment", help="Why; it is in the record and the audit log.")] = "",
    dry_run: DryRun = False,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the agent's outcome.")] = 5.0,
    output: Output = Format.TABLE,
) -> None:
    """Cut a container, a pod or a process off from the network; you hold it until you release it.

    All that holds for a rule's quarantine holds for it, and the same record says what was decided. Ends with exit code 1
    if it was refused, held or failed.
    """
    from quell.durations import parse_duration

    if [workload, pod, pid].count(None) != 2:
        raise typer.BadParameter("give one of WORKLOAD, --pod and --pid")
    if pid is not None and node is None:
        node, start_ticks = os.uname().nodename, start_ticks if start_ticks is not None else _started(pid)
    with connect(context) as client:
        explanation = client.agents.isolate(
            workload=None if workload is None else _workload(client, workload),
            pod=pod,
            node=node,
            pid=pid,
            start_ticks=start_ticks,
            ttl=None if ttl is None else parse_duration(ttl),
            strict=strict,
            investigator=investigator or (),
            comment=comment,
            dry_run=dry_run,
        )
        if not dry_run:
            explanation = _settled(client, explanation, wait)
    if output is not Format.TABLE:
        print_data(explanation, output)
    else:
        from quell.cli.record import print_record

        print_record(console(), explanation, dry_run=dry_run)
    if not _is_done(explanation):
        raise typer.Exit(Exit.FAILED)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    rule: Annotated[int | None, typer.Option("--rule", help="Only what the rule with this id holds.")] = None,
    holder: Annotated[
        str | None, typer.Option("--holder", help="Only what it holds: policy/NAME, user/NAME, rule/ID.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Only members of this group.")] = None,
    node: Annotated[str | None, typer.Option("--node", help="Only on this node.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Every quarantine with its holders: it ends when the last lets go."""
    if rule is not None:
        holder = f"rule/{rule}"
    with connect(context) as client:
        quarantines = client.agents.quarantines(holder=holder, group=group, node=node)
    print_rows(
        quarantines,
        output,
        {
            "key": lambda quarantine: _short(quarantine["key"]),
            "name": lambda quarantine: quarantine["name"],
            "node": lambda quarantine: quarantine["target"].get("node"),
            "phase": _phase,
            "since": lambda quarantine: clock(quarantine["since"]),
            "holders": _holders,
        },
        empty="nothing is in quarantine",
    )


@app.command()
def show(context: typer.Context, key: Key, output: Output = Format.TABLE) -> None:
    """One quarantine: who holds it until when, what is in it, and the event it began with."""
    with connect(context) as client:
        quarantine = client.agents.quarantine(_key(client, key))
    if output is not Format.TABLE:
        print_data(quarantine, output)
        return
    until = quarantine["until"]
    lines = {
        "key": quarantine["key"],
        "name": quarantine["name"],
        "node": quarantine["target"].get("node"),
        "phase": _phase(quarantine),
        "since": clock(quarantine["since"]),
        "until": "let go" if until is None else clock(until),
        "holders": ", ".join(_holders(quarantine)) or "nobody",
        "reached by": _investigators(quarantine),
        "before": ", ".join(quarantine["former"]),
        "event": quarantine["cause"],
        "agent": quarantine["agent"],
    }
    for name, value in lines.items():
        if value:
            print(f"{name:<11}{visible(str(value))}")
    for place, member in enumerate(quarantine["workloads"]):
        known = [member["id"][:_DIGITS], member["name"], member["image"]]
        print(f"{'' if place else 'containers':<11}{visible('  '.join(each for each in known if each))}")


@app.command()
def release(
    context: typer.Context,
    key: Annotated[
        str | None, typer.Argument(help="One, as `quell quarantines list` shows it; of an id 12 digits do.")
    ] = None,
    *,
    rule: Annotated[
        int | None, typer.Option("--rule", help="Let the rule with this id go of what it holds; with KEY, of that one.")
    ] = None,
    holder: Annotated[
        str | None, typer.Option("--holder", help="Likewise any holder: policy/NAME, user/NAME, token/NAME.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="What members of this group are in.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every quarantine there is.")] = False,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """End quarantines: one whoever holds it, or all that a rule, a holder, a group has (of several given, all must hold).

    What others hold as well stays, and is named.
    """
    if rule is not None and holder is not None:
        raise typer.BadParameter("--rule is a holder: give one of --rule and --holder")
    narrowed = rule is not None or holder is not None or group is not None
    if (key is not None and (everything or group is not None)) or not (key or narrowed or everything):
        raise typer.BadParameter("give a KEY (with --rule or --holder: that one only), or --rule, --group, or --all")
    if everything and narrowed:
        raise typer.BadParameter("--all goes alone")
    with connect(context) as client:
        if key is not None:
            wanted = f"rule/{rule}" if rule is not None else holder
            done = client.agents.release(_key(client, key), holder=wanted, dry_run=dry_run)
        else:
            done = client.agents.release_many(
                rule=rule, holder=holder, group=group, everything=everything, dry_run=dry_run
            )
    if output is not Format.TABLE:
        print_data(done, output)
        return
    _print_let_go(done, dry_run=dry_run)


def _print_let_go(done: LetGoAll, *, dry_run: bool) -> None:
    for each in done.released:
        print(f"{'would release' if dry_run else 'released'} {_told(each)}")
    for each in done.kept:
        said = f"{', '.join(each.gone)} {'would let go' if dry_run else 'let go'}, held by {', '.join(each.holders)}"
        print(visible(f"kept {_told(each)}: {said}"))
    if not done.released and not done.kept:
        print("nothing of that is in quarantine")


def _told(each: LetGo) -> str:
    name = "" if each.name in (each.key, _short(each.key)) else f" ({each.name})"
    return visible(f"{_short(each.key)}{name} on {each.node}")


def _settled(client: Client, explanation: Explanation, wait: float) -> Explanation:
    """With the agent's outcome, if that comes in time."""
    (record,) = explanation.decision.actions
    end = time.monotonic() + wait
    while record.agent and not explanation.outcomes and time.monotonic() < end:
        time.sleep(_LOOK_AGAIN)
        explanation = client.events.explanation(explanation.decision.event_id)
    return explanation


def _is_done(explanation: Explanation) -> bool:
    (record,) = explanation.decision.actions
    return record.status == "granted" and all(outcome.status == "done" for outcome in explanation.outcomes)


def _workload(client: Client, given: str) -> str:
    """The id of the one container that runs under a name; an id is left as it is."""
    if _is_id(given):
        return given
    named = [
        each
        for each in client.inventory.workloads()
        if each["name"] is not None and fnmatchcase(each["name"], given) and each["running"] and each["gone"] is None
    ]
    if len(named) != 1:
        found = ", ".join(f"{each['id'][:_DIGITS]} on {each['node']}" for each in named) or "none"
        raise typer.BadParameter(f"{given}: expected one running container of this name, found {found}")
    return str(named[0]["id"])


def _key(client: Client, given: str) -> str:
    """The whole key of what 12 or more digits of an id mean."""
    if not _is_id(given) or len(given) >= 64:
        return given
    keys = [str(each["key"]) for each in client.agents.quarantines()]
    meant = [key for key in keys if key.startswith(given)]
    return meant[0] if given not in keys and len(meant) == 1 else given


def _is_id(text: str) -> bool:
    return len(text) >= _DIGITS and _HEX.issuperset(text)


def _short(key: str) -> str:
    return key[:_DIGITS] if len(key) == 64 and _is_id(key) else key


def _started(pid: int) -> int:
    """When a process of this machine started, in clock ticks after boot."""
    from quell.agent.proc import read_stat

    stat = read_stat(pid)
    if stat is None:
        raise typer.BadParameter(
            f"there is no process {pid} on this machine; another one: --node NAME", param_hint="--pid"
        )
    return stat.start_ticks


def _phase(quarantine: Mapping[str, Any]) -> str:
    return f"{quarantine['phase']}{', strict' if quarantine['strict'] else ''}"


def _investigators(quarantine: Mapping[str, Any]) -> str:
    """Who may reach it, and who lets them."""
    if quarantine["strict"]:
        return ""
    by_holder = quarantine["investigators"]
    return "; ".join(f"{', '.join(addresses)} ({holder})" for holder, addresses in sorted(by_holder.items()))


def _holders(quarantine: Mapping[str, Any]) -> list[str]:
    return [
        holder if until is None else f"{holder} until {clock(until)}" for holder, until in quarantine["holders"].items()
    ]
