"""Deliveries to names that a name server of this script's own makes up, in a network and mount namespace of its own.

Started by test_webhook_names.py as `unshare --net --mount`: there 203.0.113.5 is an address of this machine that no rule
refuses, and nothing is beyond it. Prints what happened as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from quell.controller.delivery import Pace
from quell.controller.receivers import Answer, Receiver
from quell.controller.webhooks import Webhooks
from quell.model.rule import Webhook
from quell.settings import WebhookSettings
from quell.storage import dead_letters, deliveries, outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store

GOOD, HERE = "203.0.113.5", "127.0.0.1"
PORT = 8080
A, AAAA = 1, 28
SERVFAIL, NXDOMAIN, SILENCE = "servfail", "nxdomain", "silence"

#: What the name server says to the first, second ... question for an A record of a name; the last again and again.
NAMES: dict[str, list[list[str] | str]] = {
    "good.test": [[GOOD]],
    "several.test": [[HERE, "169.254.169.254", GOOD, "10.255.255.1"]],
    "bad.test": [[HERE, "169.254.169.254"]],
    "mapped.test": [[]],
    "rebinds.test": [[GOOD], [HERE]],
    "flaky.test": [SERVFAIL, NXDOMAIN, [], [GOOD]],
    **{f"silent{n}.test": [SILENCE] for n in range(8)},
}
SIX = {"mapped.test": ["::ffff:127.0.0.1"], "bad.test": ["::1"]}

asked: Counter[str] = Counter()
#: By the address they came in at.
requests: list[tuple[str, str]] = []


def name_server(listener: socket.socket) -> None:
    while True:
        query, peer = listener.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        (kind,) = struct.unpack_from("!H", query, at + 1)
        question, name = query[12 : at + 5], ".".join(labels).lower()
        steps = NAMES.get(name, [NXDOMAIN])
        if kind == A:
            step = steps[min(asked[name], len(steps) - 1)]
            asked[name] += 1
        else:
            step = SIX.get(name, []) if steps != [SILENCE] else SILENCE
        if step == SILENCE:
            continue
        code = {SERVFAIL: 2, NXDOMAIN: 3}.get(step if isinstance(step, str) else "", 0)
        addresses = [] if isinstance(step, str) else [ipaddress.ip_address(text).packed for text in step]
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(addresses), 0, 0)
        answers = [struct.pack("!HHHLH", 0xC00C, kind, 1, 0, len(packed)) + packed for packed in addresses]
        listener.sendto(head + question + b"".join(answers), peer)


def web_server(address: str) -> None:
    """Answers once a connection; /to/NAME redirects there."""
    with socket.create_server((address, PORT)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                data = b""
                while b"\r\n\r\n{}" not in data:
                    data += connection.recv(65_536)
                path = data.split(b" ")[1].decode()
                requests.append((address, path))
                answer = "204 No Content\r\n"
                if path.startswith("/to/"):
                    answer = f"307 Over there\r\nLocation: http://{path.removeprefix('/to/')}:{PORT}/moved\r\nContent-Length: 0\r\n"
                connection.sendall(f"HTTP/1.1 {answer}Connection: close\r\n\r\n".encode())


async def attempt(receiver: Receiver) -> dict[str, Any]:
    before = len(requests)
    answer: Answer = await receiver.post("id", b"{}", time.time())
    return {"verdict": answer.verdict.value, "told": answer.explanation, "at": [at for at, _ in requests[before:]]}


async def attempts(name: str, count: int = 1, path: str = "/") -> list[dict[str, Any]]:
    endpoint = Webhook(name="ops", url=f"http://{name}:{PORT}{path}", allow_http=True)
    receiver = Receiver(endpoint, timeout=5.0)
    try:
        return [await attempt(receiver) for _ in range(count)]
    finally:
        await receiver.close()


async def through_lines(store: Store, names: list[str], pace: Pace, until: str) -> dict[str, Any]:
    """A delivery to each; what was done by the moment `until` has its."""
    endpoints = {name: Webhook(name=name, url=f"http://{name}:{PORT}/{name}", allow_http=True) for name in names}
    items = [
        OutboxItem(id=f"e/webhook/{name}", channel=f"webhook:{name}", body=b"{}", created=time.time()) for name in names
    ]
    store.submit(lambda connection: outbox.insert(connection, items)).result()
    webhooks = Webhooks(store, endpoints, WebhookSettings(), time.time, pace=pace)
    webhooks.start()
    end = time.monotonic() + 30
    while store.outbox(f"webhook:{until}"):
        assert time.monotonic() < end, webhooks.status()
        await asyncio.sleep(0.01)
    told = {
        "waiting": {one.name: one.waiting for one in webhooks.status()},
        "attempts": [
            (one.delivered, one.explanation)
            for one in store.read(lambda connection: deliveries.of(connection, f"e/webhook/{until}"))
        ],
        "letters": len(store.read(lambda connection: dead_letters.recent(connection, 99))),
        "asked": sorted(name for name in names if asked[name]),
    }
    await webhooks.stop()
    return told


async def scenario() -> dict[str, Any]:
    told: dict[str, Any] = {
        "several": await attempts("several.test"),
        "bad": await attempts("bad.test"),
        "mapped": await attempts("mapped.test"),
        "rebinds": await attempts("rebinds.test", 2),
        "asked when it rebound": asked["rebinds.test"],
        "redirect to bad": await attempts("good.test", path="/to/bad.test"),
        "redirect to several": await attempts("good.test", path="/to/several.test"),
        "redirect to here": await attempts("good.test", path=f"/to/{HERE}"),
    }
    quick = Pace(timeout=5.0, first_wait=0.02, longest_wait=0.1)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "q.db") as store:
        told["flaky"] = await through_lines(store, ["flaky.test"], quick, "flaky.test")
    silent = [name for name in NAMES if name.startswith("silent")]
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "q.db") as store:
        store.submit(lambda connection: outbox.insert(connection, [])).result()
        slow = Pace(timeout=30.0)
        # The silent ones are asked for first; only then is there something for the good one.
        endpoints = {name: Webhook(name=name, url=f"http://{name}:{PORT}/", allow_http=True) for name in silent}
        waiting = Webhooks(store, endpoints, WebhookSettings(), time.time, pace=slow)
        items = [
            OutboxItem(id=f"s/webhook/{name}", channel=f"webhook:{name}", body=b"{}", created=time.time())
            for name in silent
        ]
        store.submit(lambda connection: outbox.insert(connection, items)).result()
        waiting.start()
        while any(not asked[name] for name in silent):  # noqa: ASYNC110 - a thread of the name server counts them
            await asyncio.sleep(0.01)
        told["beside silence"] = await attempts("good.test")
        told["silent"] = [one.failures for one in waiting.status()]
        await waiting.stop()
    return told


def main() -> None:
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{GOOD}/32", "dev", "lo"],
        ["mount", "--bind", sys.argv[1], "/etc/resolv.conf"],
    ):
        subprocess.run(command, check=True)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((HERE, 53))
    threading.Thread(target=name_server, args=(listener,), daemon=True).start()
    for address in (GOOD, HERE):
        threading.Thread(target=web_server, args=(address,), daemon=True).start()
    sys.stdout.write(json.dumps(uvloop.run(scenario())))


if __name__ == "__main__":
    main()
