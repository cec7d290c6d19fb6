"""Memory of the controller over millions of events with the journal bounded to 1 GB. BENCH_EVENTS: how many."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.alerts import alerts, rules
from bench.figures import Poster, quell_up

EVENTS = int(os.environ.get("BENCH_EVENTS", "5000000"))
BATCH, SAMPLES = 500, 20
#: Share by which the last quarter of the samples may be above the second.
FLAT = 0.05


def main() -> bool:
    """Prints resident memory and the journal's size along the way; whether memory stayed flat and the size bounded."""
    made = list(alerts(50_000))
    batches = [b"\n".join(made[n : n + BATCH]) for n in range(0, len(made), BATCH)]
    bound = 1_000_000_000
    with quell_up(agent=False, environment={"QUELL_JOURNAL_MAX_BYTES": str(bound)}) as running:
        document = running.folder / "rules.yaml"
        document.write_text(rules(1000))
        running.quell("apply", "-f", str(document))
        poster, resident, sizes, start = (
            Poster(running.port, running.token("ingest"), "/v1/events/falco"),
            [],
            [],
            time.time(),
        )
        for sample in range(SAMPLES):
            for number in range(EVENTS // BATCH // SAMPLES):
                poster.send(batches[number % len(batches)])
                poster.answer()
            resident.append(_resident(running.process.pid))
            sizes.append(sum(path.stat().st_size for path in running.folder.glob("quell.db*")))
            print(
                f"{(sample + 1) * EVENTS // SAMPLES:>10,} events  {resident[-1] / 2**20:7.1f} MiB resident"
                f"  {sizes[-1] / 1e6:8.1f} MB on disk  {time.time() - start:6.1f} s",
                flush=True,
            )
    quarter = SAMPLES // 4
    early, late = (sum(part) / quarter for part in (resident[quarter : 2 * quarter], resident[-quarter:]))
    print(
        f"last quarter to second quarter: {late / early:.3f} (bound {1 + FLAT}); largest on disk {max(sizes) / 1e6:.1f} MB"
    )
    return late <= early * (1 + FLAT) and max(sizes) <= bound * 1.1


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
