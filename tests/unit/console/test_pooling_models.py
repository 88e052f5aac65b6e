"""A model for embeddings or scores: registered without complaint about chat, and deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console import actions, states
from console.desired import desired_document
from console.models import ClusterStatus
from tests.unit.api.conftest import NODE
from tests.unit.serving.checkpoint_folders import write_checkpoint

BERT: dict[str, Any] = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 264,
    "max_position_embeddings": 512,
}

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("architecture", "task"), [("BertModel", "embed"), ("BertForSequenceClassification", "score")]
)
def test_is_deployed_with_its_task(tmp_path: Path, architecture: str, task: str) -> None:
    ClusterStatus.objects.create(pk=1, reachable=True, nodes=[NODE])
    folder = write_checkpoint(tmp_path / "m", config={**BERT, "architectures": [architecture]})
    (folder / "tokenizer_config.json").unlink()
    model = actions.register_model(
        actor=actions.SYSTEM, name="words", source_kind="folder", source=str(folder)
    )
    assert [problem["level"] for problem in model.problems] == ["warn"]
    assert "no text" in model.problems[0]["message"]
    deployment = actions.create_deployment(
        actor=actions.SYSTEM, name="words", model="words", engine={}, capacity={}
    )
    assert states.deployment_state(deployment, 1.0)["task"] == task
    assert len(desired_document().document["applications"]) == 2
