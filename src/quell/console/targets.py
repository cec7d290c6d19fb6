"""What an action does to what, and what that means, as people read it before they say yes. Filters of the templates."""

from __future__ import annotations

from typing import assert_never

from quell.durations import format_duration
from quell.model.action import (
    AgentAction,
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
)
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target


def target(aimed: Target) -> str:
    """Such as: nc (pid 4711) in container 4f5e2c1b9a8d on edge-1."""
    match aimed:
        case ProcessTarget(node=node, process=process, container_id=container):
            inside = f" in container {container[:12]}" if container else ""
            return f"{_brief(process)}{inside} on {node}"
        case NetworkTarget(node=node):
            return f"{_isolated(aimed)} on {node}"
        case PodTarget(namespace=namespace, name=name, uid=uid):
            return "pod " + "/".join(part for part in (namespace, name or uid) if part)
        case _:
            assert_never(aimed)


def doing(action: AgentAction) -> str:
    """What is done to the target, which follows: "Kill" nc (pid 4711)."""
    match action:
        case KillProcess():
            return "Kill"
        case KillProcessGroup():
            return "Kill the process group of"
        case KillProcessTree():
            return "Kill with all descendants"
        case KillPod():
            return "End"
        case ReniceProcess(priority=priority):
            return f"Set priority {priority} for"
        case Quarantine():
            return "Cut off from the network"
        case ReleaseQuarantine():
            return "Connect to the network again"
        case _:
            assert_never(action)


def consequence(action: AgentAction) -> str:
    """What it means for what runs there, and whether it can be undone."""
    match action:
        case KillProcess():
            return "The process gets SIGKILL at once. What it had not written is lost. This cannot be undone."
        case KillProcessGroup():
            return "Every process of its group gets SIGKILL at once. This cannot be undone."
        case KillProcessTree():
            return "The process and all that it started, directly or not, get SIGKILL. This cannot be undone."
        case KillPod(grace_period=0):
            return "The pod ends at once with all its containers; whatever owns it may start another one."
        case KillPod(grace_period=seconds):
            return (
                f"The pod is asked to end and has {seconds} s for it; whatever owns it may start another one."
                " This cannot be undone."
            )
        case ReniceProcess(priority=priority):
            return f"It gets {'less' if priority > 0 else 'more'} of the processor, and keeps running."
        case Quarantine(ttl=ttl, strict=strict):
            until = f"for {format_duration(ttl)}" if ttl is not None else "until somebody releases it"
            tight = ", loopback and the ports of probes included" if strict else ""
            return f"All its network traffic is blocked {until}{tight}. It keeps running, and can be released."
        case ReleaseQuarantine():
            return "Its network traffic flows again."
        case _:
            assert_never(action)


def _isolated(aimed: NetworkTarget) -> str:
    if aimed.container_id:
        return f"container {aimed.container_id[:12]}"
    if aimed.pod_uid:
        return f"pod {aimed.pod_uid}"
    return aimed.key if aimed.process is None else _brief(aimed.process)


def _brief(process: Process) -> str:
    told = process.name or process.exe or "process"
    return told if process.pid is None else f"{told} (pid {process.pid})"
