"""The loop that starts the parts, watches them, restarts what crashes and stops all of it in order.

One thread. It wakes on signals (a child ended, Ctrl-C) and otherwise a few times a second. It must never
end a process that is not one of its children or a descendant of one.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from console.supervisor import kernel
from console.supervisor.child import Child
from console.supervisor.ending import end_all, reap_orphans
from console.supervisor.identity import (
    ProcessId,
    children_by_parent,
    descendants_of,
    environment_of,
    identify,
)
from console.supervisor.logfiles import rotate_if_large
from console.supervisor.part import Part, describe_exit, ordinal
from console.supervisor.record import ChildrenRecord
from console.supervisor.voice import Voice

TICK_S = 0.25
SURVEY_EVERY_S = 1.0


class Supervisor:
    """Runs parts until it is told to stop.

    `stop_order` lists groups of part names: groups end one after another, members of a group together.
    `on_ready(name, seconds)` is called each time a part becomes ready.
    """

    def __init__(
        self,
        *,
        stop_order: Sequence[Sequence[str]],
        logs: Path,
        record: ChildrenRecord,
        voice: Voice,
        on_ready: Callable[[str, float], None] = lambda name, seconds: None,
        orphan_grace_s: float = 5.0,
    ) -> None:
        self._stop_order = stop_order
        self._logs = logs
        self._record = record
        self._voice = voice
        self._on_ready = on_ready
        self._orphan_grace_s = orphan_grace_s
        self._children: dict[str, Child] = {}
        self._owners: dict[ProcessId, str] = {}
        self._stop_requests = 0
        self._surveyed_at = 0.0

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C, SIGTERM or SIGHUP has come."""
        return self._stop_requests > 0

    def add(self, part: Part) -> None:
        """Take a part in; it is started by the loop as soon as what it waits for is ready."""
        self._children[part.name] = Child(part, logs=self._logs, now=time.monotonic())

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch signals and adopt orphans for the time of the block; on leaving everything is stopped."""
        kernel.adopt_orphans()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeups = reader
        previous = {number: signal.signal(number, self._note_stop) for number in _stop_signals()}
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            try:
                self.stop_all()
            finally:
                signal.set_wakeup_fd(old_descriptor)
                for number, handler in previous.items():
                    signal.signal(number, handler)
                os.close(reader)
                os.close(writer)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Watch over the parts until `done()` or a request to stop."""
        while not done() and not self.stop_requested:
            self._step(time.monotonic())
            self._wait(TICK_S)

    def is_ready(self, name: str) -> bool:
        """Whether the part runs and has answered its probe since its last start."""
        return self._children[name].is_ready

    def failures(self, name: str) -> int:
        """How often in a row the part has crashed."""
        return self._children[name].failures

    def stop_all(self) -> None:
        """End every part in order, then whatever of theirs is left."""
        self._survey(time.monotonic())
        for group in self._stop_order:
            self._stop_group([self._children[name] for name in group if name in self._children])
        left = descendants_of([os.getpid()])
        if left:
            self._voice.say(f"ending {len(left)} processes that were left behind", tone="warn")
            end_all(left, grace_s=self._orphan_grace_s, hurry=self._in_a_hurry)
        reap_orphans(keep=())
        self._record.clear()

    def _step(self, now: float) -> None:
        for child in self._children.values():
            code = child.ended_with()
            if code is not None:
                self._handle_crash(child, code, now=now)
        for child in self._children.values():
            if child.process is None and now >= child.retry_at and self._may_start(child, now=now):
                self._start(child, now=now)
            elif child.process is not None and not child.is_ready and child.part.ready():
                child.is_ready = True
                self._on_ready(child.part.name, time.monotonic() - child.started_at)
        if now - self._surveyed_at >= SURVEY_EVERY_S:
            self._survey(now)

    def _may_start(self, child: Child, *, now: float) -> bool:
        # Only the first start waits: a restarted part takes the others as they are.
        if child.failures or now - child.waiting_since >= child.part.patience_s:
            return True
        return all(self._children[name].is_ready for name in child.part.waits_for if name in self._children)

    def _start(self, child: Child, *, now: float) -> None:
        try:
            child.start(now=now)
        except OSError as error:
            child.started_at = now
            delay_s = child.count_failure(now=now)
            self._voice.say(
                f"{child.part.name} cannot be started ({error}), next try in {delay_s:g} s "
                f"({ordinal(child.failures)} time)",
                tone="bad",
            )
            return
        self._survey(now)

    def _handle_crash(self, child: Child, code: int, *, now: float) -> None:
        delay_s = child.count_failure(now=now)
        self._voice.say(
            f"{child.part.name} {describe_exit(code)}, restart in {delay_s:g} s "
            f"({ordinal(child.failures)} time), see {child.log_path}",
            tone="bad",
        )
        left = self._left_behind_by(child.part)
        if left:
            forced = end_all(left, grace_s=self._orphan_grace_s, hurry=self._in_a_hurry)
            self._voice.say(
                f"{child.part.name} left {len(left)} processes behind; ended them"
                + (f", {len(forced)} by force" if forced else "")
            )

    def _stop_group(self, children: list[Child]) -> None:
        running = [child for child in children if child.identity is not None and child.process is not None]
        if not running:
            return
        names = ", ".join(child.part.name for child in running)
        started = time.monotonic()
        below = descendants_of(child.process.pid for child in running if child.process)
        forced = end_all(
            [child.identity for child in running if child.identity],
            grace_s=max(child.part.grace_s for child in running),
            hurry=self._in_a_hurry,
        )
        left = below + [process for child in running for process in self._left_behind_by(child.part)]
        end_all(left, grace_s=self._orphan_grace_s, hurry=self._in_a_hurry)
        for child in running:
            child.ended_with()
        how = "stopped by force" if forced else "stopped"
        self._voice.say(f"{names} {how} after {time.monotonic() - started:.1f} s")

    def _left_behind_by(self, part: Part) -> list[ProcessId]:
        """What outlived a part's own process: adopted orphans of it, what it finds itself, and their kin."""
        known = [process for process, owner in self._owners.items() if owner == part.name]
        orphans = [process for process in self._orphans() if self._owner_of_orphan(process) == part.name]
        found = [identify(pid) for pid in part.find_left_behind()]
        roots = [process for process in (*known, *orphans, *found) if process is not None]
        alive = [process for process in roots if identify(process.pid) == process]
        supervised = {child.pid for child in self._children.values()}
        every = dict.fromkeys([*alive, *descendants_of(process.pid for process in alive)])
        return [process for process in every if process.pid not in supervised and process.pid != os.getpid()]

    def _orphans(self) -> list[ProcessId]:
        supervised = {child.pid for child in self._children.values()}
        return [child for child in children_by_parent().get(os.getpid(), []) if child.pid not in supervised]

    def _owner_of_orphan(self, process: ProcessId) -> str | None:
        owner = self._owners.get(process)
        return owner or environment_of(process.pid).get("RAYDECK_PART")

    def _survey(self, now: float) -> None:
        """Note which process belongs to which part while its ancestry still tells, and keep the record."""
        self._surveyed_at = now
        tree = children_by_parent()
        supervised: dict[str, int] = {}
        owners: dict[ProcessId, str] = {}
        for child in self._children.values():
            if child.pid is not None:
                supervised[child.part.name] = child.pid
                for process in descendants_of([child.pid], tree):
                    owners[process] = child.part.name
        every = descendants_of([os.getpid()], tree)
        # Orphans have lost their ancestry; what was known of them before still holds.
        for process in every:
            if process not in owners and process in self._owners:
                owners[process] = self._owners[process]
        self._owners = owners
        self._record.write(every, parts=supervised)
        reap_orphans(keep=supervised.values())
        for child in self._children.values():
            rotate_if_large(child.log_path)

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop_requests += 1
        if self._stop_requests == 1:
            self._voice.say("stopping everything in order (Ctrl-C again to force)")
        elif self._stop_requests == 2:
            self._voice.say("forced: ending everything now", tone="warn")

    def _in_a_hurry(self) -> bool:
        return self._stop_requests > 1

    def _wait(self, seconds: float) -> None:
        readable, _, _ = select.select([self._wakeups], [], [], seconds)
        if readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeups, 512)


def _stop_signals() -> list[signal.Signals]:
    stops = [signal.SIGINT, signal.SIGTERM]
    # Under nohup a closed terminal is to be ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stops.append(signal.SIGHUP)
    return stops
