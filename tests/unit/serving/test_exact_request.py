"""What the exact builder accepts, and which of the engine's errors count as its refusal. No vLLM here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.cluster import exact_request
from serving.cluster.exact_refusal import Refusal, refusal_of
from serving.cluster.exact_request import BadExactRequest, request_from_json, request_from_object

CONFIG = {"model_type": "llama", "num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config": []}, "config"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"tensor_parallel_size": True}, "tensor_parallel_size"),
        ({"tensor_parallel_size": 4096, "pipeline_parallel_size": 2}, "tensor_parallel_size"),
        ({"max_model_len": 1.5}, "max_model_len"),
        ({"max_model_len": 0}, "max_model_len"),
        ({"dtype": 3}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"compute_capability": "9.0"}, "compute_capability"),
        ({"enable_prefix_caching": 1}, "enable_prefix_caching"),
        ({"config": {"num_hidden_layers": 10**9}}, "num_hidden_layers"),
        ({"config": {"text_config": {"n_routed_experts": 1e12}}}, "n_routed_experts"),
        ({"tensor_groups": [{"pattern": "a"}]}, "tensor_groups"),
    ],
)
def test_senseless_requests_name_their_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadExactRequest) as refused:
        request_from_object({"config": CONFIG} | changes)
    assert refused.value.field == field


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*exact_request.ExactRequest.__dataclass_fields__, "tensor_groups"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_is_a_request_or_one_sentence(given_request: dict[str, Any]) -> None:
    try:
        request_from_json(json.dumps(given_request).encode())
    except BadExactRequest as error:
        assert error.message and error.field


def test_groups_name_the_layers_and_experts_they_stand_for() -> None:
    groups = [
        {"pattern": "model.layers.*.up_proj.qweight", "dtype": "", "count": 3, "indices": []},
        {"pattern": "model.layers.*.experts.*.w.weight", "dtype": "F16", "count": 4, "indices": [0, 2]},
        {"pattern": "lm_head.weight", "dtype": "BF16", "count": 1, "indices": []},
    ]
    request = request_from_object({"config": CONFIG, "tensor_groups": groups})
    assert request.tensor_dtypes == {
        "model.layers.0.up_proj.qweight": "I32",
        "model.layers.1.up_proj.qweight": "I32",
        "model.layers.2.up_proj.qweight": "I32",
        "model.layers.0.experts.0.w.weight": "F16",
        "model.layers.0.experts.1.w.weight": "F16",
        "model.layers.2.experts.0.w.weight": "F16",
        "model.layers.2.experts.1.w.weight": "F16",
        "lm_head.weight": "BF16",
    }


class QKVParallelLinear:
    def __init__(self, prefix: str) -> None:
        heads, ranks = 10, 8
        assert heads % ranks == 0


def raised_by(call: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def raised(error: Exception) -> Exception:
    def call() -> None:
        raise error

    return raised_by(call)


def test_a_bare_assertion_is_told_with_its_line_and_the_layer_s_field() -> None:
    error = raised_by(lambda: QKVParallelLinear("model.layers.0.self_attn.qkv_proj"))
    # pytest rewrites assertions in tests; vLLM's come without words.
    error.args = ()
    assert refusal_of(error, step="build") == Refusal(
        "build", "vLLM stops at QKVParallelLinear: assert heads % ranks == 0", "num_key_value_heads"
    )


@pytest.mark.parametrize(
    ("error", "step", "message", "field"),
    [
        (
            ValueError(
                "1 validation error for VllmConfig\n  Value error, Total number of attention heads (32) "
                "must be divisible by tensor parallel size (3). [type=value_error, input=…]"
            ),
            "config",
            "Total number of attention heads (32) must be divisible by tensor parallel size (3).",
            "num_attention_heads",
        ),
        (
            ValueError("2 validation errors for ModelConfig\ndtype.x\n  Input should be 'auto' [type=x]"),
            "config",
            "dtype: Input should be 'auto'",
            "dtype",
        ),
        (
            ValueError("('The method %s is deprecated', 'fp_x')"),
            "config",
            "The method fp_x is deprecated",
            None,
        ),
        (
            RuntimeError("Trying to create tensor with negative dimension -4"),
            "build",
            "Trying to create tensor with negative dimension -4",
            None,
        ),
        (
            ValueError("Unrecognized model in /tmp/exact-plan-ab1. Should have a `model_type`"),
            "config",
            "Unrecognized model. Should have a `model_type`",
            "model_type",
        ),
    ],
)
def test_refusals_are_the_engine_s_first_words(
    error: Exception, step: str, message: str, field: str | None
) -> None:
    found = refusal_of(raised(error), step=step)
    assert isinstance(found, Refusal)
    assert (found.message, found.field) == (message, field)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("'NoneType' object is not callable"),
        RuntimeError("torch.cuda.Stream requires CUDA support"),
        ImportError("No module named 'torchvision'"),
        NotImplementedError("Cannot copy out of meta tensor; no data!"),
        NotImplementedError("The register_meta function for torch.nonzero() raises unimplemented by default"),
        ValueError("No valid attention backend found for cuda with head_size=77"),
        ZeroDivisionError("division by zero"),
    ],
)
def test_faults_of_the_faked_surroundings_are_no_refusal(error: Exception) -> None:
    found = refusal_of(raised(error), step="build")
    assert isinstance(found, str) and found.startswith("exact mode cannot build this model here: ")
