"""The supervisor over real small processes: it starts, restarts, stops in order and leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from console.paths import PROJECT_ROOT
from console.supervisor.identity import ProcessId, identify, is_alive

DEADLINE_S = 60.0
T = TypeVar("T")
# Notes its pid, then sleeps; on SIGTERM it notes its end, so that the order of ends can be read.
OBEDIENT = (
    "import os, pathlib, signal, sys, time\n"
    "folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
    "def stop(number, frame):\n"
    "    with (folder / 'ends').open('a') as ends: ends.write(name + '\\n')\n"
    "    sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, stop)\n"
    "(folder / (name + '.pid')).write_text(str(os.getpid()))\n"
    "while True: time.sleep(0.1)\n"
)
STUBBORN = (
    "import os, pathlib, signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "(pathlib.Path(sys.argv[1]) / (sys.argv[2] + '.pid')).write_text(str(os.getpid()))\n"
    "while True: time.sleep(0.1)\n"
)
# Starts a grandchild in a session of its own (as daemons do) that ignores everything, then obeys.
WITH_GRANDCHILD = (
    "import pathlib, subprocess, sys\n"
    f"subprocess.Popen([sys.executable, '-c', {STUBBORN!r}, sys.argv[1], 'grandchild'],"
    " start_new_session=True)\n"
) + OBEDIENT


class Copy:
    """A supervisor running in a process of its own over a folder."""

    def __init__(self, folder: Path, parts: list[dict[str, object]], stop_order: list[list[str]]) -> None:
        self.folder = folder
        description = folder / "description.json"
        description.write_text(json.dumps({"folder": str(folder), "stop_order": stop_order, "parts": parts}))
        self.output = folder / "output"
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.console.supervise", str(description)],
                cwd=PROJECT_ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self.output.read_text()

    def pid_of(self, name: str) -> ProcessId:
        """The live process that noted its pid under `name`."""
        note = self.folder / f"{name}.pid"

        def noted() -> ProcessId | None:
            text = note.read_text() if note.exists() else ""
            return identify(int(text)) if text else None

        found = until(noted, self)
        assert found is not None
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=DEADLINE_S)


def until(condition: Callable[[], T], copy: Copy) -> T:
    """The condition's first true value; fails with what the supervisor said."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {DEADLINE_S} s; said:\n{copy.said()}")


def part(folder: Path, name: str, script: str = OBEDIENT, **changes: object) -> dict[str, object]:
    return {"name": name, "argv": [sys.executable, "-c", script, str(folder), name], **changes}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Copy]]:
    copies: list[Copy] = []

    def begin(*parts: dict[str, object], stop_order: list[list[str]] | None = None) -> Copy:
        order = stop_order or [[str(each["name"])] for each in parts]
        copies.append(Copy(tmp_path, list(parts), order))
        return copies[-1]

    yield begin
    for copy in copies:
        if copy.process.poll() is None:
            copy.process.kill()
            copy.process.wait()
    for note in tmp_path.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(note.read_text()), signal.SIGKILL)


def test_a_crashed_part_is_restarted_with_growing_delay_and_said_so(
    start: Callable[..., Copy], tmp_path: Path
) -> None:
    copy = start(part(tmp_path, "collector", "import sys; print('why', flush=True); sys.exit(1)"))
    until(lambda: "collector exited with 1, restart in 1 s (1st time)" in copy.said(), copy)
    until(lambda: "collector exited with 1, restart in 2 s (2nd time)" in copy.said(), copy)
    assert "collector.log" in copy.said()
    assert copy.stop() == 0
    assert (tmp_path / "logs" / "collector.log").read_text().count("why") == 2


def test_a_killed_part_comes_back_as_a_new_process(start: Callable[..., Copy], tmp_path: Path) -> None:
    copy = start(part(tmp_path, "web"))
    first = copy.pid_of("web")
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: copy.pid_of("web") != first, copy)
    assert "web was killed by SIGKILL, restart in 1 s (1st time)" in copy.said()
    second = copy.pid_of("web")
    assert copy.stop() == 0
    assert not is_alive(second)


def test_ctrl_c_stops_the_parts_in_the_given_order(start: Callable[..., Copy], tmp_path: Path) -> None:
    names = ["redis", "web", "worker", "beat"]
    copy = start(
        *(part(tmp_path, name) for name in names), stop_order=[["web"], ["worker", "beat"], ["redis"]]
    )
    processes = [copy.pid_of(name) for name in names]
    assert copy.stop() == 0
    ends = (tmp_path / "ends").read_text().split()
    assert ends[0] == "web"
    assert set(ends[1:3]) == {"worker", "beat"}
    assert ends[3] == "redis"
    assert not any(is_alive(process) for process in processes)


