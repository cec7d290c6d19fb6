"""Markdown on a terminal: formatted, but nothing in it moves the cursor, hides or leads elsewhere unseen."""

from __future__ import annotations

from collections.abc import Iterable

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions
from rich.markdown import Markdown
from rich.segment import Segment

from quell.cli.output import visible

_parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class SafeMarkdown:
    """For Console.print. Links are shown with the address that they lead to."""

    def __init__(self, text: str) -> None:
        # Lines are part of the form; anything else that is not printed would reach the terminal.
        shown = "\n".join(map(_shown, text.splitlines()))
        self._markdown = Markdown("", hyperlinks=False)
        # HTML is text here, as in the page: left out, it would say something else than what stands there.
        self._markdown.parsed = _parser.parse(shown)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for segment in console.render(self._markdown, options):
            if segment.control:
                continue
            yield Segment("\n".join(map(visible, segment.text.split("\n"))), segment.style)


def _shown(line: str) -> str:
    return "\t".join(map(visible, line.split("\t")))
