"""Every page of the console in front of a full store, and what two hundred people who look at the overview cost.

One controller with a million Falco alerts, ten thousand rules and a thousand enrolled agents. A page is asked for as a
browser does, over HTTP with its cookie; its time is until the last byte. The viewers hold a live page each, while alerts
come in at a steady rate; what they cost is the controller's CPU time with them over that without.
BENCH_EVENTS, BENCH_RULES: how many.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.alerts import alert
from bench.bench_agents import AGENTS, ENVIRONMENT, crowd
from bench.figures import Poster, Quell, percentile, quell_up, row
from quell.console.registry import PAGES

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
RULES = int(os.environ.get("BENCH_RULES", "10000"))
BATCH = 500
#: Times that each page is asked for.
ASKED = 40
#: p95 of a page in seconds.
BOUND_PAGE = 0.150
VIEWERS = 200
#: Events a second while they look, seconds of each measurement, and how often both are measured in turn.
RATE, SECONDS, ROUNDS = 5000, 10.0, 5
#: CPU time with the viewers over that without.
BOUND_VIEWERS = 1.10
PASSWORD = "eleven green lamps"

#: Beside what the registry has: what is searched for, common and rare, and further pages.
ADDRESSES = (
    "/console/overview?span=24h",
    "/console/notifications/security-events?level=%3E%3DError",
    "/console/notifications/security-events?rule=rare",
    "/console/notifications/security-events?text=zebrafinch",
    "/console/agents?sort=-enrolled&from=500",
)
RARE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: rare}
spec: {event: security-event, criteria: ["name:A rare thing"], actions: [{makeRedFlag: {severity: low}}]}
"""


def main() -> bool:
    """Prints the figures; whether the bounds were kept."""
    environment = {**ENVIRONMENT, "QUELL_JOURNAL_MAX_BYTES": str(8 << 30)}
    with quell_up(agent=False, environment=environment) as running:
        started = time.perf_counter()
        _fill(running)
        told = f"{EVENTS:,} events, {RULES:,} rules and {AGENTS:,} agents"
        print(f"{told:<52} in {time.perf_counter() - started:.0f} s", flush=True)
        return all([_pages(running), _viewers(running)])


def _fill(running: Quell) -> None:
    with httpx.Client(base_url=running.url, headers=_bearer(running), timeout=300) as admin:
        user = {"name": "alice", "role": "admin", "password": PASSWORD}
        admin.post("/v1/users", json=user).raise_for_status()
        admin.post("/v1/documents", content="\n---\n".join([RARE, *map(_rule, range(RULES))])).raise_for_status()
    with crowd(running):
        pass
    poster = Poster(running.port, running.token("ingest"), "/v1/events/falco")
    for start in range(0, EVENTS, BATCH):
        poster.send(b"\n".join(map(_alert, range(start, min(EVENTS, start + BATCH)))))
        poster.answer()


def _rule(number: int) -> str:
    """One that no event meets."""
    spec = {
        "event": "security-event",
        "criteria": [f"image:*/app-{number}:*", f"process:never-{number}"],
        "actions": [{"makeRedFlag": {"severity": "low"}}],
    }
    document = {"apiVersion": "quell.dev/v1", "kind": "ResponseRule", "metadata": {"name": f"bench-{number}"}}
    return json.dumps({**document, "spec": spec})


def _alert(serial: int) -> bytes:
    """One in 2,000 is what a rule is for."""
    made = alert((serial * 7919) % 1000, serial)
    if serial % 2000:
        return made
    return json.dumps({**json.loads(made), "rule": "A rare thing"}).encode()


def _pages(running: Quell) -> bool:
    kept = True
    with httpx.Client(base_url=running.url, timeout=60) as browser:
        entered = browser.post("/login", data={"name": "alice", "password": PASSWORD})
        assert entered.status_code == 303, entered.text
        with httpx.Client(base_url=running.url, headers=_bearer(running), timeout=60) as admin:
            found = admin.get("/v1/events", params={"limit": 1}).raise_for_status().json()["items"][0]["id"]
        whole = [
            page.address for page in PAGES if any(f"/console{route.path}" == page.address for route in page.routes)
        ]
        event = f"/console/notifications/event/{found}"
        for address in (*whole, *ADDRESSES, event, f"{event}?near=1"):
            times = []
            for _ in range(ASKED):
                start = time.perf_counter()
                answer = browser.get(address)
                times.append(time.perf_counter() - start)
                assert answer.status_code == 200, (address, answer.status_code)
            kept = kept and percentile(times, 0.95) <= BOUND_PAGE
            print(
                f"{row(address.replace(found, 'ID')[:44], times)}  p95 {percentile(times, 0.95) * 1000:.0f}", flush=True
            )
    print(f"{'  bound of each':<44} p95 {BOUND_PAGE * 1000:.0f} ms")
    return kept


def _viewers(running: Quell) -> bool:
    shares: dict[int, list[float]] = {0: [], VIEWERS: []}
    with _steady(running) as sent:
        for _ in range(ROUNDS):
            for viewers, found in shares.items():
                share, rate, messages = asyncio.run(_looked(running, viewers, sent))
                found.append(share / rate)
                print(
                    f"{f'{viewers} viewers':<44} CPU {share * 100:5.1f} %, {rate:,.0f} events/s,"
                    f" {messages:.2f} messages/s each",
                    flush=True,
                )
    ratios = sorted(one / none for none, one in zip(shares[0], shares[VIEWERS], strict=True))
    middle = percentile(ratios, 0.5)
    print(f"{'  CPU of an event with them over without':<44} median {middle:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    print(f"{'  bound':<44} {BOUND_VIEWERS}")
    return middle <= BOUND_VIEWERS


@contextmanager
def _steady(running: Quell) -> Iterator[list[int]]:
    """Alerts at the rate for as long as the block lasts, and how many there were."""
    sent, over = [0], threading.Event()
    size = RATE // 20
    body = b"\n".join(map(_alert, range(1, size + 1)))
    poster = Poster(running.port, running.token("ingest"), "/v1/events/falco")

    def feed() -> None:
        due = time.monotonic()
        while not over.is_set():
            poster.send(body)
            poster.answer()
            sent[0] += size
            due += size / RATE
            time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


async def _looked(running: Quell, viewers: int, sent: list[int]) -> tuple[float, float, float]:
    """CPU time a second, events a second, and live messages a second of each viewer."""
    heard = [0]

    async def look() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        head = (
            f"GET /console/live/overview HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {running.token()}\r\n\r\n"
        )
        writer.write(head.encode())
        try:
            assert b" 200 " in await reader.readline()
            while got := await reader.read(1 << 16):
                heard[0] += got.count(b"data: ")
        finally:
            writer.close()

    looking = [asyncio.create_task(look()) for _ in range(viewers)]
    await asyncio.sleep(3)
    heard[0] = 0
    cpu, events, start = _cpu(running.process.pid), sent[0], time.monotonic()
    await asyncio.sleep(SECONDS)
    took = time.monotonic() - start
    ended = [each for each in looking if each.done()]
    assert not ended, f"{len(ended)} of {viewers} viewers were let go"
    assert heard[0] or not viewers, "nobody was told anything"
    result = (_cpu(running.process.pid) - cpu) / took, (sent[0] - events) / took, heard[0] / took / max(1, viewers)
    for each in looking:
        each.cancel()
    await asyncio.gather(*looking, return_exceptions=True)
    return result


def _cpu(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bearer(running: Quell) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.token()}"}


if __name__ == "__main__":
    main()
