"""Runs the exact builder (serving/cluster/exact_plan.py) for queued ExactPlan rows, one at a time.

The builder is a process of its own, because it imports vllm (650 MB, 6 s of one core) and patches it; this
process never does. It runs at low priority with bounded memory, CPU and wall time, in an empty environment.

Why no queue of its own: the worker has four threads (console/parts.py). The lease lets one of them wait here
at most, whatever is asked, which leaves three to the reconciler and the retention; they take turns of one
each. A second worker process would cost 150 MB for work that is mostly waiting. Celery's own time limits do
not exist in its thread pool, so the limits are kept here: the builder is ended after WALL_LIMIT_S.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import close_old_connections

from console.exact_plans import TASK, forget_old_plans
from console.models import ExactPlan
from console.paths import PROJECT_ROOT
from console.wakeup import send_task
from workers import lease

log = logging.getLogger(__name__)

LEASE = "exact-plans"
WALL_LIMIT_S = 180.0
CPU_LIMIT_S = 110
MEMORY_LIMIT_BYTES = 8 << 30
LEASE_TTL_S = WALL_LIMIT_S + 30.0
TURN_S = 100.0
"""No new build starts after this in one task, so that it ends before the broker's visibility timeout (300 s).
A busy machine stretches a build of 10 s of processor time to more than a minute, hence the wall limit."""
ANSWER_LIMIT_BYTES = 4_000_000
ERROR_LIMIT_CHARACTERS = 500
BUILDER = (sys.executable, "-m", "serving.cluster.exact_plan")
PASSED_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR", "PYTHONPATH")


class BuilderFailed(Exception):
    """The builder gave no answer; the message is one plain sentence."""


@dataclass(frozen=True)
class Limits:
    """What one build may take."""

    wall_s: float = WALL_LIMIT_S
    cpu_s: int = CPU_LIMIT_S
    memory_bytes: int = MEMORY_LIMIT_BYTES


def run_exact_plans(*, clock: Callable[[], float] = time.time) -> int:
    """The task: build what is queued, newest question first; how many were built.

    Returns at once while another thread or process builds: that one looks again before it is done.
    """
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    deadline = clock() + TURN_S
    built = 0
    try:
        # Somebody may queue a row between the last look and the release, and be sent away by the lease.
        while _is_anything_queued() and clock() < deadline:
            token = lease.acquire(LEASE, holder=holder, ttl_s=LEASE_TTL_S, now=clock())
            if token is None:
                return built
            try:
                while clock() < deadline and (row := _take_next(clock())) is not None:
                    lease.renew(LEASE, token=token, ttl_s=LEASE_TTL_S, now=clock())
                    _build(row, clock=clock)
                    built += 1
            finally:
                lease.release(LEASE, token=token)
        forget_old_plans()
        if _is_anything_queued():
            send_task(TASK)
    finally:
        close_old_connections()
    return built


def ask_builder(request: dict[str, Any], *, limits: Limits | None = None) -> dict[str, Any]:
    """The builder's answer to one request. Raises BuilderFailed; ends the process whatever happens."""
    limits = limits or Limits()
    command = [*BUILDER, "--memory-limit-bytes", str(limits.memory_bytes), "--cpu-limit-s", str(limits.cpu_s)]
    command += ["--wall-limit-s", str(int(limits.wall_s) + 5), "--nice", "10"]
    with tempfile.TemporaryDirectory(prefix="exact-plan-") as home, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env=_environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            # A group of its own: whatever it starts is ended with it.
            start_new_session=True,
        )
        try:
            answer, _ = process.communicate(json.dumps(request).encode(), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            raise BuilderFailed(f"The build took more than {limits.wall_s:.0f} s and was stopped.") from None
        finally:
            _end(process)
        complaints.seek(max(0, complaints.tell() - 20_000))
        return _answer(process.returncode, answer, complaints.read().decode(errors="replace"), limits=limits)


def _take_next(now: float) -> ExactPlan | None:
    """The newest queued row, now marked running; None when nothing waits."""
    queued = ExactPlan.objects.filter(status=ExactPlan.Status.QUEUED)
    for row in queued.order_by("-requested_at")[:3]:
        taken = queued.filter(digest=row.digest).update(
            status=ExactPlan.Status.RUNNING, started_at=now, finished_at=None
        )
        if taken:
            row.refresh_from_db()
            return row
    return None


def _is_anything_queued() -> bool:
    return ExactPlan.objects.filter(status=ExactPlan.Status.QUEUED).exists()


def _build(row: ExactPlan, *, clock: Callable[[], float]) -> None:
    """Ask the builder and write its answer, unless the row was asked anew in the meantime."""
    changes: dict[str, Any]
    try:
        answer = ask_builder(row.request)
        unavailable = answer.get("unavailable")
        changes = {
            "status": ExactPlan.Status.FAILED if unavailable else ExactPlan.Status.DONE,
            "result": None if unavailable else answer,
            "error": _plain(str(unavailable)) if unavailable else "",
            "engine_version": str(answer.get("engine_version") or row.engine_version)[:40],
        }
    except BuilderFailed as error:
        changes = {"status": ExactPlan.Status.FAILED, "result": None, "error": _plain(str(error))}
    except Exception as error:
        log.exception("exact plan not built digest=%s", row.digest[:12])
        changes = {"status": ExactPlan.Status.FAILED, "error": f"The build could not be started ({error})."}
    mine = ExactPlan.objects.filter(
        digest=row.digest, status=ExactPlan.Status.RUNNING, started_at=row.started_at
    )
    mine.update(finished_at=clock(), **changes)


def _answer(code: int, answer: bytes, complaints: str, *, limits: Limits) -> dict[str, Any]:
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        raise BuilderFailed(
            f"The build took more than {limits.cpu_s} s of processor time, or was ended from outside."
        )
    if len(answer) > ANSWER_LIMIT_BYTES:
        raise BuilderFailed("The builder's answer is too long to keep.")
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if code == 2 and isinstance(found, dict) and "error" in found:
        raise BuilderFailed(f"{found['error']} (field {found.get('field')}).")
    if code != 0 or not isinstance(found, dict):
        raise BuilderFailed(f"The builder stopped with exit code {code}: {_first_cause(complaints)}")
    return found


def _first_cause(complaints: str) -> str:
    """The line that names the exception of the first traceback, or the last line said."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"^[A-Za-z_.]*(Error|Exception|Interrupt)\b", line)]
    return (causes or lines[-1:] or ["it said nothing"])[0]


def _plain(message: str) -> str:
    """One line without places on this machine."""
    line = " ".join(message.split())
    line = re.sub(r"(/[\w.+-]+){2,}/", "…/", line)
    return line[:ERROR_LIMIT_CHARACTERS]


def _environment(home: str) -> dict[str, str]:
    """No secret of the console's, and a home without anybody's models or settings."""
    kept = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return {**kept, "HOME": home, "XDG_CACHE_HOME": home, "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the builder and what it started; only its own group, and only while its number is still its own."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("builder ended by itself pid=%d", process.pid)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
