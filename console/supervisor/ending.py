"""Ends processes by pid and start time: first asked, then, when their time is up, forced.

Must never be given anything but processes of ours; it selects nothing by itself.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence

from console.supervisor.identity import ProcessId, ended_children_of, is_alive

POLL_S = 0.05


def send(process: ProcessId, number: signal.Signals) -> None:
    """Send one signal, unless the process has ended or its pid belongs to another one by now."""
    if is_alive(process):
        # It may end between the look and the signal: exactly what was wanted.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def end_all(
    processes: Sequence[ProcessId], *, grace_s: float, hurry: Callable[[], bool] = lambda: False
) -> list[ProcessId]:
    """SIGTERM to all at once, `grace_s` to go, then SIGKILL; returns those that had to be killed.

    `hurry` is asked meanwhile: once it answers True the time is up. Returns when all have ended.
    """
    for process in processes:
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    left = _alive(processes)
    while left and time.monotonic() < deadline and not hurry():
        time.sleep(POLL_S)
        left = _alive(left)
    for process in left:
        send(process, signal.SIGKILL)
    still = left
    # SIGKILL cannot be refused; only a process stuck in the kernel takes longer, and it is not waited for.
    deadline = time.monotonic() + 5.0
    while still and time.monotonic() < deadline:
        time.sleep(POLL_S)
        still = _alive(still)
    return left


def reap_orphans(*, keep: Iterable[int]) -> None:
    """Collect ended children of this process except those in `keep`, whose exit code somebody waits for."""
    kept = frozenset(keep)
    for pid in ended_children_of(os.getpid()):
        if pid not in kept:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _alive(processes: Sequence[ProcessId]) -> list[ProcessId]:
    return [process for process in processes if is_alive(process)]
