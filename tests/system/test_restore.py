"""A backup of a real controller under load, and a controller that starts on what was restored from it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.live import NO_TLS, live
from tests.system.running import NODE, Quell, Victim, free_port, rules, wait_for

from quell.storage import archive
from quell.storage.records import Stored
from quell.storage.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Events acknowledged before the backup begins, at least.
BEFORE = 2000
BATCH = 20
POSTERS = 3


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Quell]:
    with quell(tmp_path / "original") as running:
        yield running


@contextmanager
def quell(folder: Path) -> Iterator[Quell]:
    folder.mkdir()
    running = Quell(folder)
    try:
        yield running
    except BaseException:
        sys.stdout.write(running.log())
        raise
    finally:
        running.close()


def cli(running: Quell | None, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUELL_")}
    if running is not None:
        environment["QUELL_URL"] = running.url
        environment["QUELL_TOKEN"] = (running.folder / "controller" / "admin.token").read_text().strip()
    return subprocess.run(
        [sys.executable, "-m", "quell", *arguments],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


class Load:
    """Posts batches of events of its own ids from some threads until it is stopped."""

    def __init__(self, running: Quell) -> None:
        self.acknowledged: list[str] = []
        self.errors: list[str] = []
        self._url = running.url
        self._token = (running.folder / "controller" / "ingest.token").read_text().strip()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(POSTERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _post(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/x-ndjson"}
        serial = 0
        with httpx.Client(base_url=self._url, headers=headers, timeout=60) as client:
            while not self._stop.is_set():
                ids = [f"load-{number}-{serial + n}" for n in range(BATCH)]
                serial += BATCH
                # Every fourth matches a rule; what it asks for is refused, as no such process can be named.
                lines = [
                    {
                        "id": each,
                        "name": "Host.Suspicious.Process" if n % 4 == 0 else "Container.Start",
                        "subject": {"node": NODE},
                    }
                    for n, each in enumerate(ids)
                ]
                answer = client.post("/v1/events", content="\n".join(map(json.dumps, lines)))
                if answer.is_success and answer.json()["ids"] == ids:
                    self.acknowledged += ids
                else:
                    self.errors.append(answer.text)


def events(folder: Path, ids: list[str]) -> dict[str, Stored | None]:
    """What the store of a stopped controller has of them."""
    with Store.open(folder / "controller" / "quell.db") as store:
        return {event_id: store.event(event_id) for event_id in ids}


def test_a_backup_under_load_loses_nothing_acknowledged(original: Quell, tmp_path: Path) -> None:
    original.start_controller()
    original.ask("POST", "/v1/documents", content=rules("http://127.0.0.1:9/hook"))
    original.enrol()
    file = tmp_path / "backup.tar.zst"
    load = Load(original)
    try:
        wait_for(lambda: len(load.acknowledged) >= BEFORE, 100, "enough events")
        before = load.acknowledged.copy()
        taken = cli(original, "backup", file)
        during = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > during + 10 * BATCH, 60, "events after the backup")
    finally:
        load.stop()
    assert taken.returncode == 0, taken.stderr
    assert load.errors == []
    assert during > len(before), "no event was acknowledged while the backup was taken"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]
    key = (original.folder / "controller" / "controller.key").read_bytes()
    original.stop()

    checked = cli(None, "restore", file, "--check")
    assert checked.returncode == 0, checked.stderr
    assert "is sound" in checked.stdout
    with quell(tmp_path / "restored") as restored:
        done = cli(None, "restore", file, "--state", restored.folder / "controller")
        assert done.returncode == 0, done.stderr
        assert (restored.folder / "controller" / "controller.key").read_bytes() == key

        there = events(original.folder, before)
        assert all(stored is not None for stored in there.values())
        assert sum(bool(stored and stored.decision.matches) for stored in there.values()) == len(before) / 4
        assert events(restored.folder, before) == there

        # The agent trusts the key that it pinned, and the controller the agent that it enrolled.
        shutil.copytree(original.folder / "agent", restored.folder / "agent")
        # Long before its event: a process of the same clock tick is not proved to be the one meant.
        victim = Victim("after-the-restore")
        try:
            restored.start_controller()
            restored.start_agent()
            wait_for(restored.linked, what="the agent's link to the restored controller")
            for event_id in before[::200]:
                assert restored.ask("GET", f"/v1/events/{event_id}")["event"]["id"] == event_id
            restored.ask("POST", "/v1/events", content=victim.event())
            wait_for(lambda: victim.gone, what="a kill that the restored controller orders")
        finally:
            victim.close()


class Endpoint:
    """A webhook's receiver that comes up late, at a port that was told before."""

    def __init__(self, port: int) -> None:
        self.received: list[str] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                received.append(self.headers["webhook-id"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_what_was_pending_is_sent_or_expires(original: Quell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old command is never sent again, however long the backup lay; a webhook is still delivered."""
    monkeypatch.setenv("QUELL_SAFETY_COMMAND_TTL", "3s")
    port = free_port()
    original.start_controller()
    original.ask("POST", "/v1/documents", content=rules(f"http://127.0.0.1:{port}/hook"))
    victim = Victim("pending")
    file = tmp_path / "backup.tar.zst"
    try:
        original.enrol()
        original.kill(original.agent)
        wait_for(lambda: not original.linked(), what="the end of the agent's link")
        original.ask("POST", "/v1/events", content=victim.event())
        with httpx.Client(base_url=original.url, timeout=60, verify=NO_TLS) as client:
            token = (original.folder / "controller" / "admin.token").read_text().strip()
            file.write_bytes(client.get("/v1/backup", headers={"Authorization": f"Bearer {token}"}).content)
        original.kill(original.controller)

        with quell(tmp_path / "restored") as restored:
            done = cli(None, "restore", file, "--state", restored.folder / "controller")
            assert done.returncode == 0, done.stderr
            with Store.open(restored.folder / "controller" / "quell.db") as store:
                pending = {item.channel.partition(":")[0]: item for item in store.outbox()}
            assert set(pending) == {"agent", "webhook"}
            expires = pending["agent"].expires
            assert expires is not None
            wait_for(lambda: time.time() > expires, what="the command's expiry")

            shutil.copytree(original.folder / "agent", restored.folder / "agent")
            restored.start_controller()
            restored.start_agent()
            wait_for(restored.linked, what="the agent's link")
            wait_for(lambda: pending["agent"].id in outcomes(restored, victim.id), 60, "an outcome of the old command")
            assert outcomes(restored, victim.id)[pending["agent"].id] == ["expired"]
            endpoint = Endpoint(port)
            try:
                wait_for(lambda: pending["webhook"].id in outcomes(restored, victim.id), 90, "the delivery")
            finally:
                endpoint.close()
            assert outcomes(restored, victim.id)[pending["webhook"].id] == ["done"]
            assert len(endpoint.received) >= 1
            assert outcomes(restored, victim.id)[pending["agent"].id] == ["expired"]
            assert restored.linked()
            assert not victim.gone, "an expired command of the backup was carried out"
    finally:
        victim.close()


def outcomes(running: Quell, event_id: str) -> dict[str, list[str]]:
    """Statuses by command or delivery."""
    told: dict[str, Any] = running.ask("GET", f"/v1/events/{event_id}")
    found: dict[str, list[str]] = {}
    for outcome in told.get("outcomes", []):
        found.setdefault(outcome["id"], []).append(outcome["status"])
    return found


def test_a_backup_has_every_file_of_a_controller(original: Quell, tmp_path: Path) -> None:
    """A file that a later version keeps in its state folder is a question for the backup."""
    original.start_controller()
    original.ask("POST", "/v1/documents", content=rules("http://127.0.0.1:9/hook"))
    file = tmp_path / "backup.tar.zst"
    assert cli(original, "backup", file).returncode == 0
    members = {member.name for member in archive.read(file).members}
    beside = {path.name for path in (original.folder / "controller").iterdir()} - members
    # The order log has what is in no journal yet, for some milliseconds, and is not acknowledged either.
    assert beside == {"quell.db-wal", "quell.db-shm", "quell.db-orders", "quell.db.lock"}


def test_files_are_neither_replaced_nor_left_half(original: Quell, tmp_path: Path) -> None:
    original.start_controller()
    folder = tmp_path / "backups"
    folder.mkdir()
    file = folder / "backup.tar.zst"
    file.write_text("another file")
    refused = cli(original, "backup", file)
    assert refused.returncode != 0
    assert "--force replaces it" in refused.stderr
    assert file.read_text() == "another file"
    assert cli(original, "backup", file, "--force").returncode == 0
    assert archive.read(file).events >= 1, "its own start at least"
    in_use = cli(None, "restore", file, "--state", original.folder / "controller", "--force")
    assert in_use.returncode == 1
    assert "is in use by process" in in_use.stderr
    controller = original.controller
    original.stop()
    unreachable = cli(original, "backup", folder / "other.tar.zst")
    assert unreachable.returncode == 4, controller
    assert [path.name for path in folder.iterdir()] == [file.name]


def test_backups_at_once_are_whole_or_refused(tmp_path: Path) -> None:
    with live(tmp_path / "state") as running:
        answers: list[httpx.Response] = []

        def take() -> None:
            with running.client() as client:
                answers.append(client.get("/v1/backup"))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with running.client() as client:
            answers.append(client.get("/v1/backup"))
            entries = client.get("/v1/audit", params={"kind": "backup"}).json()["items"]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert answers[-1].status_code == 200
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            file = tmp_path / f"{number}.tar.zst"
            file.write_bytes(answer.content)
            assert archive.read(file).events >= 1, "its own start at least"
        else:
            assert answer.headers["retry-after"] == "5"
    taken = [answer for answer in answers if answer.status_code == 200]
    assert len(entries) == len(taken), "each backup that was taken is in the audit log"
    assert not (tmp_path / "state" / ".backup").exists()
