"""Percentiles, floors of this machine, and a running Quell to measure."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Budgets that let a benchmark act as often as it needs; printed with the figures.
BUDGETS = {
    "QUELL_SAFETY_BUDGET_ENGINE": "1000000/1m",
    "QUELL_SAFETY_BUDGET_RULE": "1000000/1m",
    "QUELL_SAFETY_BUDGET_NAMESPACE": "1000000/1m",
    "QUELL_SAFETY_BUDGET_REPLICAS": "100",
    "QUELL_SAFETY_BUDGET_ISOLATED": "100",
    "QUELL_SAFETY_BREAKER": "1000000/1h",
}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0 to 1) of the others lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(name: str, seconds: Sequence[float]) -> str:
    """One line: p50, p90, p99 and the worst, in milliseconds."""
    told = "  ".join(f"p{int(share * 100)} {percentile(seconds, share) * 1000:8.3f}" for share in (0.5, 0.9, 0.99))
    return f"{name:<44} {told}  max {max(seconds) * 1000:8.3f} ms  (n={len(seconds)})"


class Quell:
    """A real `quell up` in a folder of its own."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.port = port
        self.process = process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, role: str = "admin") -> str:
        return (self.folder / f"{role}.token").read_text().strip()

    def quell(self, *words: str) -> str:
        """The output of a quell command against this one. Fails if the command does."""
        command = [sys.executable, "-m", "quell", "--url", self.url, "--token", self.token(), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def agents(self) -> list[dict[str, object]]:
        answer: list[dict[str, object]] = json.loads(self.quell("agents", "list", "-o", "json"))
        return answer


@contextlib.contextmanager
def quell_up(*options: str, agent: bool = True, environment: dict[str, str] | None = None) -> Iterator[Quell]:
    """Start it, wait until it answers (and its agent is linked), stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name, socket.create_server(("127.0.0.1", 0)) as probe:
        folder, port = Path(name), probe.getsockname()[1]
        probe.close()
        words = ["up"] if agent else ["controller"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "quell", *words, "--port", str(port), "--state", str(folder), *options],
                env=os.environ | BUDGETS | (environment or {}),
                stdout=log,
                stderr=log,
            )
        running = Quell(folder, port, process)
        try:
            wait_for(lambda: _answers(port), 30, folder / "log")
            if agent:
                wait_for(lambda: any(one.get("connected") for one in running.agents()), 30, folder / "log")
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(log.read_text()[-4000:] if log else "waited in vain")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


class Poster:
    """One kept-alive connection that posts bodies with as little of its own time as it can."""

    def __init__(self, port: int, token: str, path: str = "/v1/events") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    def send(self, body: bytes) -> None:
        self.socket.sendall(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)

    def answer(self) -> bytes:
        """The whole response; AssertionError unless it is 202."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.socket.recv(65536)
        head, _, rest = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        while len(rest) < length:
            rest += self.socket.recv(65536)
        assert b" 202 " in head[:20], (head, rest)
        return rest


def gone(pidfd: int, seconds: float = 10.0) -> float:
    """The moment (perf_counter) at which the process of this pidfd was seen to be gone."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(seconds * 1000):
        raise TimeoutError("the process is still there")
    return time.perf_counter()


# ---- floors: what this machine needs for the parts that nobody can leave out


def fdatasync_floor(folder: Path, count: int = 300) -> list[float]:
    """Seconds of a 4 KiB write with fdatasync."""
    times = []
    descriptor = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(count):
            start = time.perf_counter()
            os.write(descriptor, b"x" * 4096)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)
        (folder / "floor").unlink()
    return times


def loopback_floor(count: int = 1000) -> list[float]:
    """Seconds of 150 bytes there and back over TCP on loopback, between two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if child == 0:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := connection.recv(4096):
                connection.sendall(data)
            os._exit(0)
        times = []
        with socket.create_connection(server.getsockname()) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(count):
                start = time.perf_counter()
                connection.sendall(b"x" * 150)
                connection.recv(4096)
                times.append(time.perf_counter() - start)
        os.waitpid(child, 0)
    return times


def signature_floor(count: int = 500) -> list[float]:
    """Seconds to sign 400 bytes with Ed25519 and verify them."""
    key = Ed25519PrivateKey.generate()
    public, payload, times = key.public_key(), os.urandom(400), []
    for _ in range(count):
        start = time.perf_counter()
        public.verify(key.sign(payload), payload)
        times.append(time.perf_counter() - start)
    return times


def kill_floor(count: int = 100) -> list[float]:
    """Seconds from opening a pidfd, through SIGKILL, to the process being gone."""
    times = []
    for _ in range(count):
        victim = subprocess.Popen(["sleep", "600"])
        time.sleep(0.002)
        start = time.perf_counter()
        pidfd = os.pidfd_open(victim.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        times.append(gone(pidfd) - start)
        os.close(pidfd)
        victim.wait()
    return times


class Background:
    """Posts prepared bodies at a steady rate from another process, so that its work is not this one's."""

    def __init__(self, port: int, token: str, bodies: Sequence[bytes], bodies_per_second: float) -> None:
        self._child = os.fork()
        if self._child == 0:
            try:
                _post_steadily(port, token, bodies, bodies_per_second)
            finally:
                os._exit(0)

    def stop(self) -> None:
        os.kill(self._child, signal.SIGTERM)
        os.waitpid(self._child, 0)


def _post_steadily(port: int, token: str, bodies: Sequence[bytes], bodies_per_second: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    poster = Poster(port, token, "/v1/events/falco")
    start, sent = time.perf_counter(), 0
    while True:
        ahead = start + sent / bodies_per_second - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        poster.send(bodies[sent % len(bodies)])
        poster.answer()
        sent += 1
