"""Passwords as people type them: without echo on a terminal, a line each of standard input otherwise. Never an argument:
other users of a machine see the arguments of every process.
"""

from __future__ import annotations

import sys

import typer


def read(prompt: str) -> str:
    """One password."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"{prompt}: ")
    line = sys.stdin.readline()
    if not line:
        raise typer.BadParameter(f"expected the password on standard input ({prompt.lower()}), got nothing")
    return line.rstrip("\r\n")


def choose(prompt: str = "New password") -> str:
    """A new one; on a terminal it is typed twice."""
    while True:
        password = read(prompt)
        if not sys.stdin.isatty() or read("The same again") == password:
            return password
        typer.echo("The two differ.", err=True)
