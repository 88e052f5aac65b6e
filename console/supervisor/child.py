"""One part at run time: its process, whether it is ready, and when it may be started again.

Does one thing at a time when told to; the loop that tells it is in supervisor.py.
"""

import os
import subprocess
from pathlib import Path

from console.supervisor import kernel
from console.supervisor.identity import ProcessId, identify
from console.supervisor.logfiles import open_log
from console.supervisor.part import Part, backoff_s

# A part that ran this long was well: its next crash is counted as a first one.
WELL_AFTER_S = 60.0


class Child:
    """A part with its process. Times are `time.monotonic()` seconds, given by the caller as `now`."""

    def __init__(self, part: Part, *, logs: Path, now: float) -> None:
        self.part = part
        self.log_path = logs / f"{part.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.identity: ProcessId | None = None
        self.is_ready = False
        self.failures = 0
        self.started_at = 0.0
        self.waiting_since = now
        self.retry_at = now

    @property
    def pid(self) -> int | None:
        """Pid of the running process, or None."""
        return self.process.pid if self.process else None

    def start(self, *, now: float) -> None:
        """Start the process in a session of its own, its output appended to its log.

        Raises OSError when the program cannot be executed.
        """
        supervisor_pid = os.getpid()
        with open_log(self.log_path.parent, self.part.name) as log:
            self.process = subprocess.Popen(
                list(self.part.argv),
                cwd=self.part.cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C on the terminal reaches the supervisor only, which then stops all in order.
                start_new_session=True,
                preexec_fn=lambda: kernel.die_with_parent(supervisor_pid),
            )
        self.identity = identify(self.process.pid)
        self.is_ready = False
        self.started_at = now

    def _environment(self) -> dict[str, str]:
        passed_on = {
            name: value for name, value in os.environ.items() if name not in self.part.withheld_variables
        }
        # The mark tells later whose orphan a process is.
        return {**passed_on, **self.part.environment, "RAYDECK_PART": self.part.name}

    def ended_with(self) -> int | None:
        """The return code once the process has ended, else None; afterwards there is no process."""
        if self.process is None:
            return None
        code = self.process.poll()
        if code is None:
            return None
        self.process = None
        self.identity = None
        self.is_ready = False
        return code

    def count_failure(self, *, now: float) -> float:
        """Note a crash; returns the seconds until the restart."""
        if now - self.started_at >= WELL_AFTER_S:
            self.failures = 0
        self.failures += 1
        delay_s = backoff_s(self.failures)
        self.retry_at = now + delay_s
        return delay_s
