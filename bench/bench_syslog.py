"""Syslog: what forming a message costs, how many a second go to a receiver on loopback, and what ingest loses by it.

Falco alerts of about 1.2 KB, one controller process without rules. The receiver is a process of its own that reads and
counts lines: the floor is what it counts of ready-made messages. Rates of ingest are of batches of 100, four at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized

from bench.alerts import alerts
from bench.figures import Poster, Quell, quell_up, wait_for
from quell.controller.syslog.envelope import framed, message
from quell.controller.syslog.told import of_event
from quell.detectors import DETECTORS
from quell.model.decision import Decision
from quell.model.syslog import Framing, MessageFormat, Syslog

EVENTS = 20_000
BATCH = 100
POSTERS = 4
#: Messages a second over TCP, with everything that is between the journal and the receiver.
BOUND = 5_000


def main() -> bool:
    made = list(alerts(EVENTS))
    forming(made[:2000])
    floor()
    with quell_up(agent=False, environment={"QUELL_SYSLOG_ALLOW_PRIVATE": "true"}) as running:
        posted(running, made[: EVENTS // 4])  # to warm up
        without = posted(running, made)
        print(f"ingest, no receiver defined                {without:>10,.0f} events/s")
        with receiver() as (port, count):
            apply(running, port, enable=False)
            print(f"ingest, one receiver defined and disabled  {posted(running, made):>10,.0f} events/s")
            rates = []
            for form in MessageFormat:
                apply(running, port, enable=True, form=form)
                before, start = count.value, time.perf_counter()
                ingest = posted(running, made)
                wait_for(lambda before=before: count.value - before >= EVENTS, 300)  # type: ignore[misc]
                rates.append(EVENTS / (time.perf_counter() - start))
                print(
                    f"ingest, one receiver of {form:<18} {ingest:>10,.0f} events/s,"
                    f" all received after {EVENTS / rates[-1]:.1f} s: {rates[-1]:,.0f} messages/s"
                )
    print(f"bound: {BOUND:,} messages/s in each form")
    return min(rates) >= BOUND


def forming(lines: Sequence[bytes]) -> None:
    """Microseconds of decoding an alert and making a message of it, by form."""
    for form in MessageFormat:
        to = Syslog(name="bench", address="tcp://127.0.0.1:1", format=form)
        decision = Decision(event_id="bench", time=0.0, revision=1)
        start, size = time.process_time(), 0
        for number, line in enumerate(lines):
            event = DETECTORS["falco"].decode(line, id=f"bench-{number}", received=1_790_000_000.0)
            size += len(framed(message(of_event(event, decision), to, host="bench", pid=1), to))
        seconds = time.process_time() - start
        print(f"decoded and formed as {form:<5} {seconds / len(lines) * 1e6:6.1f} us, {size / len(lines):.0f} bytes")


def floor() -> None:
    with receiver() as (port, count), socket.create_connection(("127.0.0.1", port)) as connection:
        body = (b"x" * 1000 + b"\n") * 64
        start = time.perf_counter()
        for _ in range(2000):
            connection.sendall(body)
        wait_for(lambda: count.value >= 64 * 2000, 60)
        print(
            f"floor: ready messages of 1,000 bytes through loopback {64 * 2000 / (time.perf_counter() - start):,.0f}/s"
        )


def apply(running: Quell, port: int, *, enable: bool, form: MessageFormat = MessageFormat.TEXT) -> None:
    spec = {
        "address": f"tcp://127.0.0.1:{port}",
        "format": form.value,
        "framing": Framing.NEWLINE.value,
        "enable": str(enable).lower(),
        # Quell's own events would be counted with the alerts.
        "filter": "{categories: [security-event, admission-control], flags: false}",
    }
    fields = ", ".join(
        f'{name}: "{value}"' if name == "address" else f"{name}: {value}" for name, value in spec.items()
    )
    document = running.folder / "receiver.yaml"
    document.write_text(f"{{apiVersion: quell.dev/v1, kind: Syslog, metadata: {{name: bench}}, spec: {{{fields}}}}}\n")
    running.quell("apply", "-f", str(document))


def posted(running: Quell, lines: Sequence[bytes]) -> float:
    """Events a second, acknowledged."""
    batches = [b"\n".join(lines[at : at + BATCH]) for at in range(0, len(lines), BATCH)]
    posters = [Poster(running.port, running.token("ingest"), "/v1/events/falco") for _ in range(POSTERS)]

    def work(poster: Poster, own: Sequence[bytes]) -> None:
        for batch in own:
            poster.send(batch)
            poster.answer()

    threads = [
        threading.Thread(target=work, args=(poster, batches[number::POSTERS])) for number, poster in enumerate(posters)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    for poster in posters:
        poster.socket.close()
    return len(lines) / seconds


@contextlib.contextmanager
def receiver() -> Iterator[tuple[int, Synchronized[int]]]:
    """A port, and how many lines came in there."""
    count: Synchronized[int] = multiprocessing.Value("q", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = multiprocessing.get_context("fork").Process(target=_count, args=(server, count), daemon=True)
        child.start()
        try:
            yield server.getsockname()[1], count
        finally:
            child.terminate()
            child.join()


def _count(server: socket.socket, count: Synchronized[int]) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_read, args=(connection, count), daemon=True).start()


def _read(connection: socket.socket, count: Synchronized[int]) -> None:
    while data := connection.recv(1 << 20):
        with count.get_lock():
            count.value += data.count(b"\n")
