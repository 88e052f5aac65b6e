"""The set-up's steps in order, and the loop that runs them with visible progress.

A step that fails names itself, shows why and what to do; the next run continues with that step.
"""

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.setup import packages, stamps, system
from deploy.setup.advice import advice_for
from deploy.setup.commands import CommandFailed
from deploy.setup.packages import PROJECT_ROOT, VENV


@dataclass(frozen=True)
class Step:
    """One step: what it is called, what decides whether it must run again, and how it is done.

    `act` gets the path of the step's log. `texts` and `files` are what its stamp depends on.
    """

    name: str
    title: str
    texts: tuple[str, ...]
    files: tuple[Path, ...]
    act: Callable[[Path], None]
    still_there: Callable[[], bool] = lambda: True


# Stamps lie in the environment they speak of and vanish with it; the lock and the logs outlive it.
STAMPS = VENV / ".setup"
STATE = PROJECT_ROOT / ".venv-setup"


def main(arguments: list[str]) -> int:
    """Run the steps for `run` or `test`; the exit code is 0 when all are done."""
    parser = argparse.ArgumentParser(prog="python3 -m deploy.setup", description=__doc__)
    parser.add_argument("goal", choices=["run", "test"], help="what will be done with this clone")
    goal = parser.parse_args(arguments).goal
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        _wait_for(lock.fileno())
        return _run_steps(steps_for(goal))


def steps_for(goal: str) -> list[Step]:
    """The steps that `run` or `test` needs, in order."""
    engine = "gpu" if packages.has_nvidia_gpu() else "cpu"
    python = sys.version.split()[0]
    lock = packages.lock_file()
    torch_index = os.environ.get("RAYDECK_TORCH_INDEX_URL", "")
    steps = [
        Step("venv", "virtual environment .venv", (python,), (), packages.make_venv, packages.venv_works),
        Step(
            "console",
            "packages of console, workers and Ray",
            (python,),
            (PROJECT_ROOT / "requirements.txt", lock),
            packages.install_console,
        ),
        Step(
            f"engine-{engine}",
            f"vLLM engine for this machine ({'NVIDIA GPU' if engine == 'gpu' else 'CPU'})",
            (python, torch_index),
            (*packages.engine_files(engine), lock),
            packages.engine_installer(engine),
        ),
    ]
    if goal == "run":
        return steps
    return [
        *steps,
        Step(
            "tests",
            "packages of the tests",
            (python,),
            (PROJECT_ROOT / "requirements" / "test.txt", lock),
            packages.install_tests,
        ),
        Step(
            "system",
            "Chromium, PostgreSQL and Redis of the system, for the tests",
            (),
            (),
            system.install_missing,
            system.nothing_missing,
        ),
    ]


def _run_steps(steps: list[Step]) -> int:
    for number, step in enumerate(steps, start=1):
        label = f"[setup {number}/{len(steps)}] {step.title}"
        digest = stamps.digest_of(texts=step.texts, files=step.files)
        if stamps.is_done(folder=STAMPS, step=step.name, digest=digest) and step.still_there():
            print(f"{label}: done before", flush=True)
            continue
        print(f"{label} ...", flush=True)
        started = time.monotonic()
        log = STATE / f"{step.name}.log"
        log.unlink(missing_ok=True)
        try:
            step.act(log)
        except CommandFailed as failure:
            return _explain(label, failure)
        except system.PackagesMissing as missing:
            print(f"{label}: FAILED\n  {missing}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"\n{label}: interrupted; run the same command again to continue here.", file=sys.stderr)
            return 130
        stamps.mark_done(folder=STAMPS, step=step.name, digest=digest)
        print(f"{label}: done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def _explain(label: str, failure: CommandFailed) -> int:
    lines = "\n".join(f"  | {line}" for line in failure.tail)
    print(
        f"{label}: FAILED ({failure})\n{lines}\n"
        f"  Whole log: {failure.log}\n  What to do: {advice_for(failure.tail)}",
        file=sys.stderr,
        flush=True,
    )
    return 1


def _wait_for(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("[setup] another set-up is at work in this folder; waiting for it", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
