"""A receiver that is down under load, one that hangs, and the controller killed meanwhile: nothing is lost or reordered.

Controller and receivers are processes of their own. bench/bench_webhooks.py measures the same for a whole minute.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import Quell, free_port, wait_for
from webhook_parts import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

#: Events a second, and seconds that the receiver is down.
RATE, DOWN = 200, 5
ENDPOINTS = ("steady", "falls", "hangs")


class Posting:
    """Posts numbered events at a steady rate, one after the other, each again until it is acknowledged."""

    def __init__(self, quell: Quell) -> None:
        self._quell = quell
        self._token = (quell.folder / "controller" / "admin.token").read_text().strip()
        self._stop = threading.Event()
        #: All up to this number are acknowledged.
        self.acknowledged = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> int:
        """How many were acknowledged in the end."""
        self._stop.set()
        self._thread.join(60)
        return self.acknowledged

    def _run(self) -> None:
        start = time.monotonic()
        with httpx.Client(
            base_url=self._quell.url, headers={"Authorization": f"Bearer {self._token}"}, timeout=10
        ) as client:
            for number in itertools.count(1):
                body = json.dumps({"id": f"n{number:06}", "time": time.time(), "name": "Host.Suspicious.Process"})
                while not self._acknowledged(client, body):
                    time.sleep(0.05)
                self.acknowledged = number
                if self._stop.is_set():
                    return
                time.sleep(max(0.0, start + number / RATE - time.monotonic()))

    @staticmethod
    def _acknowledged(client: httpx.Client, body: str) -> bool:
        try:
            return client.post("/v1/events", content=body).is_success
        except httpx.TransportError:
            return False


def numbers(program: Program) -> list[int]:
    """Of the events that came in, in that order, repetitions included."""
    return [int(line["headers"]["webhook-id"][1:7]) for line in program.lines()]


@pytest.fixture
def quell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quell]:
    monkeypatch.setitem(os.environ, "QUELL_WEBHOOKS_LONGEST_WAIT", "1s")
    monkeypatch.setitem(os.environ, "QUELL_WEBHOOKS_TIMEOUT", "3s")
    running = Quell(tmp_path)
    try:
        running.start_controller()
        yield running
    except BaseException:
        print(running.log())  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        running.close()


def test_nothing_is_lost_or_reordered_and_who_hangs_delays_nobody(quell: Quell, tmp_path: Path) -> None:
    port = free_port()
    programs = {
        "steady": Program("receiver_process.py", tmp_path / "steady"),
        "falls": Program("receiver_process.py", tmp_path / "falls", "--port", str(port)),
        "hangs": Program("receiver_process.py", tmp_path / "hangs", "--hang"),
    }
    documents = [
        {
            "apiVersion": "quell.dev/v1",
            "kind": "Webhook",
            "metadata": {"name": name},
            "spec": {"url": f"http://127.0.0.1:{program.port}/", "allow_http": True, "allow_private": True},
        }
        for name, program in programs.items()
    ]
    documents.append(
        {
            "apiVersion": "quell.dev/v1",
            "kind": "ResponseRule",
            "metadata": {"name": "tell"},
            "spec": {
                "event": "security-event",
                "criteria": ["name:Host.Suspicious.Process"],
                "actions": ["webhook"],
                "webhooks": list(ENDPOINTS),
            },
        }
    )
    quell.ask("POST", "/v1/documents", content="\n---\n".join(map(json.dumps, documents)))
    posting = Posting(quell)
    try:
        wait_for(lambda: len(numbers(programs["falls"])) > RATE, what="the first second's deliveries")

        programs["falls"].kill()
        fell = posting.acknowledged
        wait_for(lambda: posting.acknowledged > fell + DOWN * RATE, 60, "the events of the outage")
        # While one is down and one hangs, the third has everything: it waits for nobody.
        so_far = posting.acknowledged
        wait_for(lambda: len(set(numbers(programs["steady"]))) >= so_far, what="the steady receiver's deliveries")
        told = {one["name"]: one for one in quell.ask("GET", "/v1/webhooks")["items"]}
        assert {name: one["state"] for name, one in told.items() if name != "steady"} == {
            "falls": "failing",
            "hangs": "failing",
        }
        assert told["falls"]["waiting"] > DOWN * RATE / 2

        programs["falls"] = Program("receiver_process.py", tmp_path / "falls", "--port", str(port))
        before = len(numbers(programs["falls"]))
        wait_for(lambda: len(numbers(programs["falls"])) > before + 50, what="the first deliveries after the outage")
        quell.kill(quell.controller)
        quell.start_controller()
        again = posting.acknowledged
        wait_for(lambda: posting.acknowledged > again + RATE, what="a second of events after the restart")
    finally:
        sent = posting.stop()
    try:
        for name in ("steady", "falls"):
            wait_for(lambda name=name: len(set(numbers(programs[name]))) >= sent, 60, f"everything at {name}")
            arrived = numbers(programs[name])
            first = list(dict.fromkeys(arrived))
            assert first == list(range(1, sent + 1)), "lost or reordered"
            # Only what was on its way when a process was killed comes twice.
            repeated = len(arrived) - len(first)
            assert repeated < RATE, f"{repeated} deliveries came twice to {name}"
        assert set(numbers(programs["hangs"])) == {1}, "its first delivery is the one it is asked again and again"
        dead = quell.ask("GET", "/v1/webhooks/dead-letters")["items"]
        assert dead == []
    finally:
        for program in programs.values():
            program.kill()
