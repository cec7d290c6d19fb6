"""The command line in this process: its output, what it says of errors, and its exit code, without starting Python anew."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog
from msgspec import Struct

from quell.cli.main import main


class Ran(Struct, frozen=True):
    returncode: int
    stdout: str
    stderr: str


def quell(
    *words: str,
    url: str = "",
    state: Path | None = None,
    token: str = "",
    stdin: str = "",
    environment: Mapping[str, str] = {},
) -> Ran:
    """url, state, token: what its environment says beside `environment`; of QUELL_ variables it has no others.

    state: the folder whose admin token is shown.
    """
    kept, argv, logging = dict(os.environ), sys.argv, structlog.get_config()
    given = {"QUELL_URL": url, "QUELL_STATE": "" if state is None else str(state), "QUELL_TOKEN": token}
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code, before = 0, sys.stdin
    try:
        for name in [name for name in os.environ if name.startswith("QUELL_")]:
            del os.environ[name]
        os.environ |= {name: value for name, value in given.items() if value} | environment
        sys.argv = ["quell", *words]
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        # A controller in another thread of this process logs elsewhere meanwhile.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv, sys.stdin = argv, before
        structlog.configure(**logging)
        os.environ.clear()
        os.environ.update(kept)
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, errors))  # type: ignore[attr-defined]
    return Ran(code, stdout, stderr)
