"""Durable and matched ingest over HTTP, beside the same server with matching and journal switched off, and beside one that
does no more than decode.

1,000 rules, Falco alerts of about 1.2 KB, one server process, wrk as the load on the same two cores. A rate counts
answers of 202, each given after its transaction is on disk (synchronous=FULL); the journal is asked afterwards how many
events it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.alerts import alerts, rules
from bench.figures import Quell, quell_up, wait_for

SECONDS = int(os.environ.get("BENCH_SECONDS", "10"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
BODIES = 100
BATCH = 100

_SCRIPT = """
local bodies = {{}}
for n = 1, {count} do
  local file = io.open("{folder}/" .. n, "rb")
  bodies[n] = file:read("*a")
  file:close()
end
local n = 0
request = function()
  n = n % {count} + 1
  return wrk.format("POST", "/v1/events/falco", {{["Authorization"] = "Bearer {token}", ["Content-Type"] = "{type}"}}, bodies[n])
end
"""


def main() -> bool:
    """Prints rates and their ratios; whether the bounds were kept. Needs wrk (deploy/setup.sh test)."""
    if shutil.which("wrk") is None:
        print("wrk is needed: apt-get install wrk")
        return False
    made = list(alerts(BODIES * BATCH))
    print(f"alerts of {sum(map(len, made)) / len(made):.0f} bytes, {len(set(made))} distinct")
    batches = [b"\n".join(made[n : n + BATCH]) for n in range(0, len(made), BATCH)]
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        folder = Path(name)
        _write(folder / "batches", batches)
        _write(folder / "singles", made[:2000])
        with quell_up(agent=False, environment={"QUELL_JOURNAL_MAX_BYTES": str(1 << 30)}) as running:
            document = running.folder / "rules.yaml"
            document.write_text(rules(1000))
            running.quell("apply", "-f", str(document))
            with _bare(running, "--off") as off, _bare(running, "--bare") as bare:
                rates: dict[int, list[float]] = {running.port: [], off: [], bare: []}
                for _ in range(ROUNDS):  # in turn, so that a noisy moment hits all
                    for port, found in rates.items():
                        found.append(BATCH * _rate(folder, "batches", len(batches), port, running.token("ingest")))
                full = rates[running.port]

                def ratios(port: int) -> list[float]:
                    return [a / b for a, b in zip(full, rates[port], strict=True)]

                print(f"NDJSON x{BATCH}, durable and matched   {_told(full)} events/s   (bound 40,000)")
                print(f"NDJSON x{BATCH}, matching, journal off {_told(rates[off])} events/s")
                print(f"  ratio                          {_told(ratios(off), 3)}")
                print(f"NDJSON x{BATCH}, decoded and no more   {_told(rates[bare])} events/s")
                print(f"  ratio                          {_told(ratios(bare), 3)}            (bound 0.60)")
            singles = [_rate(folder, "singles", 2000, running.port, running.token("ingest")) for _ in range(ROUNDS)]
            print(f"single events, durable, matched  {_told(singles)} requests/s (bound 8,000)")
    return _median(full) >= 40_000 and _median(ratios(bare)) >= 0.60 and _median(singles) >= 8_000


def _write(folder: Path, bodies: Sequence[bytes]) -> None:
    folder.mkdir()
    for number, content in enumerate(bodies, 1):
        (folder / str(number)).write_bytes(content)


def _rate(folder: Path, bodies: str, count: int, port: int, token: str) -> float:
    """Answers of 2xx a second."""
    script = folder / "script.lua"
    kind = "application/x-ndjson" if bodies == "batches" else "application/json"
    script.write_text(_SCRIPT.format(count=count, folder=folder / bodies, token=token, type=kind))
    connections = "32" if bodies == "batches" else "64"
    told = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{SECONDS}s",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}/v1/events/falco",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in told:
        raise RuntimeError(told)
    match = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert match is not None, told
    return float(match[1])


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _told(values: Sequence[float], digits: int = 0) -> str:
    ordered = sorted(values)
    return f"median {_median(values):>10,.{digits}f} (min {ordered[0]:,.{digits}f}, max {ordered[-1]:,.{digits}f})"


@contextlib.contextmanager
def _bare(running: Quell, how: str) -> Iterator[int]:
    """The same API over a controller that answers at once: its port. how: as in _serve_bare."""
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        folder = Path(name)
        (folder / "admin.token").write_text(running.token("admin"))
        environment = os.environ | {"BENCH_INGEST_TOKEN": running.token("ingest")}
        process = subprocess.Popen([sys.executable, "-m", "bench.bench_ingest", how, str(folder)], env=environment)
        try:
            wait_for((folder / "port").exists, 30)
            yield int((folder / "port").read_text())
        finally:
            process.terminate()
            process.wait(20)


async def _serve_bare(folder: Path, how: str) -> None:
    """What a request costs beside deciding and writing. --off: all but matching and the journal, so with the repeated ids
    and the inventory, that are asked before. --bare: HTTP, the token, decoding, normalising, the answer.
    """
    import time

    from quell.controller.pipeline import Pipeline
    from quell.matching.index import Index
    from quell.model.answer import NOTHING, Answer
    from quell.serve import serving
    from quell.settings import Server, Settings
    from quell.storage import tokens

    def taken(_pipeline: Pipeline, _events: Sequence[object], _text: bytes | None = None) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def appended(_pipeline: Pipeline, _batch: object, future: asyncio.Future[None]) -> None:
        future.set_result(None)

    def matched(_index: Index, events: Sequence[object], _world: object, _now: float) -> list[Answer]:
        return [NOTHING] * len(events)

    if how == "--off":
        Index.match_all = matched  # type: ignore[assignment,method-assign]
        Pipeline._append = appended  # type: ignore[assignment,method-assign]  # noqa: SLF001 - what is switched off
    else:
        Pipeline.submit = taken  # type: ignore[assignment,method-assign]
    async with serving(folder / "state", Settings(server=Server(port=0))) as running:
        secret, token = os.environ["BENCH_INGEST_TOKEN"], tokens.Token(name="bench", role="ingest", created=time.time())
        await asyncio.wrap_future(running.controller.store.submit(lambda c: tokens.put(c, secret, token)))
        (folder / "port.new").write_text(running.url.rpartition(":")[2])
        (folder / "port.new").rename(folder / "port")
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] in (["--bare"], ["--off"]):
        import uvloop

        from quell.serve import _COLLECT, _keep_heap

        # As quell.serve.run does: the two servers differ in nothing but deciding and writing.
        gc.set_threshold(*_COLLECT)
        _keep_heap()
        uvloop.run(_serve_bare(Path(sys.argv[2]), sys.argv[1]))
    else:
        main()
