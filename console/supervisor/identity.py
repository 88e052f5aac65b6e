"""Which process is meant: a pid together with its start time, since the kernel gives pids out again.

Reads /proc only; ends nothing.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class ProcessId(NamedTuple):
    """One process for its whole life. `started_ticks` counts clock ticks since boot (/proc/PID/stat, 22)."""

    pid: int
    started_ticks: int


class _Stat(NamedTuple):
    state: str
    parent: int
    session: int
    started_ticks: int


def identify(pid: int) -> ProcessId | None:
    """The process that has `pid` now, or None when there is none (a zombie counts as none)."""
    stat = _stat_of(pid)
    if stat is None or stat.state in "ZX":
        return None
    return ProcessId(pid, stat.started_ticks)


def is_alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


def boot_id() -> str:
    """Identifies this boot of the machine; start times of another boot mean nothing."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def children_by_parent() -> dict[int, list[ProcessId]]:
    """Every live process of the machine, by the pid of its parent; one pass over /proc."""
    found: dict[int, list[ProcessId]] = {}
    for entry in os.listdir(PROC):
        if not entry.isdigit():
            continue
        stat = _stat_of(int(entry))
        if stat is not None and stat.state not in "ZX":
            found.setdefault(stat.parent, []).append(ProcessId(int(entry), stat.started_ticks))
    return found


def descendants_of(roots: Iterable[int], tree: dict[int, list[ProcessId]] | None = None) -> list[ProcessId]:
    """Live descendants of the processes with these pids, parents before children, the roots not included."""
    tree = children_by_parent() if tree is None else tree
    found: list[ProcessId] = []
    waiting = list(roots)
    while waiting:
        children = tree.get(waiting.pop(0), [])
        found += children
        waiting += [child.pid for child in children]
    return found


def ended_children_of(parent: int) -> list[int]:
    """Pids of children of `parent` that have ended and wait to be collected."""
    stats = ((int(entry), _stat_of(int(entry))) for entry in os.listdir(PROC) if entry.isdigit())
    return [pid for pid, stat in stats if stat and stat.parent == parent and stat.state == "Z"]


def session_of(pid: int) -> int | None:
    """Session id of a process; orphans keep that of the process that led their session."""
    stat = _stat_of(pid)
    return stat.session if stat else None


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty when it may not be read or was overwritten."""
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if b"=" in item)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in pairs}


def command_of(pid: int) -> str:
    """The command line of a process, for messages; empty when it has ended."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def _stat_of(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))
