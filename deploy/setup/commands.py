"""Runs one command of a set-up step: output to a log file, progress to the terminal, end by pid.

Knows nothing about steps. It must not interpret what the command prints beyond showing its last line.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Between two lines of progress when the output is no terminal (a CI log).
QUIET_PROGRESS_S = 20.0
TAIL_LINES = 15


class CommandFailed(Exception):
    """A command ended with another code than 0; carries the last lines it printed."""

    def __init__(self, *, argv: Sequence[str], code: int, tail: list[str], log: Path) -> None:
        super().__init__(f"{Path(argv[0]).name} ended with {code}")
        self.argv = list(argv)
        self.code = code
        self.tail = tail
        self.log = log


def run_logged(
    argv: Sequence[str], *, log: Path, cwd: Path, extra_env: Mapping[str, str] | None = None
) -> None:
    """Run `argv` to its end with output appended to `log`; raises CommandFailed.

    Without a terminal a line of progress appears every 20 s, on a terminal the last line is shown live.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        output.write(f"$ {' '.join(argv)}\n")
        output.flush()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(extra_env or {})},
        )
        watcher = threading.Thread(target=_show_progress, args=(process, log), daemon=True)
        watcher.start()
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        watcher.join()
    if code != 0:
        raise CommandFailed(argv=argv, code=code, tail=last_lines(log, TAIL_LINES), log=log)


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a text file that are not blank."""
    lines = [line.rstrip() for line in path.read_text(errors="replace").splitlines()]
    return [line for line in lines if line][-count:]


def _show_progress(process: "subprocess.Popen[bytes]", log: Path) -> None:
    live = sys.stdout.isatty()
    interval_s = 0.5 if live else QUIET_PROGRESS_S
    started = time.monotonic()
    while True:
        try:
            process.wait(timeout=interval_s)
            break
        except subprocess.TimeoutExpired:
            line = "".join(last_lines(log, 1))[:90]
            elapsed_s = time.monotonic() - started
            if live:
                print(f"\r\033[K        {elapsed_s:4.0f} s  {line}", end="", flush=True)
            else:
                print(f"        {elapsed_s:4.0f} s  {line}", flush=True)
    if live:
        print("\r\033[K", end="", flush=True)
