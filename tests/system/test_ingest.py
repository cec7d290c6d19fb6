"""Taking events in over HTTP: what is acknowledged is on disk, what is refused is told and kept, nothing is lost."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from live import Live, live

from quell.settings import Ingest
from quell.storage.store import Store

ROOT = Path(__file__).resolve().parents[2]
ALERTS = sorted((ROOT / "tests/inputs/falco").glob("*.json"))
SAMPLES = sorted((ROOT / "../shared/samples/detectors").glob("falco_*"))

KIB = 1024
LIMITS = Ingest(max_body=256 * KIB, max_unpacked=512 * KIB, max_event=64 * KIB, queue_bytes=1024 * KIB)
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("state") / "s", LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture(scope="module")
def sender(server: Live) -> Iterator[httpx.Client]:
    with server.client("ingest") as client:
        yield client


def event(**fields: Any) -> bytes:
    return json.dumps({"name": "Host.Suspicious.Process", **fields}).encode()


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    return body


def names(admin: httpx.Client, ids: list[str]) -> list[str]:
    return [admin.get(f"/v1/events/{event_id}").raise_for_status().json()["event"]["name"] for event_id in ids]


def test_one_event_an_array_and_lines(sender: httpx.Client, admin: httpx.Client) -> None:
    one = sender.post("/v1/events", content=event(), headers={"Content-Type": "application/json"})
    assert one.status_code == 202
    assert one.json()["rejected"] == []
    array = sender.post("/v1/events", json=[{"name": "Container.Start"}, {"name": "Container.Stop"}])
    assert names(admin, array.json()["ids"]) == ["Container.Start", "Container.Stop"]
    lines = sender.post("/v1/events", content=event(id="l-1") + b"\r\n\r\n" + event(id="l-2") + b"\n", headers=NDJSON)
    assert lines.json() == {"ids": ["l-1", "l-2"], "rejected": []}
    untold = sender.post("/v1/events", content=event(id="l-3") + b"\n" + event(id="l-4"))
    assert untold.json()["ids"] == ["l-3", "l-4"]
    pretty = sender.post("/v1/events", content=json.dumps({"id": "l-5", "name": "Container.Start"}, indent=2).encode())
    assert pretty.json()["ids"] == ["l-5"]


def test_what_is_acknowledged_is_on_disk_before_the_answer(tmp_path: Path) -> None:
    with live(tmp_path / "s") as running, running.client("ingest") as client:
        ids = client.post("/v1/events", json=[{"name": "Container.Start"}] * 50).json()["ids"]
        # A copy of the files as another process sees them now, while the controller still has them open.
        copy = tmp_path / "copy"
        shutil.copytree(running.folder, copy)
    with Store.open(copy / "quell.db") as store:
        assert store.known_ids(ids) == set(ids)


def test_good_lines_are_taken_and_broken_ones_told_and_kept(sender: httpx.Client, admin: httpx.Client) -> None:
    body = b"\n".join(
        [event(id="g-1"), b'{"name": nope}', b'{"name": "Container.Start", "colour": 1}', event(id="g-2")]
    )
    answer = sender.post("/v1/events", content=body, headers=NDJSON)
    assert answer.status_code == 202
    assert answer.json()["ids"] == ["g-1", "g-2"]
    broken, unknown = answer.json()["rejected"]
    assert (broken["line"], broken["position"]) == (2, 9)
    assert unknown["line"] == 3
    assert "unknown field `colour`" in unknown["reason"]
    kept = admin.get("/v1/rejects", params={"limit": 2}).json()["items"]
    assert [(reject["line"], reject["source"]) for reject in kept] == [(3, "native"), (2, "native")]
    assert kept[1]["raw"] == '{"name": nope}'
    assert kept[1]["peer"] == "127.0.0.1"


def test_broken_elements_of_an_array_are_counted_from_one(sender: httpx.Client) -> None:
    answer = sender.post("/v1/events", content=b"[" + event(id="a-1") + b", 5, " + event(id="a-3") + b"]")
    assert answer.json()["ids"] == ["a-1", "a-3"]
    assert [reject["line"] for reject in answer.json()["rejected"]] == [2]


def test_nothing_good_is_400_with_the_list(sender: httpx.Client) -> None:
    body = problem(sender.post("/v1/events", content=b"{}\n{}\n", headers=NDJSON), 400)
    assert body["ids"] == []
    assert [reject["line"] for reject in body["rejected"]] == [1, 2]
    single = problem(sender.post("/v1/events", content=b'{"name": 5}'), 400)
    assert "at `$.name`" in single["detail"]


@pytest.mark.parametrize(
    ("body", "position", "line", "column"),
    [
        (b'{"name": "Container.Start"', 26, 1, 27),
        (b'{\n "name": x\n}', 11, 2, 10),
        (b'[{"name": "a"},\n {"name": }]', 26, 2, 11),
        (b'{"name": "Container.Start"} trailing', 28, 1, 29),
    ],
)
def test_what_is_not_json_is_400_with_the_position(
    sender: httpx.Client, admin: httpx.Client, body: bytes, position: int, line: int, column: int
) -> None:
    told = problem(sender.post("/v1/events", content=body), 400)
    assert (told["position"], told["line"], told["column"]) == (position, line, column)
    assert admin.get("/v1/rejects", params={"limit": 1}).json()["items"][0]["raw"] == body.decode()


def test_an_empty_body_is_400_and_an_empty_array_is_nothing(sender: httpx.Client) -> None:
    problem(sender.post("/v1/events", content=b" \n"), 400)
    assert sender.post("/v1/events", content=b"[]").json() == {"ids": [], "rejected": []}


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "GZIP"])
def test_packed_bodies(sender: httpx.Client, encoding: str) -> None:
    text = event(id=f"{encoding}-1") + b"\n" + event(id=f"{encoding}-2")
    packed = gzip.compress(text) if encoding.lower() == "gzip" else zstandard.compress(text)
    answer = sender.post("/v1/events", content=packed, headers={**NDJSON, "Content-Encoding": encoding})
    assert answer.json()["ids"] == [f"{encoding}-1", f"{encoding}-2"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_small_body_that_unpacks_to_much_is_413(sender: httpx.Client, encoding: str) -> None:
    packed = gzip.compress(b" " * 50_000_000) if encoding == "gzip" else zstandard.compress(b" " * 50_000_000)
    assert len(packed) < LIMITS.max_body
    told = problem(sender.post("/v1/events", content=packed, headers={"Content-Encoding": encoding}), 413)
    assert str(LIMITS.max_unpacked) in told["detail"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_packed_body_that_is_cut_or_is_none_is_400(sender: httpx.Client, encoding: str) -> None:
    packed = gzip.compress(event()) if encoding == "gzip" else zstandard.compress(event())
    for body in (packed[:-4], event()):
        problem(sender.post("/v1/events", content=body, headers={"Content-Encoding": encoding}), 400)


def test_types_and_encodings_that_are_not_taken_are_415(sender: httpx.Client) -> None:
    told = sender.post("/v1/events", content=event(), headers={"Content-Encoding": "br"})
    assert told.headers["accept-encoding"] == "gzip, zstd"
    problem(told, 415)
    problem(sender.post("/v1/events", content=event(), headers={"Content-Type": "text/html"}), 415)
    falco = sender.post("/v1/events/falco", content=b"{}", headers={"Content-Type": "text/plain"})
    assert "json_output" in problem(falco, 415)["detail"]


def test_a_body_that_is_too_large_is_413_however_it_is_sent(server: Live, sender: httpx.Client) -> None:
    large = b" " * (LIMITS.max_body + 1)
    problem(sender.post("/v1/events", content=large), 413)

    def parts() -> Iterator[bytes]:
        for _ in range(5):
            yield large[: LIMITS.max_body // 4]

    problem(sender.post("/v1/events", content=parts()), 413)
    # One that announces more than it sends is answered without waiting for it.
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=10) as line:
        line.sendall(_head(server, f"Content-Length: {1 << 40}"))
        assert b" 413 " in line.recv(100)


def test_one_event_that_is_too_large_is_rejected_alone(sender: httpx.Client) -> None:
    huge = event(details={"message": "x" * LIMITS.max_event})
    answer = sender.post("/v1/events", content=huge + b"\n" + event(id="small"), headers=NDJSON)
    assert answer.json()["ids"] == ["small"]
    assert str(LIMITS.max_event) in answer.json()["rejected"][0]["reason"]


def test_a_full_queue_is_429_with_when_to_try_again(server: Live, sender: httpx.Client, admin: httpx.Client) -> None:
    body = b'{"name":"Container.Start"}\n' * 4_000
    held = threading.Event()
    try:
        # The writing thread is busy with this until the test lets it go; what comes meanwhile waits in the queue.
        server.controller.store.write(lambda _connection: held.wait(20), lambda _error: None)
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(sender.post, "/v1/events", content=body, headers=NDJSON) for _ in range(8)]
            wait(waiting, timeout=20, return_when=FIRST_COMPLETED)
            held.set()
            answers = [answer.result() for answer in waiting]
    finally:
        held.set()
    refused = [answer for answer in answers if answer.status_code != 202]
    assert 0 < len(refused) < 8
    for answer in refused:
        problem(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1
    # What was answered 429 was not taken, and what was answered 202 was.
    listed = [row["id"] for row in admin.get("/v1/events", params={"limit": 1}).json()["items"]]
    assert listed[0] in {answer.json()["ids"][-1] for answer in answers if answer.status_code == 202}


def test_the_same_id_twice_is_one_decision(sender: httpx.Client, admin: httpx.Client) -> None:
    first = sender.post("/v1/events", content=event(id="twice", details={"message": "first"}))
    again = sender.post("/v1/events", content=event(id="twice", details={"message": "second"}))
    assert (first.json()["ids"], again.json()["ids"]) == (["twice"], ["twice"])
    assert again.status_code == 202
    assert admin.get("/v1/events/twice").json()["event"]["details"]["message"] == "first"
    listed = [row["id"] for row in admin.get("/v1/events", params={"limit": 1000}).json()["items"]]
    assert listed.count("twice") == 1


def test_who_may_not(server: Live, sender: httpx.Client, admin: httpx.Client) -> None:
    with server.client("") as nobody:
        answer = nobody.post("/v1/events", content=event())
        problem(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        problem(nobody.post("/v1/events", content=event(), headers={"Authorization": "Bearer wrong"}), 401)
        problem(nobody.post("/v1/events", content=event(), headers={"Authorization": "Basic eA=="}), 401)
    viewer = admin.post("/v1/tokens", json={"role": "viewer", "name": "reader"}).json()["token"]
    problem(admin.post("/v1/events", content=event(), headers={"Authorization": f"Bearer {viewer}"}), 403)
    problem(sender.put("/v1/events", content=event()), 403)
    problem(admin.put("/v1/events", content=event()), 405)


def test_an_ingest_token_can_do_nothing_else(sender: httpx.Client, admin: httpx.Client) -> None:
    paths = admin.get("/v1/openapi.json").json()["paths"]
    calls = [
        (method.upper(), path)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if operation["x-permission"] not in ("open", "ingest")
    ]
    assert ("GET", "/v1/events") in calls
    for method, path in calls:
        problem(sender.request(method, path.replace("{", "").replace("}", "")), 403)
    for path in ("/metrics", "/v1/anything"):
        problem(sender.get(path), 403)


def test_a_sender_that_goes_away_takes_nothing_with_it(server: Live, sender: httpx.Client, admin: httpx.Client) -> None:
    body = event(id="never")
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=10) as line:
        line.sendall(_head(server, f"Content-Length: {len(body) + 10}") + body)
    assert sender.post("/v1/events", content=event(id="after")).status_code == 202
    assert admin.get("/v1/events/never").status_code == 404


@pytest.mark.parametrize("file", ALERTS, ids=lambda file: file.stem)
def test_falco_posts_an_alert(sender: httpx.Client, admin: httpx.Client, file: Path) -> None:
    # As its http_output does: this type, one alert a request.
    answer = sender.post("/v1/events/falco", content=file.read_bytes(), headers={"Content-Type": "application/json"})
    assert names(admin, answer.json()["ids"]) == [json.loads(file.read_bytes())["rule"]]


@pytest.mark.skipif(not SAMPLES, reason="the folder of shared samples is not beside this clone")
def test_every_sample_of_falco_is_taken(sender: httpx.Client, admin: httpx.Client) -> None:
    rules = []
    for file in SAMPLES:
        answer = sender.post("/v1/events/falco", content=file.read_bytes())
        assert answer.status_code == 202, (file, answer.text)
        rules += names(admin, answer.json()["ids"])
    assert rules == [json.loads(file.read_bytes())["rule"] for file in SAMPLES]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_503_and_nothing_is_taken(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine cannot mount: {mounted.stderr.strip()}")
    try:
        with live(small / "s") as running, running.client("ingest") as sender:
            assert sender.post("/v1/events", content=event(id="before")).status_code == 202
            ballast = small / "ballast"
            _fill(ballast)
            refused = None
            for attempt in range(300):
                message = "x" * 30_000
                answer = sender.post("/v1/events", content=event(id=f"full-{attempt}", details={"message": message}))
                if answer.status_code != 202:
                    refused = answer
                    break
            assert refused is not None
            problem(refused, 503)
            assert int(refused.headers["retry-after"]) >= 1
            ballast.unlink()
            deadline = time.monotonic() + 20
            while (answer := sender.post("/v1/events", content=event(id="later"))).status_code != 202:
                assert time.monotonic() < deadline, answer.text
                time.sleep(0.05)
            with running.client("admin") as admin:
                assert admin.get(f"/v1/events/full-{attempt}").status_code == 404
                assert admin.get("/v1/events/before").status_code == 200
                assert admin.get("/v1/events/later").status_code == 200
    finally:
        subprocess.run(["umount", str(small)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"\0" * 65536)
        except OSError:
            return


def _head(server: Live, length: str) -> bytes:
    token = server.token("ingest")
    return f"POST /v1/events HTTP/1.1\r\nHost: quell\r\nAuthorization: Bearer {token}\r\n{length}\r\n\r\n".encode()
