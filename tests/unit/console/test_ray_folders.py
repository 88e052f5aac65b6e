"""Ray's folder in /tmp goes with the copy it belongs to; one in the data folder stays."""

from pathlib import Path
from typing import Any

import pytest

from console import parts, paths
from serving import head


def session(temp_dir: Path, name: str) -> Path:
    logs = temp_dir / name / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text(name)
    return logs


def test_folders_in_tmp_are_removed_and_the_last_sessions_logs_are_kept(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RAY_IS_EMBEDDED = True
    settings.DATA_DIR = tmp_path / ("long" * 12)
    monkeypatch.setattr(paths, "logs_dir", lambda: tmp_path)
    temp_dir, haproxy_dir = head.temp_dir_for(settings.DATA_DIR), head.haproxy_dir_for(settings.DATA_DIR)
    assert temp_dir.parent == haproxy_dir.parent == Path("/tmp")
    session(temp_dir, "session_2026-01-01_1")
    session(temp_dir, "session_2026-01-02_1")
    parts.clear_ray_folders_outside()
    assert not temp_dir.exists() and not haproxy_dir.exists()
    assert (tmp_path / "ray-last-session" / "raylet.out").read_text() == "session_2026-01-02_1"


def test_folders_of_a_head_that_still_runs_stay(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RAY_IS_EMBEDDED = True
    settings.DATA_DIR = tmp_path / ("long" * 12)
    monkeypatch.setattr(parts, "ray_left_behind", lambda temp_dir: [1])
    temp_dir = head.temp_dir_for(settings.DATA_DIR)
    parts.clear_ray_folders_outside()
    assert temp_dir.exists()
    temp_dir.rmdir()
    head.haproxy_dir_for(settings.DATA_DIR).rmdir()
