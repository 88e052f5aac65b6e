"""The set-up skips what is done, says what failed and what to do, and continues on the next run."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.setup import commands, plan, stamps
from deploy.setup.advice import OTHERWISE, advice_for


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "STATE", tmp_path / "state")
    monkeypatch.setattr(plan, "STAMPS", tmp_path / "stamps")


def make_step(act: Callable[[Path], None], **changes: object) -> plan.Step:
    values = {"name": "step", "title": "a step", "texts": ("1",), "files": (), "act": act, **changes}
    return plan.Step(**values)  # type: ignore[arg-type]


def test_a_second_run_skips_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    runs: list[Path] = []
    step = make_step(runs.append)
    assert plan._run_steps([step]) == 0
    assert plan._run_steps([step]) == 0
    assert len(runs) == 1
    assert "[setup 1/1] a step: done before" in capsys.readouterr().out


def test_a_changed_input_runs_the_step_again(tmp_path: Path) -> None:
    runs: list[Path] = []
    pinned = tmp_path / "pinned.txt"
    pinned.write_text("ray==2.60.0\n")
    plan._run_steps([make_step(runs.append, files=(pinned,))])
    pinned.write_text("ray==2.61.0\n")
    plan._run_steps([make_step(runs.append, files=(pinned,))])
    assert len(runs) == 2


def test_what_has_vanished_is_done_again() -> None:
    runs: list[Path] = []
    plan._run_steps([make_step(runs.append)])
    plan._run_steps([make_step(runs.append, still_there=lambda: False)])
    assert len(runs) == 2


def test_a_failed_step_says_which_why_and_what_to_do_and_the_next_run_continues_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []
    repaired = tmp_path / "repaired"
    script = (
        "import pathlib, sys\n"
        f"if not pathlib.Path({str(repaired)!r}).exists():\n"
        "    sys.exit('OSError: [Errno 28] No space left on device')\n"
    )

    def fails_until_repaired(log: Path) -> None:
        commands.run_logged([sys.executable, "-c", script], log=log, cwd=tmp_path)
        done.append("second")

    steps = [
        make_step(lambda log: done.append("first"), name="first", title="first step"),
        make_step(fails_until_repaired, name="second", title="second step"),
        make_step(lambda log: done.append("third"), name="third", title="third step"),
    ]
    assert plan._run_steps(steps) == 1
    said = capsys.readouterr().err
    assert "[setup 2/3] second step: FAILED" in said
    assert "No space left on device" in said
    assert "5 GB free" in said
    assert done == ["first"]
    repaired.touch()
    assert plan._run_steps(steps) == 0
    assert done == ["first", "second", "third"]


def test_a_command_is_shown_working_when_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "QUIET_PROGRESS_S", 0.05)
    script = "import time; print('Collecting vllm', flush=True); time.sleep(0.5)"
    commands.run_logged([sys.executable, "-c", script], log=tmp_path / "log", cwd=tmp_path)
    assert "Collecting vllm" in capsys.readouterr().out


def test_a_stamp_counts_only_for_its_own_digest(tmp_path: Path) -> None:
    stamps.mark_done(folder=tmp_path, step="a", digest="x")
    assert stamps.is_done(folder=tmp_path, step="a", digest="x")
    assert not stamps.is_done(folder=tmp_path, step="a", digest="y")
    assert not stamps.is_done(folder=tmp_path, step="b", digest="x")


def test_unknown_failures_still_get_advice() -> None:
    assert advice_for(["something new"]) == OTHERWISE
    assert "RAYDECK_TORCH_INDEX_URL" in advice_for(
        ["ERROR: No matching distribution found for torch==2.13.0"]
    )


def test_running_needs_no_system_packages_and_testing_does() -> None:
    assert [step.name for step in plan.steps_for("run")][:2] == ["venv", "console"]
    assert "system" not in [step.name for step in plan.steps_for("run")]
    assert "system" in [step.name for step in plan.steps_for("test")]
