"""How the demonstration tells what happens: numbered scenes, and the steps of each on a scale of milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quell.cli.output import milliseconds, print_trimmed

_BAR = 24


class Step(Struct, frozen=True):
    """Something that happened. at: epoch seconds."""

    at: float
    what: str


class Timeline:
    def __init__(self, console: Console) -> None:
        self.console = console
        self._scenes = 0

    def scene(self, title: str) -> None:
        self._scenes += 1
        self.console.print()
        self.console.rule(Text(f"{self._scenes}  {title}", "bold"), align="left", style="dim")

    def say(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def done(self, text: str) -> None:
        self.console.print(Text.assemble(("✓ ", "bold green"), text), soft_wrap=True)

    def left_out(self, text: str) -> None:
        self.console.print(Text.assemble(("- ", "bold yellow"), text), soft_wrap=True)

    def failed(self, text: str) -> None:
        self.console.print(Text.assemble(("✗ ", "bold red"), text), soft_wrap=True)

    def steps(self, steps: Sequence[Step]) -> None:
        """In the order of time, each with the time since the first and a bar for the time since the one before."""
        ordered = sorted(steps, key=lambda step: step.at)
        first, last = ordered[0].at, ordered[-1].at
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(justify="right", style="bold cyan", min_width=10)
        table.add_column(width=_BAR, no_wrap=True, style="cyan")
        table.add_column(overflow="fold")
        before = first
        for step in ordered:
            table.add_row(
                f"+{milliseconds(step.at - first)}", _bar(before - first, step.at - first, last - first), step.what
            )
            before = step.at
        print_trimmed(self.console, table)


def _bar(start: float, end: float, whole: float) -> str:
    if whole <= 0:
        return ""
    left, right = (round(_BAR * moment / whole) for moment in (start, end))
    return " " * min(left, _BAR - 1) + "━" * max(right - left, 1)
