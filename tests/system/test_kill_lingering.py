"""A process that has its signal and cannot end: told of when it is certain, and in nobody's way."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.running import Quell, Victim, wait_for
from tests.system.served import asked, served

from quell.agent.executor import KILL_SECONDS

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE"),
]
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill}
spec: {event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [agentKillProcess]}
"""


def outcomes(quell: Quell, victim: Victim) -> list[dict[str, Any]]:
    with contextlib.suppress(httpx.HTTPError):
        return list(quell.ask("GET", f"/v1/events/{victim.id}").get("outcomes", []))
    return []


def test_who_cannot_end_is_told_of_and_holds_nobody_up(tmp_path: Path) -> None:
    quell = Quell(tmp_path)
    victims: list[Victim] = []
    with contextlib.ExitStack() as end:
        end.callback(lambda: [victim.close() for victim in victims])
        end.callback(quell.close)
        quell.start_controller()
        quell.ask("POST", "/v1/documents", content=RULE)
        quell.enrol()
        file = end.enter_context(served(tmp_path / "served", shutil.which("sleep") or "/bin/sleep"))
        os.close(os.open(file, os.O_RDONLY))
        # Once the question has been put the kernel waits for its answer, whatever becomes of who asked.
        stuck = Victim("stuck", sys.executable, "-c", f"import os; os.stat({str(file)!r})")
        others = [Victim(f"other-{number}") for number in range(12)]
        victims += [stuck, *others]
        wait_for(asked(file).exists, what="its question")
        started = time.monotonic()
        quell.ask("POST", "/v1/events", content=stuck.event())
        for other in others:
            quell.ask("POST", "/v1/events", content=other.event())
            wait_for(lambda other=other: other.gone, what="another's end")  # type: ignore[misc]
        wait_for(lambda: bool(outcomes(quell, stuck)), what="the outcome")
        assert time.monotonic() - started >= KILL_SECONDS
        (outcome,) = outcomes(quell, stuck)
        assert (outcome["status"], outcome["reason"]) == ("failed", "failed")
        assert "is still there after" in outcome["explanation"]
        assert not stuck.gone
        for other in others:
            wait_for(lambda other=other: bool(outcomes(quell, other)), what="an outcome")  # type: ignore[misc]
            assert [one["status"] for one in outcomes(quell, other)] == ["done"]
        quell.kill(quell.agent, 15)
    for victim in victims:
        assert victim.process.wait(20) == -9
