"""Health, readiness and metrics of a running controller, while it is well and while it is not."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, live
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from quell.api.metrics import declared
from quell.settings import Ingest


def ready(client: httpx.Client) -> httpx.Response:
    return client.get("/readyz?verbose")


def failing(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """The checks that fail, by name."""
    return {check["name"]: check for check in ready(client).json()["checks"] if not check["ok"]}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)


@contextmanager
def held(running: Live) -> Iterator[None]:
    """The writing thread is busy with one transaction for as long as the block lasts."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_connection: object) -> None:
        begun.set()
        go_on.wait(60)

    running.controller.store.write(hold, lambda _error: None)
    assert begun.wait(20)
    try:
        yield
    finally:
        go_on.set()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "s") as server:
        yield server


@pytest.fixture
def nobody(running: Live) -> Iterator[httpx.Client]:
    with running.client("") as client:
        yield client


def test_a_well_controller_is_alive_and_ready(running: Live, nobody: httpx.Client) -> None:
    assert nobody.get("/healthz").text == "ok\n"
    assert nobody.get("/readyz").text == "ready\n"
    for path in ("/healthz", "/readyz"):
        assert nobody.head(path).status_code == 200
        assert nobody.post(path).status_code == 405
        assert nobody.get(path, headers={"Accept": "application/json"}).headers["content-type"] == "application/json"
    alive = nobody.get("/healthz?verbose").json()
    assert alive["status"] == "alive"
    assert abs(alive["time"] - time.time()) < 60
    told = ready(nobody).json()
    assert told["status"] == "ready"
    assert {check["name"] for check in told["checks"]} == {"state", "store", "disk", "queue", "journal"}
    assert all(check["ok"] for check in told["checks"])


def test_asking_again_and_again_does_not_write_each_time(running: Live, nobody: httpx.Client) -> None:
    ready(nobody)
    before = running.controller.store.statistics().commits
    started = time.monotonic()
    for _ in range(200):
        assert nobody.get("/readyz").status_code == 200
    assert running.controller.store.statistics().commits - before <= time.monotonic() - started + 3


def test_not_ready_while_the_state_is_not_the_journals(running: Live, nobody: httpx.Client) -> None:
    assert failing(nobody) == {}
    running.controller.pipeline.suspended = True
    first = failing(nobody)
    assert list(first) == ["state"]
    assert time.time() - 60 < first["state"]["since"] <= time.time()
    assert nobody.get("/readyz").status_code == 503
    assert nobody.get("/readyz").text.startswith("not ready: state: ")
    assert failing(nobody)["state"]["since"] == first["state"]["since"]
    assert nobody.get("/healthz").status_code == 200
    running.controller.pipeline.suspended = False
    assert nobody.get("/readyz").text == "ready\n"


def test_not_ready_while_writes_do_not_come_to_an_end(running: Live, nobody: httpx.Client) -> None:
    assert failing(nobody) == {}
    with held(running):
        wait_for(lambda: "store" in failing(nobody), "the check of the store")
        assert failing(nobody)["store"]["detail"] == "a write does not come to an end"
        assert nobody.get("/healthz").status_code == 200
    wait_for(lambda: failing(nobody) == {}, "readiness")


def test_not_ready_while_the_queue_is_full(tmp_path: Path) -> None:
    event = {"name": "Host.Suspicious.Process", "details": {"message": "x" * 100_000}}
    body = b"\n".join([json.dumps(event).encode()] * 2)
    with live(tmp_path / "s", Ingest(queue_bytes=1 << 20)) as running, running.client("") as nobody:

        def send() -> None:
            # Answered when the queue moves again; what comes once it is full gets 429.
            with running.client("ingest") as sender:
                sender.post("/v1/events", content=body, timeout=60)

        senders = [threading.Thread(target=send) for _ in range(8)]
        with held(running):
            for sender in senders:
                sender.start()
            wait_for(lambda: "queue" in failing(nobody), "the check of the queue")
            assert failing(nobody)["queue"]["detail"] == "too much waits to be written"
        for sender in senders:
            sender.join(60)
        wait_for(lambda: failing(nobody) == {}, "readiness")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_not_ready_while_the_disk_is_full(tmp_path: Path) -> None:
    small = tmp_path / "small-secret-name"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine cannot mount: {mounted.stderr.strip()}")
    try:
        with live(small / "s") as running, running.client("") as nobody, running.client("ingest") as sender:
            assert failing(nobody) == {}
            _fill(small / "ballast")
            assert failing(nobody)["disk"]["detail"] == "the disk is full"
            body = json.dumps({"name": "Host.Suspicious.Process", "details": {"message": "x" * 30_000}})
            wait_for(lambda: sender.post("/v1/events", content=body).status_code == 503, "a full disk")
            answer = ready(nobody)
            assert answer.status_code == 503
            # An outsider is told no path.
            assert "small-secret-name" not in answer.text
            (small / "ballast").unlink()
            wait_for(lambda: failing(nobody) == {}, "readiness")
            wait_for(lambda: sender.post("/v1/events", content=body).status_code == 202, "room")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            return


DOCUMENTS = b"""\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: answer}
spec: {event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [{makeRedFlag: {severity: high}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: resting}
spec: {event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [suppress-log], disable: true}
"""


def test_metrics_are_well_formed_and_the_reference_has_them_all(running: Live) -> None:
    with running.client("admin") as admin:
        admin.post("/v1/documents", content=DOCUMENTS).raise_for_status()
        admin.post("/v1/events", json={"name": "Host.Suspicious.Process"}).raise_for_status()
        answer = admin.get("/metrics").raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        modern = admin.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
    known = {told.name: told for told in declared()}
    found: dict[str, float] = {}
    for family in parse(answer.text):
        assert family.documentation, family.name
        if not family.name.startswith("quell_"):
            assert family.name.startswith(("process_", "python_"))
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        told = known.pop(name)
        assert (family.type, family.documentation) == (told.kind, told.text)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(told.labels)
            found[sample.name + "".join(f",{value}" for _, value in sorted(sample.labels.items()))] = sample.value
    assert known == {}
    assert (found["quell_documents,ResponseRule"], found["quell_rules,enforce"], found["quell_rules,disabled"]) == (
        2 + 6,  # the six that come with Quell, disabled
        1,
        1 + 6,
    )
    assert found["quell_store_events_total"] >= 1
    assert found["quell_agents_connected"] == 0
    assert found["quell_store_disk_free_bytes"] > 0
    # OpenMetrics' own parser is strict about units, suffixes and the end.
    assert {family.name for family in parse_openmetrics(modern.text)} >= {"quell_store_events", "quell_build_info"}


def test_metrics_tell_of_trouble(running: Live) -> None:
    with running.client("admin") as admin:
        running.controller.pipeline.suspended = True
        assert "\nquell_suspended 1.0" in admin.get("/metrics").text
        running.controller.pipeline.suspended = False
        assert "\nquell_suspended 0.0" in admin.get("/metrics").text
