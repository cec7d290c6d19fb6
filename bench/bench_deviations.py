"""From the execution of a program that a policy does not expect, in a real podman container, until it is gone.

A real `quell up` with an enforced policy that kills; the executed program is `sleep`, which the container's shell starts.
The kernel's own stamp of the execution begins it. Bound: 20 ms at p50. Needs root and podman.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.system.podman import IMAGE, Podman, missing, podman

from bench.figures import Quell, gone, kill_floor, percentile, quell_up, row, wait_for
from quell.agent import proc
from quell.agent.connector import Connector

#: Fewer than repeats of one deviation become events in a minute (guardian.events_checksum).
ROUNDS, BOUND = 50, 0.020
_NAME = "quell-bench-deviations"
_POLICY = f"""
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: bench, type: container}}
spec:
  mode: enforce
  containerSelector: {{matchFields: {{image: "{IMAGE}"}}}}
  processPolicy: [{{id: sh, name: sh, exe: [/bin/busybox], euser: [root]}}]
  response: {{default: [{{agentKillProcess: {{}}}}]}}
"""


def main() -> bool:
    if missing():
        print(missing())
        return False
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as folder, podman(Path(folder)) as containers:
        settings = {name: containers.environment[name] for name in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")}
        with quell_up(environment=settings) as running, shell(containers) as container:
            apply(running, _POLICY)
            wait_for(lambda: '"bench"' in running.quell("get", "policies", "-o", "json"), 20)
            times = [each for each in measured(container) if each is not None]
    print(row("kill by pidfd until gone", kill_floor()))
    print(row("deviant execution in a container until gone", times))
    print(f"{len(times)} of {ROUNDS} were ended; bound {BOUND * 1000:g} ms at p50")
    return len(times) == ROUNDS and percentile(times, 0.5) <= BOUND


def measured(container: subprocess.Popen[bytes]) -> Iterator[float | None]:
    """Seconds for each; None: it was still there seconds later."""
    connector = Connector()
    with contextlib.closing(connector):
        for _ in range(ROUNDS):
            time.sleep(0.05)
            list(connector.read(10_000))
            assert container.stdin is not None
            container.stdin.write(b"go\n")
            yield executed(connector)


def executed(connector: Connector) -> float | None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        select.select([connector], [], [], 1)
        for pid, stamp in connector.read():
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    placement, stat = proc.read_placement(pid), proc.read_stat(pid)
                    inside = placement is not None and placement.container_id is not None
                    # One that is gone before it can be looked at was in the container: nobody else kills here.
                    if stat is None or inside:
                        gone(pidfd, 3)
                        return time.monotonic() - stamp
                except TimeoutError:
                    return None
                finally:
                    os.close(pidfd)
    return None


@contextlib.contextmanager
def shell(containers: Podman) -> Iterator[subprocess.Popen[bytes]]:
    """A container whose shell starts a `sleep` for each line it reads."""
    script = "while read line; do /bin/sleep 60 & done"
    words = ["podman", "run", "--interactive", "--name", _NAME, "--network=none", "--entrypoint", "/bin/sh", IMAGE]
    process = subprocess.Popen([*words, "-c", script], env=containers.environment, stdin=subprocess.PIPE, bufsize=0)
    try:
        wait_for(lambda: _NAME in containers("ps", "--format", "{{.Names}}"), 20)
        time.sleep(1)  # for its image's name to have reached the inventory
        yield process
    finally:
        process.kill()
        process.wait()


def apply(running: Quell, text: str) -> None:
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{running.url}/v1/documents",
        text.encode(),
        {"Content-Type": "application/yaml", "Authorization": f"Bearer {running.token()}"},
    )
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - our own server
        pass


if __name__ == "__main__":
    main()
