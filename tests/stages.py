"""The stages of `make test`, one after another: `python -m tests.stages all|fast|lint`.

A stage that fails does not keep the others from running; the exit code says whether all were well. Every
stage has a deadline, and must leave no process behind: what it leaves is ended by pid and fails the stage.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from console.supervisor import kernel
from console.supervisor.ending import end_all, reap_orphans
from console.supervisor.identity import command_of, descendants_of
from tests.services import ServiceMissing, postgres_server, redis_server

PROJECT_ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PYTEST = [PYTHON, "-m", "pytest", "-q"]
# Orphans that are ending already get this long before they count as left behind.
LEFTOVER_GRACE_S = 5.0
NOT_PASSED_ON = ("DATABASE_URL", "REDIS_URL", "RAY_ADDRESS", "DJANGO_SETTINGS_MODULE")

Environment = dict[str, str]


@contextlib.contextmanager
def _nothing_more() -> Iterator[Environment]:
    yield {}


@contextlib.contextmanager
def _postgres_and_redis() -> Iterator[Environment]:
    with postgres_server() as database_url, redis_server() as redis_url:
        yield {"DATABASE_URL": database_url, "REDIS_URL": redis_url}


@dataclass(frozen=True)
class Stage:
    """Commands run one after another; `folder` names the tests, without which it fails."""

    name: str
    commands: list[list[str]]
    deadline_s: float
    folder: str = ""
    surroundings: Callable[[], contextlib.AbstractContextManager[Environment]] = field(default=_nothing_more)


LINT = Stage(
    "lint", [[PYTHON, "-m", "ruff", "check", "."], [PYTHON, "-m", "ruff", "format", "--check", "."]], 120
)
TYPES = Stage("types", [[PYTHON, "-m", "mypy"]], 600)
MIGRATIONS = Stage("migrations", [[PYTHON, "manage.py", "makemigrations", "--check", "--dry-run"]], 120)
# Hours of fuzzing in miniature and whole processes killed: `make test` runs them, the fast part does not.
LEFT_OUT_OF_FAST = [
    "--ignore=tests/unit/api/test_hostile_requests.py",
    "--ignore=tests/unit/planner/test_hostile_files.py",
    "--ignore=tests/unit/serving/test_checkpoint_hostile.py",
    "--ignore=tests/unit/workers/test_collect_killed.py",
]
FAST_UNIT = Stage(
    "unit and views, on SQLite, without the longest",
    [[*PYTEST, "-n", "2", *LEFT_OUT_OF_FAST, "tests/unit"]],
    600,
    "tests/unit",
)
UNIT = Stage("unit and views, on SQLite", [[*PYTEST, "-n", "2", "tests/unit"]], 600, "tests/unit")
POSTGRES = Stage(
    "database and queue, on PostgreSQL and a separate Redis",
    [[*PYTEST, "-n", "2", "-p", "tests.only_database", "tests/unit"]],
    600,
    "tests/unit",
    _postgres_and_redis,
)
CLUSTER = Stage("cluster: real Ray and vLLM", [[*PYTEST, "tests/cluster"]], 2400, "tests/cluster")
SYSTEM = Stage("system: the whole product", [[*PYTEST, "tests/system"]], 900, "tests/system")
BROWSER = Stage("browser: Chromium", [[*PYTEST, "tests/browser"]], 1200, "tests/browser")

GOALS = {
    "lint": [LINT, TYPES, MIGRATIONS],
    "fast": [LINT, TYPES, MIGRATIONS, FAST_UNIT],
    "all": [LINT, TYPES, MIGRATIONS, UNIT, POSTGRES, CLUSTER, SYSTEM, BROWSER],
}


def main(arguments: list[str]) -> int:
    """Run the stages of one goal; 0 when all were well."""
    parser = argparse.ArgumentParser(prog="python -m tests.stages", description=__doc__)
    parser.add_argument("goal", choices=GOALS)
    stages = GOALS[parser.parse_args(arguments).goal]
    kernel.adopt_orphans()
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    results: list[tuple[Stage, str, float]] = []
    try:
        for stage in stages:
            started = time.monotonic()
            print(f"\n=== {stage.name} ===", flush=True)
            outcome = _run_stage(stage)
            results.append((stage, outcome, time.monotonic() - started))
            print(f"=== {stage.name}: {outcome}, {results[-1][2]:.0f} s ===", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted", flush=True)
        return 130
    finally:
        _end_leftovers()
    print("\nstage                                                    result    seconds")
    for stage, outcome, seconds in results:
        print(f"{stage.name:<56} {outcome:<9} {seconds:7.0f}")
    print(f"{'together':<66} {time.monotonic() - began:7.0f}", flush=True)
    return 1 if any(outcome == "FAILED" for _, outcome, _ in results) else 0


def _run_stage(stage: Stage) -> str:
    if stage.folder and not list((PROJECT_ROOT / stage.folder).rglob("test_*.py")):
        print(f"no tests in {stage.folder}")
        return "FAILED"
    deadline = time.monotonic() + stage.deadline_s
    try:
        with stage.surroundings() as environment:
            codes = [_run(command, environment, deadline) for command in stage.commands]
    except ServiceMissing as missing:
        print(missing)
        return "FAILED"
    well = all(code == 0 for code in codes)
    return "ok" if _end_leftovers() == 0 and well else "FAILED"


def _run(command: list[str], extra: Environment, deadline: float) -> int:
    shown = " ".join(Path(word).name if word == PYTHON else word for word in command)
    print(f"$ {shown}", flush=True)
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env={**_clean_environment(), **extra}, stdin=subprocess.DEVNULL
    )
    try:
        return process.wait(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("deadline passed; ending it", flush=True)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=30) or 1
        process.kill()
        return process.wait() or 1
    except KeyboardInterrupt:
        # From a terminal the child has had the signal as well; it closes what its fixtures opened.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


def _clean_environment() -> Environment:
    """What the tests see: nothing of an installation that happens to be configured in this shell."""
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAYDECK_") and name not in NOT_PASSED_ON
    }
    return {**passed_on, "PYTHONUNBUFFERED": "1"}


def _end_leftovers() -> int:
    """End every descendant that is still there; returns how many there were after the grace time."""
    deadline = time.monotonic() + LEFTOVER_GRACE_S
    left = descendants_of([os.getpid()])
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        reap_orphans(keep=())
        left = descendants_of([os.getpid()])
    for process in left:
        print(f"left behind: pid {process.pid} {command_of(process.pid)[:120]}", flush=True)
    end_all(left, grace_s=LEFTOVER_GRACE_S)
    reap_orphans(keep=())
    return len(left)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
