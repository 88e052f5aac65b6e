"""Brings one copy under supervision: the lock, what an earlier copy left behind, then the loop."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from console.supervisor.ending import end_all
from console.supervisor.identity import ProcessId, identify
from console.supervisor.record import ChildrenRecord, DataFolderLock
from console.supervisor.supervisor import Supervisor
from console.supervisor.voice import Voice

# What outlived its parent has had SIGTERM from the kernel, or soon notices; it may still take this long.
ORPHAN_GRACE_S = 15.0


@contextlib.contextmanager
def supervised_copy(
    *,
    run_folder: Path,
    logs: Path,
    voice: Voice,
    stop_order: Sequence[Sequence[str]],
    on_ready: Callable[[str, float], None] = lambda name, seconds: None,
    find_left_behind: Callable[[], Sequence[int]] = lambda: (),
    before_start: Callable[[], None] = lambda: None,
    after_stop: Callable[[], None] = lambda: None,
    orphan_grace_s: float = ORPHAN_GRACE_S,
) -> Iterator[Supervisor]:
    """The supervisor of one data folder, for the time of the block; on leaving all parts have ended.

    `find_left_behind` gives pids that an earlier copy of this same folder left, beyond those it recorded.
    `before_start` runs with the lock held and the folder clean, before signals are caught; `after_stop` with
    the lock held once all parts have ended.
    Raises AlreadyRunning when another supervisor holds the folder.
    """
    lock = DataFolderLock(run_folder)
    lock.take()
    try:
        record = ChildrenRecord(run_folder)
        _end_stale([*record.stale(), *_identified(find_left_behind())], voice=voice, grace_s=orphan_grace_s)
        record.clear()
        before_start()
        supervisor = Supervisor(
            stop_order=stop_order,
            logs=logs,
            record=record,
            voice=voice,
            on_ready=on_ready,
            orphan_grace_s=orphan_grace_s,
        )
        try:
            with supervisor.listening():
                yield supervisor
        finally:
            after_stop()
    finally:
        lock.release()


def _identified(pids: Sequence[int]) -> list[ProcessId]:
    return [process for process in map(identify, pids) if process is not None]


def _end_stale(processes: Sequence[ProcessId], *, voice: Voice, grace_s: float) -> None:
    stale = list(dict.fromkeys(processes))
    if not stale:
        return
    voice.say(f"an earlier copy was killed and left {len(stale)} processes; ending them", tone="warn")
    forced = end_all(stale, grace_s=grace_s)
    voice.say(f"ended them{f', {len(forced)} by force' if forced else ''}")