def test_a_part_waits_for_those_it_names(start: Callable[..., Copy], tmp_path: Path) -> None:
    copy = start(part(tmp_path, "web", waits_for=["redis"]), part(tmp_path, "redis"))
    until(lambda: "web ready" in copy.said(), copy)
    assert copy.said().index("redis ready") < copy.said().index("web ready")
    copy.stop()


def test_a_second_ctrl_c_forces_a_part_that_will_not_end(start: Callable[..., Copy], tmp_path: Path) -> None:
    copy = start(part(tmp_path, "ray", STUBBORN, grace_s=600))
    stubborn = copy.pid_of("ray")
    copy.process.send_signal(signal.SIGINT)
    until(lambda: "stopping everything in order" in copy.said(), copy)
    assert is_alive(stubborn)
    assert copy.stop() == 0
    assert not is_alive(stubborn)
    assert "stopped by force" in copy.said()


def test_what_a_crashed_part_leaves_behind_is_ended_before_its_restart(
    start: Callable[..., Copy], tmp_path: Path
) -> None:
    copy = start(part(tmp_path, "ray", WITH_GRANDCHILD))
    head, grandchild = copy.pid_of("ray"), copy.pid_of("grandchild")
    os.kill(head.pid, signal.SIGKILL)
    until(lambda: not is_alive(grandchild), copy)
    until(lambda: copy.pid_of("ray") != head, copy)
    assert "ray left 1 processes behind; ended them" in copy.said()
    copy.stop()
    assert not is_alive(copy_pid(tmp_path, "grandchild"))


def test_stopping_ends_descendants_that_ignore_sigterm(start: Callable[..., Copy], tmp_path: Path) -> None:
    copy = start(part(tmp_path, "ray", WITH_GRANDCHILD))
    copy.pid_of("ray")
    grandchild = copy.pid_of("grandchild")
    copy.process.send_signal(signal.SIGTERM)
    assert copy.process.wait(timeout=DEADLINE_S) == 0
    assert not is_alive(grandchild)


def test_the_next_start_ends_what_a_killed_one_left(start: Callable[..., Copy], tmp_path: Path) -> None:
    first = start(part(tmp_path, "redis", STUBBORN))
    left = first.pid_of("redis")
    until(lambda: str(left.pid) in (tmp_path / "children.json").read_text(), first)
    first.process.kill()
    first.process.wait()
    assert is_alive(left)
    (tmp_path / "redis.pid").unlink()
    second = start(part(tmp_path, "redis"))
    fresh = second.pid_of("redis")
    assert fresh != left
    assert not is_alive(left)
    assert "left 1 processes; ending them" in second.said()
    assert second.stop() == 0
    assert not (tmp_path / "children.json").exists()


def test_a_killed_supervisor_takes_obedient_children_along(
    start: Callable[..., Copy], tmp_path: Path
) -> None:
    copy = start(part(tmp_path, "web"))
    web = copy.pid_of("web")
    copy.process.kill()
    copy.process.wait()
    until(lambda: not is_alive(web), copy)


def test_a_recorded_pid_that_now_belongs_to_another_process_is_spared(
    start: Callable[..., Copy], tmp_path: Path
) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        from console.supervisor.identity import boot_id

        wrong_start = [[bystander.pid, 1]]
        (tmp_path / "children.json").write_text(json.dumps({"boot_id": boot_id(), "processes": wrong_start}))
        copy = start(part(tmp_path, "web"))
        copy.pid_of("web")
        assert bystander.poll() is None
        copy.stop()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_second_supervisor_on_the_same_folder_is_refused(
    start: Callable[..., Copy], tmp_path: Path
) -> None:
    first = start(part(tmp_path, "web"))
    web = first.pid_of("web")
    second = start(part(tmp_path, "web"))
    assert second.process.wait(timeout=DEADLINE_S) == 1
    assert f"pid {first.process.pid}" in second.said()
    assert is_alive(web)
    first.stop()


def test_a_program_that_does_not_exist_is_said_and_tried_again(
    start: Callable[..., Copy], tmp_path: Path
) -> None:
    missing = {"name": "redis", "argv": [str(tmp_path / "no-such-program")]}
    copy = start(missing)
    until(lambda: "redis cannot be started" in copy.said() and "(2nd time)" in copy.said(), copy)
    assert copy.stop() == 0


def copy_pid(folder: Path, name: str) -> ProcessId:
    """What `name` last noted, without waiting; a start time of -1 when it has ended."""
    pid = int((folder / f"{name}.pid").read_text())
    return identify(pid) or ProcessId(pid, -1)
