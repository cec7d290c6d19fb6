"""Webhooks: a receiver that is down for a minute under 200 events a second, one that hangs, and a fast one's throughput.

Each receiver is a process that notes every delivery as it comes in. Counted are events that were acknowledged and never
came (lost), came before one that was acknowledged earlier (reordered), or came more than once (duplicates).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvloop

from bench.figures import Poster, Quell, fdatasync_floor, loopback_floor, percentile, quell_up, row, wait_for

RATE = 200
#: Seconds that a receiver is down.
DOWN = float(os.environ.get("BENCH_DOWN", "60"))
#: Seconds of events beside which latency is measured, and events for the throughput.
CALM = float(os.environ.get("BENCH_CALM", "10"))
BURST = int(os.environ.get("BENCH_BURST", "10000"))
#: Seconds in which the receiver that was down must have everything, after it is back.
CAUGHT_UP = 90.0
ENVIRONMENT = {"QUELL_WEBHOOKS_ALLOW_PRIVATE": "true", "QUELL_LOG_LEVEL": "error"}


class Receiver:
    """A process that answers at once, or never; stop() ends it, start() begins another on the same port."""

    def __init__(self, folder: Path, name: str, *, hangs: bool = False) -> None:
        self._log = folder / name
        self._hangs = hangs
        self._log.touch()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        words = ["receive", str(self._log), str(self.port), *(["hangs"] if self._hangs else [])]
        self._process = subprocess.Popen([sys.executable, "-m", "bench.bench_webhooks", *words])
        wait_for(self._listens, 10)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def arrived(self) -> list[tuple[int, float]]:
        """The number of each delivery's event and its moment (monotonic), in order of arrival."""
        lines = self._log.read_text().split("\n")[:-1]
        return [(int(number), float(moment)) for number, moment in map(str.split, lines)]

    @property
    def count(self) -> int:
        """Lines are of one length."""
        return self._log.stat().st_size // _LINE


_LINE = len(f"{0:08} {0.0:018.6f}\n")


def _receive(log: str, port: int, *, hangs: bool) -> None:
    noted = os.open(log, os.O_WRONLY | os.O_APPEND)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                number = int(head.partition(b"webhook-id: n")[2][:8])
                os.write(noted, f"{number:08} {time.monotonic():018.6f}\n".encode())
                if not hangs:
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def run() -> None:
        await (await asyncio.start_server(serve, "127.0.0.1", port)).serve_forever()

    uvloop.run(run())


def main() -> bool:
    """Prints counts and figures; whether nothing was lost or reordered and the receiver caught up in time."""
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        folder = Path(name)
        print(row("floor: fdatasync of 4 KiB", fdatasync_floor(folder)))
        print(row("floor: loopback round trip", loopback_floor()))
        kept = _beside_a_hanging_one(folder)
        kept &= _throughput(folder)
        return _outage(folder) and kept


