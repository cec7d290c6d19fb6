"""What the census and a runtime know of each other."""

from __future__ import annotations

from typing import Protocol

from quell.model.sighting import ContainerSeen


class Table(Protocol):
    """Where a runtime says what it has. All calls on the event loop's thread."""

    def put(self, seen: ContainerSeen, *, written: float | None = None) -> None:
        """A container as the runtime tells of it, new or changed.

        seen.pid is only a claim: whether that process is the container's, and still there, is found out here. written:
        when the claim was written down, epoch seconds; a process that started later is another one. A running container
        without a pid is believed.
        """

    def drop(self, identity: str) -> None:
        """The runtime has it no more."""

    def settled(self, runtime: Runtime) -> None:
        """Said by a runtime that has told everything it has now, or cannot be reached. May be said again."""


class Runtime(Protocol):
    """One source of containers, which goes on until stop() whatever happens to the runtime itself."""

    def limits(self) -> tuple[str, ...]:
        """What of it cannot be seen from here and why, one line each, for people."""

    def start(self, table: Table) -> None: ...

    def stop(self) -> None: ...
