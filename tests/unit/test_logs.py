"""What a process writes on stderr, read from real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from quell.storage.tokens import new_secret

TOKEN = new_secret()


def run(script: str, *, level: str = "info", form: str = "True", code: int = 0) -> str:
    """stderr of a process that logs as the script says."""
    text = f"""
import logging, sys, threading, warnings
import structlog
from quell import logs
from quell.secrets import Secret
TOKEN = sys.argv[1]
logs.configure(json={form}, level={level!r})
log = structlog.get_logger("test")
{script}
"""
    done = subprocess.run([sys.executable, "-c", text, TOKEN], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


def lines(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


def test_each_line_has_time_level_event_and_its_fields() -> None:
    [line] = lines(run('log.warning("a webhook failed", endpoint="hook", attempt=2)'))
    assert list(line) == ["time", "level", "event", "endpoint", "attempt"]
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert (line["level"], line["event"], line["endpoint"], line["attempt"]) == (
        "warning",
        "a webhook failed",
        "hook",
        2,
    )


def test_less_than_the_level_is_left_out() -> None:
    script = 'log.debug("a"); log.info("b"); log.warning("c"); log.error("d")'
    assert [line["event"] for line in lines(run(script, level="warning"))] == ["c", "d"]
    assert [line["event"] for line in lines(run(script, level="debug"))] == ["a", "b", "c", "d"]


def test_secrets_are_hidden_by_type_name_and_look() -> None:
    stderr = run(
        """
class Thing:
    def __repr__(self):
        return f"Thing(password='planted', {TOKEN})"
log.info("by type", typed=Secret("planted"), inner={"x": [Secret("planted")]})
log.info("by name", token="planted", headers={"X-Own": "planted"}, inner={"deep": [{"client_secret": "planted"}]})
log.info("by look", text=f"{TOKEN} and http://u:planted@h/?token=planted", thing=Thing(), raw=f"{TOKEN}".encode())
log.info(f"in the event itself {TOKEN}")
"""
    )
    assert len(lines(stderr)) == 4
    assert "planted" not in stderr
    assert TOKEN not in stderr


FAILS = """
def fail():
    local = "planted local"
    try:
        raise ValueError(f"first {TOKEN}")
    except ValueError as error:
        raise RuntimeError(f"Authorization: Bearer {TOKEN}") from error
"""


@pytest.mark.parametrize("form", ["True", "False"])
def test_secrets_are_hidden_in_the_whole_chain_of_an_error(form: str) -> None:
    stderr = run(FAILS + '\ntry:\n    fail()\nexcept RuntimeError:\n    log.exception("it failed", n=1)', form=form)
    assert TOKEN not in stderr
    assert "planted local" not in stderr.replace('local = "planted local"', "")
    for kept in ("it failed", "ValueError", "RuntimeError", "direct cause"):
        assert kept in stderr


@pytest.mark.parametrize(
    "where", ["fail()", "thread = threading.Thread(target=fail, name='worker'); thread.start(); thread.join()"]
)
def test_an_error_that_nothing_caught_is_a_line_without_secrets(where: str) -> None:
    stderr = run(f"{FAILS}\n{where}", code=1 if where == "fail()" else 0)
    [line] = lines(stderr)
    assert line["level"] == "critical"
    assert "RuntimeError" in line["exception"]
    assert TOKEN not in stderr


def test_the_standard_librarys_loggers_take_the_same_way() -> None:
    stderr = run(
        """
logging.getLogger("uvicorn.error").warning("Invalid %s received: %s", "request", TOKEN)
logging.getLogger("uvicorn.error").info("connection open")
logging.getLogger("odd").error("%d", "no number")
warnings.warn("something is old", UserWarning, stacklevel=1)
try:
    raise OSError(TOKEN)
except OSError:
    logging.getLogger("asyncio").exception("Task exception was never retrieved")
"""
    )
    assert TOKEN not in stderr
    told = lines(stderr)
    assert [line["logger"] for line in told] == ["uvicorn.error", "odd", "py.warnings", "asyncio"]
    assert told[0]["event"].startswith("Invalid request received: ")
    assert "OSError" in told[-1]["exception"]


def test_people_get_words_that_cannot_move_their_cursor() -> None:
    stderr = run('log.error("failed", error="a\\x1b[2Jb\\nc")', form="False")
    [line] = stderr.splitlines()
    assert "failed" in line
    assert "\x1b" not in line
    assert r"a\x1b[2Jb\nc" in line


def test_json_unless_a_terminal_reads_it() -> None:
    [line] = lines(run('log.info("hello")', form="None"))
    assert line["event"] == "hello"
    reader, writer = os.openpty()
    try:
        script = "from quell import logs; logs.configure(); import structlog; structlog.get_logger().info('hello')"
        subprocess.run([sys.executable, "-c", script], stderr=writer, check=True, timeout=60)
        assert "hello" in (shown := os.read(reader, 4096).decode())
        assert not shown.startswith("{")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the kernel has no /dev/full")
def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    script = (
        "from quell import logs; logs.configure(json=True); import structlog; log = structlog.get_logger();"
        "[log.error('no room') for _ in range(9)]; print('went on')"
    )
    with open("/dev/full", "w") as full:  # noqa: PTH123 - not a file with a path of ours
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False
        )
    assert done.stdout == "went on\n"