def _documents(running: Quell, receivers: dict[str, Receiver]) -> None:
    documents = [
        {
            "apiVersion": "quell.dev/v1",
            "kind": "Webhook",
            "metadata": {"name": name},
            "spec": {
                "url": f"http://127.0.0.1:{receiver.port}/",
                "allow_http": True,
                "secret": "whsec_YS1zZWNyZXQtb2YtdGhpcy1iZW5jaG1hcmstb25seQ==",
            },
        }
        for name, receiver in receivers.items()
    ]
    spec = {"event": "security-event", "criteria": ["name:Host.Suspicious.Process"], "actions": ["webhook"]}
    rule = {"apiVersion": "quell.dev/v1", "kind": "ResponseRule", "metadata": {"name": "tell"}}
    documents.append({**rule, "spec": {**spec, "webhooks": list(receivers)}})
    (running.folder / "webhooks.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    running.quell("apply", "-f", str(running.folder / "webhooks.yaml"))


class _Steady:
    """Posts numbered events one by one, RATE a second, in a thread; sent has the moment of each."""

    def __init__(self, running: Quell) -> None:
        self.sent: list[float] = []
        self._poster = Poster(running.port, running.token("ingest"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return len(self.sent)

    def _run(self) -> None:
        start = time.monotonic()
        while not self._stop.is_set():
            body = _event(len(self.sent) + 1)
            self.sent.append(time.monotonic())
            self._poster.send(body)
            self._poster.answer()
            time.sleep(max(0.0, start + len(self.sent) / RATE - time.monotonic()))


def _event(number: int) -> bytes:
    return json.dumps(
        {"id": f"n{number:08}", "time": time.time(), "name": "Host.Suspicious.Process", "subject": {"node": "bench"}}
    ).encode()


def _beside_a_hanging_one(folder: Path) -> bool:
    """Posted to arrived at a healthy receiver, alone and beside one that takes connections and never answers."""
    medians = []
    for beside in (False, True):
        receivers = {"healthy": Receiver(folder, f"healthy-{beside}")}
        if beside:
            receivers["hangs"] = Receiver(folder, "hangs", hangs=True)
        try:
            with quell_up(agent=False, environment=ENVIRONMENT) as running:
                _documents(running, receivers)
                posting = _Steady(running)
                time.sleep(CALM)
                sent = posting.stop()
                _wait(receivers["healthy"], sent)
                arrived = dict(receivers["healthy"].arrived())
                times = [arrived[number] - moment for number, moment in enumerate(posting.sent, 1)]
        finally:
            for receiver in receivers.values():
                receiver.stop()
        print(row(f"posted to arrived, {RATE}/s, {'beside one that hangs' if beside else 'alone'}", times))
        medians.append(percentile(times, 0.5))
    ratio = medians[1] / medians[0]
    print(f"{'  ratio of the medians':<44} {ratio:.2f}  (bound 2)")
    return ratio <= 2


def _throughput(folder: Path) -> bool:
    """Deliveries a second to one receiver that answers at once, of events posted in batches."""
    receiver = Receiver(folder, "fast")
    try:
        with quell_up(agent=False, environment=ENVIRONMENT) as running:
            _documents(running, {"fast": receiver})
            poster = Poster(running.port, running.token("ingest"))
            start = time.monotonic()
            for first in range(1, BURST + 1, 500):
                poster.send(b"[" + b",".join(_event(number) for number in range(first, first + 500)) + b"]")
                poster.answer()
            taken = time.monotonic() - start
            _wait(receiver, BURST)
            arrived = receiver.arrived()
    finally:
        receiver.stop()
    seconds = arrived[-1][1] - start
    told = f"{BURST / seconds:.0f} deliveries/s, of {BURST} events taken in {taken:.1f} s"
    print(f"{'throughput to one fast receiver, in order':<44} {told}")
    return _counted("fast", arrived, BURST)


def _outage(folder: Path) -> bool:
    receivers = {
        "steady": Receiver(folder, "steady"),
        "down": Receiver(folder, "down"),
        "hanging": Receiver(folder, "hanging", hangs=True),
    }
    try:
        with quell_up(agent=False, environment=ENVIRONMENT) as running:
            _documents(running, receivers)
            posting = _Steady(running)
            time.sleep(CALM / 2)
            receivers["down"].stop()
            fell = len(posting.sent)
            time.sleep(DOWN)
            up, back = len(posting.sent), time.monotonic()
            receivers["down"].start()
            # Caught up: it has all that was sent until then, while more is sent all the time.
            _wait(receivers["down"], up, CAUGHT_UP * 2)
            first = next(moment for _, moment in receivers["down"].arrived() if moment > back) - back
            while receivers["down"].count < len(posting.sent) - RATE // 10:
                time.sleep(0.02)
            caught = time.monotonic() - back
            sent = posting.stop()
            for name in ("steady", "down"):
                _wait(receivers[name], sent)
            during = dict(receivers["steady"].arrived())
            times = [during[n] - posting.sent[n - 1] for n in range(fell + 1, up + 1)]
            found = {name: receivers[name].arrived() for name in ("steady", "down")}
    finally:
        for receiver in receivers.values():
            receiver.stop()
    print(f"down for {DOWN:g} s under {RATE} events/s: {up - fell} events waited, {sent} in all")
    counted = [_counted(name, arrived, sent) for name, arrived in found.items()]
    print(f"{'  first attempt after it was back':<44} {first:.1f} s")
    print(f"{'  caught up after it was back':<44} {caught:.1f} s  (bound {CAUGHT_UP:g} s)")
    print(row("  posted to arrived, at the steady one meanwhile", times))
    return all(counted) and caught <= CAUGHT_UP


def _counted(name: str, arrived: list[tuple[int, float]], sent: int) -> bool:
    numbers = [number for number, _ in arrived]
    first = list(dict.fromkeys(numbers))
    lost = sent - len(first)
    reordered = sum(later < earlier for earlier, later in itertools.pairwise(first))
    told = f"delivered {len(first)}, lost {lost}, reordered {reordered}, duplicates {len(numbers) - len(first)}"
    print(f"{f'  {name}':<44} {told}")
    return not lost and not reordered


def _wait(receiver: Receiver, count: int, seconds: float = 120.0) -> None:
    wait_for(lambda: receiver.count >= count, seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        _receive(sys.argv[2], int(sys.argv[3]), hangs="hangs" in sys.argv)
    else:
        main()
