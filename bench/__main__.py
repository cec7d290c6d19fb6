"""Runs the benchmarks: `python -m bench` all of them, `python -m bench NAME ...` those named bench_NAME.

A benchmark is a module bench_*.py beside this one with main() -> bool: it prints its figures, each beside the floor it
is compared with, and says whether every bound it states was met. The exit code is 0 if all did.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    missed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        if not importlib.import_module(f"bench.bench_{name}").main():
            missed.append(name)
    if missed:
        print(f"bounds missed by: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
