"""Every runtime that the agent knows."""

from __future__ import annotations

from collections.abc import Callable

from quell.agent.containers.census import Census
from quell.agent.containers.containerd import Containerd
from quell.agent.containers.docker import Docker
from quell.agent.containers.folders import Folders
from quell.agent.containers.runtime import Runtime
from quell.agent.containers.storage import Roots, Storage
from quell.channel.messages import Seen


def census(node: str, send: Callable[[Seen], None]) -> Census:
    """All of them, ready to be started. Raises OSError where no folder can be watched."""
    folders = Folders()
    return Census(node, folders, runtimes(folders), send)


def runtimes(folders: Folders) -> tuple[Runtime, ...]:
    return (Storage(folders, Roots.configured()), Containerd(folders), Docker(folders))
