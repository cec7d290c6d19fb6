"""A text in the editor of whoever sits there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from quell.cli.rule_words import plain
from quell.errors import ApiError, DocumentError, Problem, QuellError

T = TypeVar("T")


def edited(text: str, heading: str, change: Callable[[dict[str, Any]], T | None]) -> T | None:
    """What `change` makes of the mapping that the editor is left with; None: nothing.

    $VISUAL, $EDITOR, or vi. What is refused stays in its file, and the message says where. QuellError, DocumentError.
    """
    with tempfile.NamedTemporaryFile("w", prefix="quell-", suffix=".yaml", delete=False) as file:
        file.write(f"# {heading}\n{text}")
    path = Path(file.name)
    program = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        ended = subprocess.run([*shlex.split(program), str(path)], check=False).returncode
    except OSError as error:
        path.unlink()
        raise QuellError(f"the editor {program} cannot be started: {error.strerror}; set EDITOR") from error
    if ended != 0:
        path.unlink()
        raise QuellError(f"the editor {program} ended with {ended}: nothing is changed")
    try:
        values = plain(path.read_text(encoding="utf-8"), str(path))
        if len(values) != 1 or not isinstance(values[0], dict):
            raise DocumentError([Problem(file=str(path), message="expected the fields of one rule")])
        done = change(values[0])
    except (ApiError, DocumentError):
        print(f"your text is still in {path}", file=sys.stderr)
        raise
    path.unlink()
    return done
