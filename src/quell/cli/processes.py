"""up, controller and agent: the programs that stay."""

from __future__ import annotations

import os
import sys

import typer

#: The agent reads its own options: it is started in place of this process, without Typer and Rich in its memory.
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


def up() -> None:
    """Start a controller and an agent on this machine."""


def controller() -> None:
    """Start a controller."""


def agent(context: typer.Context) -> None:
    """Start an agent on this machine; `quell agent --help` lists its options, `quell agent release --all` undoes."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "quell.agent", *context.args])  # noqa: S606 - our own interpreter
