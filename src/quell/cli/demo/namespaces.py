"""Two network namespaces joined by a veth pair, made for the demonstration and removed with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from quell.cli.demo.stage import wait_for

#: Addresses of TEST-NET-1 (RFC 5737); they exist inside the two namespaces only.
_HERE, _THERE = "192.0.2.1", "192.0.2.2"


class Pair(Struct, frozen=True):
    """A client's namespace, a server's, and a process that lives in the server's."""

    client: str
    server: str
    process: subprocess.Popen[bytes]

    def ping(self) -> bool:
        """Whether the server's namespace answers the client's within a second."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.client, "ping", "-n", "-c", "1", "-W", "1", _THERE],
            check=False,
            capture_output=True,
        )
        return done.returncode == 0

    def pings(self, *, expected: bool) -> float | None:
        """When the answer became as expected (epoch seconds); None: it did not within a few tries."""
        for _ in range(5):
            if self.ping() is expected:
                return time.time()
        return None


def missing() -> str:
    """What this machine lacks for it; "" if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = [program for program in ("ip", "ping") if shutil.which(program) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


@contextmanager
def joined() -> Iterator[Pair]:
    """CalledProcessError if the kernel does not allow it."""
    client, server = (f"quell-demo-{os.getpid()}-{side}" for side in ("a", "b"))
    made: list[str] = []
    process: subprocess.Popen[bytes] | None = None
    try:
        for name in (client, server):
            _ip("netns", "add", name)
            made.append(name)
        _ip("link", "add", "demo0", "netns", client, "type", "veth", "peer", "name", "demo0", "netns", server)
        for name, address in ((client, _HERE), (server, _THERE)):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", "demo0")
            for device in ("lo", "demo0"):
                _ip("-n", name, "link", "set", device, "up")
        process = subprocess.Popen(["ip", "netns", "exec", server, "sleep", "600"])
        # `ip` becomes the program it was told to run, under the same pid.
        comm = Path(f"/proc/{process.pid}/comm")
        wait_for(lambda: comm.read_text().strip() == "sleep", "a process in the namespace")
        yield Pair(client, server, process)
    finally:
        if process is not None:
            process.kill()
            process.wait()
        for name in made:
            _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
