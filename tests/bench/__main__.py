"""`make bench`: every `bench_*.py` beside this file, one after another; 0 when all ended well.

Each prints the figures that docs/measurements.md reports, and can be run alone: `python -m tests.bench.NAME`.
"""

import subprocess
import sys
import time
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent


def main(only: list[str]) -> int:
    """Run all benchmarks, or those whose names are given (`bench_live`, or `live`)."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    wanted = [name for name in names if not only or name in only or name.removeprefix("bench_") in only]
    if not wanted:
        print(f"There is no such benchmark; there are: {', '.join(names) or 'none'}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        print(f"\n=== {name} ===", flush=True)
        started = time.monotonic()
        code = subprocess.run(
            [sys.executable, "-m", f"tests.bench.{name}"], cwd=PROJECT_ROOT, check=False
        ).returncode
        outcome = "ok" if code == 0 else f"ended with {code}"
        print(f"=== {name}: {outcome}, {time.monotonic() - started:.0f} s ===", flush=True)
        if code != 0:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
