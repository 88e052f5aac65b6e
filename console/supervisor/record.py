"""The lock of one data folder, and the record of what runs for it.

The record lets the next start find and end what a killed supervisor left behind. Its entries carry start
times, so a pid that was given out again is never mistaken for one of ours.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from console import ports
from console.supervisor.identity import ProcessId, boot_id, descendants_of, is_alive


class AlreadyRunning(Exception):
    """Another supervisor works on this data folder; the message names its pid."""


class DataFolderLock:
    """Held by the one supervisor of a data folder; freed by the kernel however that one ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "up.lock"
        self._handle: TextIO | None = None

    def take(self) -> None:
        """Raises AlreadyRunning when another process holds it."""
        handle = self._path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            handle.close()
            raise AlreadyRunning(
                f"Raydeck already runs on {self._path.parent.parent} (pid {holder}). "
                "Stop it first, or give this copy its own RAYDECK_DATA_DIR and RAYDECK_PORT_OFFSET."
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        self._handle = handle

    def release(self) -> None:
        """Let go; harmless when it was not held."""
        if self._handle is not None:
            self._handle.truncate(0)
            self._handle.close()
            self._handle = None


class ChildrenRecord:
    """The file that lists every process of this copy, written when the list changes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "children.json"
        self._written: str | None = None

    def write(self, processes: Iterable[ProcessId], *, parts: Mapping[str, int] | None = None) -> None:
        """Replace the list, atomically; nothing is written when it is the same as before.

        `parts` (name -> pid of its own process) is for people and tests that look into the file; the ports
        are for whoever asks this copy from a shell with another environment.
        """
        content = {
            "boot_id": boot_id(),
            "parts": dict(parts or {}),
            "ports": {name: ports.port(name) for name in ports.PORTS},
            "processes": sorted(processes),
        }
        text = json.dumps(content)
        if text == self._written:
            return
        aside = self._path.with_suffix(".new")
        aside.write_text(text)
        aside.replace(self._path)
        self._written = text

    def clear(self) -> None:
        """Nothing runs any more."""
        self._path.unlink(missing_ok=True)
        self._written = None

    def stale(self) -> list[ProcessId]:
        """Recorded processes that still live, with all their descendants; for the holder of the lock."""
        alive = [process for process in self._read() if is_alive(process)]
        below = descendants_of(process.pid for process in alive)
        return list(dict.fromkeys([*alive, *below]))

    def running_ports(self) -> dict[str, int]:
        """The ports (console/ports.py) of the copy that runs on this data folder; empty when none does."""
        if not any(is_alive(process) for process in self._read()):
            return {}
        try:
            given = json.loads(self._path.read_text())["ports"]
            return {name: int(given[name]) for name in ports.PORTS if name in given}
        except (OSError, ValueError, KeyError, TypeError):
            # Ended a moment ago, or started by a version that noted no ports.
            return {}

    def _read(self) -> list[ProcessId]:
        try:
            content = json.loads(self._path.read_text())
            if content["boot_id"] != boot_id():
                return []
            return [ProcessId(int(pid), int(ticks)) for pid, ticks in content["processes"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            # Half a file cannot come from an atomic replace; whatever it is, it names no process of ours.
            return []
