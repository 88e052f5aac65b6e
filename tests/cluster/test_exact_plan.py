"""The exact builder itself, with the real vLLM: its numbers against files and against figures recorded from
vLLM's classes (CUDA rules, no accelerator needed). Each build is a process of its own, some seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest

from console.exact_plans import capacity_for
from serving.tensor_headers import read_header

pytestmark = pytest.mark.cluster
PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "serving" / "demo" / "model"
DEMO_CONFIG = json.loads((DEMO / "config.json").read_text())
PATIENCE_S = 120
SCALES_PER_LAYER_BYTES = 4 * 4
"""Key, value, query and probability scales of an attention layer: four float32 buffers."""
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def ask(*arguments: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """The builder's answer; with `request` on its standard input, else from the command line."""
    done = subprocess.run(
        ["nice", "-n", "5", sys.executable, "-m", "serving.cluster.exact_plan", *arguments],
        cwd=PROJECT,
        input=None if request is None else json.dumps(request).encode(),
        stdin=subprocess.DEVNULL if request is None else None,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    answer = json.loads(done.stdout)
    assert answer["unavailable"] is None
    assert isinstance(answer, dict)
    return answer


def demo_bytes(*, tensor_parallel_size: int) -> int:
    """From the checkpoint's header: norms are held whole by every rank, everything else is divided."""
    rank = 0
    for tensor in read_header(DEMO / "model.safetensors").tensors:
        share = 1 if len(tensor.shape) == 1 else tensor_parallel_size
        rank += 2 * prod(tensor.shape) // share
    head = DEMO_CONFIG.get("head_dim") or DEMO_CONFIG["hidden_size"] // DEMO_CONFIG["num_attention_heads"]
    rotary = DEMO_CONFIG["max_position_embeddings"] * head * 2
    return rank + rotary + SCALES_PER_LAYER_BYTES * DEMO_CONFIG["num_hidden_layers"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_demo_model_holds_its_files_and_the_rotary_table(ranks: int) -> None:
    answer = ask(
        *("--config", str(DEMO / "config.json"), "--tp", str(ranks), "--device", "cpu"),
        *("--kv-cache-memory-bytes", str(64 << 20)),
    )
    (stage,) = answer["stages"]
    assert stage["weight_bytes"] == demo_bytes(tensor_parallel_size=ranks)
    assert stage["weight_bytes"] == sum(stage["weight_parts"].values())
    assert stage["bytes_on_this_machine"] == 0
    assert answer["engine_version"].startswith("0.29.")
    # The CPU engine cuts the cache into blocks of 128 tokens.
    blocks = (64 << 20) // (128 * stage["kv_bytes_per_token"])
    assert answer["capacity"]["num_blocks"] == blocks
    own = capacity_for(answer, kv_cache_bytes=64 << 20)
    assert own is not None and own.num_blocks == blocks
    assert own.kv_cache_tokens == answer["capacity"]["kv_cache_tokens"]


def test_a_grouped_query_model_in_three_stages_equals_the_recorded_figures() -> None:
    answer = ask(
        request={
            "config": LLAMA_8B,
            "pipeline_parallel_size": 3,
            "max_model_len": 32768,
            "max_num_batched_tokens": 8192,
            "kv_cache_memory_bytes": 20 << 30,
        }
    )
    assert [stage["weight_bytes"] for stage in answer["stages"]] == [5882691760, 4832018608, 5446475936]
    assert [stage["cache"][0]["layers"] for stage in answer["stages"]] == [11, 11, 10]
    assert answer["settings"]["block_size"] == 16 and answer["attention_backends"] == ["FLASH_ATTN"]
    capacity = answer["capacity"]
    assert (capacity["num_blocks"], capacity["kv_cache_tokens"]) == (29789, 476624)
    own = capacity_for(answer, kv_cache_bytes=20 << 30)
    assert own is not None
    assert (own.num_blocks, own.kv_cache_tokens) == (29789, 476624)


def test_a_refusal_comes_in_the_engines_words_with_the_field() -> None:
    answer = ask("--config", str(DEMO / "config.json"), "--tp", "3")
    refusal = answer["refusal"]
    assert refusal["stage"] == "config" and refusal["field"] == "num_attention_heads"
    assert refusal["message"].startswith("Total number of attention heads")
    assert answer["stages"] == [] and answer["capacity"] is None
