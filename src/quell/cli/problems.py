"""Problems in documents, as a compiler prints them: file:line:column, the line, and a caret under the fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from quell.cli.output import visible
from quell.errors import Problem


def print_problems(console: Console, problems: Sequence[Problem], *, kind: str = "error") -> None:
    """kind: the word after the position, error or warning."""
    lines: dict[str, list[str]] = {}
    for problem in problems:
        if problem.file not in lines:
            lines[problem.file] = _lines(problem.file)
        console.print(_drawn(problem, lines[problem.file], kind), soft_wrap=True)


def _drawn(problem: Problem, lines: list[str], kind: str) -> Text:
    style = "bold red" if kind == "error" else "bold yellow"
    where = ":".join(str(part) for part in (problem.file, problem.line, problem.column) if part)
    text = Text.assemble((where, "bold"), ": " if where else "", (kind, style), ": ", visible(problem.message))
    if problem.path and problem.path not in problem.message:
        text.append(f"  [{problem.path}]", "dim")
    margin = len(str(problem.line))
    if 0 < problem.line <= len(lines):
        line = lines[problem.line - 1]
        text.append(f"\n  {problem.line} | ", "dim").append(_in_columns(line))
        if problem.column:
            text.append(f"\n  {'':{margin}} | ", "dim").append(" " * (problem.column - 1)).append("^", style)
    for word, value in (("expected", problem.expected), ("found", problem.got), ("did you mean", problem.nearest)):
        if value and not (word == "found" and value in problem.message):
            text.append(f"\n  {'':{margin}} = ", "dim").append(f"{word}: {visible(value)}")
    return text


def _in_columns(line: str) -> str:
    """The line with one column a character, so that the caret stands under the right one."""
    return "".join(char if char.isprintable() else " " for char in line)


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []  # text from standard input or the controller: there is no line to show
