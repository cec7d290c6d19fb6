"""The fenced blocks of a Markdown page, with what the comments before them say about them.

`<!-- file: NAME -->` saves a block as a file, `<!-- not run: REASON -->` leaves a command out, `<!-- exit: N -->` says
what a command ends with, `<!-- broken: REASON -->` that a document is wrong on purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DIRECTIVE = re.compile(r"<!-- (file|not run|exit|broken): (.+) -->")


@dataclass(frozen=True)
class Quell:
    """A running controller. environment: what a reader's shell would have set."""

    url: str
    environment: dict[str, str]


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    directives: dict[str, str] = field(default_factory=dict)

    def commands(self) -> list[tuple[str, str]]:
        """Each command with the output that the page shows; bash blocks are one command that shows none."""
        if self.language == "bash":
            return [(self.text, "")]
        parts = re.split(r"^\$ (.+)$", self.text, flags=re.MULTILINE)
        return [(command, output.strip("\n")) for command, output in zip(parts[1::2], parts[2::2], strict=True)]


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    directives: dict[str, str] = {}
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    for number, line in lines:
        if match := _DIRECTIVE.fullmatch(line.strip()):
            directives[match[1]] = match[2]
        elif line.startswith("```"):
            inside = []
            for _, text in lines:
                if text.startswith("```"):
                    break
                inside.append(text)
            found.append(Block(line.removeprefix("```").strip(), "\n".join(inside) + "\n", number, directives))
            directives = {}
        elif line.strip():
            directives = {}
    return found


def pattern(expected: str) -> re.Pattern[str]:
    """What a page shows as a regular expression: `...` on a line of its own stands for any lines, else for any text."""
    parts = []
    for line in expected.splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            # Trailing blanks are padding of tables and of no meaning.
            parts.append(r".*".join(re.escape(piece) for piece in line.rstrip().split("...")) + r"[ ]*\n")
    return re.compile("".join(parts))
