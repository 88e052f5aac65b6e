"""Which task a model is expected to have; the same as vLLM's own choice for these architectures."""

from typing import Any

import pytest

from serving.tasks import task_of


@pytest.mark.parametrize(
    ("facts", "kwargs", "task"),
    [
        ({"architecture": "LlamaForCausalLM"}, {}, "generate"),
        ({"architecture": "Qwen2ForCausalLM"}, {}, "generate"),
        ({"architecture": "Qwen3ForCausalLM", "sentence_transformers": True}, {}, "embed"),
        ({"architecture": "BertModel"}, {}, "embed"),
        ({"architecture": "XLMRobertaModel"}, {"dtype": "float32"}, "embed"),
        ({"architecture": "BertForSequenceClassification"}, {}, "score"),
        ({"architecture": "JinaForRanking"}, {}, "score"),
        ({"architecture": "LlamaForCausalLM"}, {"runner": "pooling"}, "embed"),
        ({"architecture": "LlamaForCausalLM"}, {"convert": "embed"}, "embed"),
        ({"architecture": "LlamaForCausalLM"}, {"convert": "classify"}, "score"),
        (
            {"architecture": "Qwen3ForCausalLM", "sentence_transformers": True},
            {"runner": "generate"},
            "generate",
        ),
        ({}, {}, "generate"),
    ],
)
def test_the_task_follows_architecture_and_arguments(
    facts: dict[str, Any], kwargs: dict[str, Any], task: str
) -> None:
    assert task_of(facts, kwargs) == task
