"""The words for a start that failed, where the engine's own leave something out."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.models import Deployment, RegisteredModel
from tests.unit.serving.checkpoint_folders import write_checkpoint
from tests.unit.workers.fleet import make_deployment
from workers import failures

SAID = "raydeck-cause: SafetensorError: Error while deserializing header: incomplete metadata"


def failure(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(failures, "_engine_output", lambda ray, app: SAID)
    return failures.failure_of(None, deployment, None, code="start_failed")  # type: ignore[arg-type]


@pytest.mark.django_db
def test_damaged_weights_are_named_by_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "m")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    deployment = make_deployment()
    RegisteredModel.objects.update(source=str(folder))
    deployment.model.refresh_from_db()
    found = failure(deployment, monkeypatch)
    assert found["code"] == "corrupt_weights" and weights.name in found["cause"]


@pytest.mark.django_db
def test_where_the_folder_is_not_here_the_engines_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    found = failure(make_deployment(), monkeypatch)
    assert found["code"] == "corrupt_weights" and "incomplete metadata" in found["cause"]
