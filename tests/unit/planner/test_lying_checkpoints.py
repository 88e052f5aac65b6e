"""Indexes and weight files that contradict the config: never "fits", never figures that nobody knows."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from serving.accelerators import accelerator
from serving.planner.architecture_reading import read_architecture
from serving.planner.checkpoint_layers import layers_against
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.tensors import group_index
from tests.unit.planner.configs import LLAMA_8B
from tests.unit.planner.recorded import recording
from tests.unit.planner.test_plan_command import plan

H100 = accelerator("H100")
SIZE = 16_060_522_496
LAYER = {
    "self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096), "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336), "input_layernorm": (4096,), "post_attention_layernorm": (4096,),
}  # fmt: skip
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def shapes(layers: int = 32) -> dict[str, tuple[int, ...]]:
    """The tensors of Llama 3.1 8B as published: 291 of them."""
    found: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(layers)
        for name, shape in LAYER.items()
    }
    outer = {"model.embed_tokens.weight": (128256, 4096), "lm_head.weight": (128256, 4096)}
    return found | outer | {"model.norm.weight": (4096,)}


def names(layers: int = 32) -> dict[str, str]:
    return {name: f"model-{index % 4 + 1}-of-4.safetensors" for index, name in enumerate(shapes(layers))}


def index(**changes: Any) -> dict[str, Any]:
    return {"metadata": {"total_size": SIZE}, "weight_map": names()} | changes


def planned(folder: Path, content: Any, config: dict[str, Any] = LLAMA_8B) -> tuple[int, dict[str, Any]]:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    return plan(
        folder, config, "--accelerator", "H100", "--max-model-len", "8192", "--safetensors-index", str(path)
    )


def test_the_published_index_agrees(tmp_path: Path) -> None:
    assert len(shapes()) == 291
    code, answer = planned(tmp_path, index())
    assert (code, answer["verdict"]) == (0, "fits")
    assert answer["weights_are_exact"] is True


@pytest.mark.parametrize("size", [-1, 0, "16060522496", 1.5, 10**30, True, [1]])
def test_a_size_of_the_wrong_kind_is_bad_input(tmp_path: Path, size: object) -> None:
    code, answer = planned(tmp_path, index(metadata={"total_size": size}))
    assert (code, answer["verdict"]) == (2, "refused")
    assert answer["reasons"][0].startswith("safetensors_index:metadata.total_size")


@pytest.mark.parametrize("content", [index(metadata=[1]), index(weight_map={"a": 1}), index(weight_map=[1])])
def test_parts_of_the_wrong_kind_are_bad_input(tmp_path: Path, content: dict[str, Any]) -> None:
    code, answer = planned(tmp_path, content)
    assert code == 2 and answer["reasons"][0].startswith("safetensors_index:")


def test_an_index_without_a_size_says_that_nothing_was_checked(tmp_path: Path) -> None:
    code, answer = planned(tmp_path, {"weight_map": names()})
    assert (code, answer["verdict"]) == (0, "fits")
    assert "no total_size" in " ".join(answer["reasons"])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (index(metadata={"total_size": SIZE * 10}), "not the model"),
        (index(metadata={"total_size": 1000}), "not whole"),
        (index(weight_map=names(31)), "no tensors of layer 31"),
        (index(weight_map=names(33)), "layer 32"),
        (index(weight_map={k: v for k, v in names().items() if "layers.7.mlp.up" not in k}), "layer 7"),
        (index(weight_map={"a": "x", "b": "x"}), "no layers"),
        (index(weight_map={k.replace(".weight", ".qweight"): v for k, v in names().items()}), "qweight"),
    ],
    ids=["ten times", "1000", "layer missing", "layer more", "tensor missing", "no layers", "packed"],
)
def test_what_contradicts_the_config_is_unknown(tmp_path: Path, content: dict[str, Any], word: str) -> None:
    code, answer = planned(tmp_path, content)
    assert (code, answer["verdict"]) == (3, "unknown")
    assert word in answer["reasons"][0]
    if word != "qweight":
        assert answer["weight_bytes_per_rank"] is answer["kv_cache_tokens"] is None


@pytest.mark.parametrize("section", [GPTQ, AWQ])
def test_16_bit_names_under_a_packed_format_are_what_vllm_loads_unquantised(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    config = LLAMA_8B | {"quantization_config": section, "torch_dtype": "float16"}
    code, answer = planned(tmp_path, index(), config)
    assert (code, answer["verdict"]) == (0, "fits")
    assert answer["weight_bytes_per_rank"][0] >= SIZE
    assert "unquantised" in " ".join(answer["reasons"])
    # Where the config names the modules itself, vLLM does not look and finds no weights.
    name = "modules_in_block_to_quantize" if section is GPTQ else "modules_to_not_convert"
    forced = config | {"quantization_config": section | {name: ["self_attn.q_proj"]}}
    assert planned(tmp_path, index(), forced)[1]["verdict"] == "refused"


def test_16_bit_bytes_under_fp8_are_unknown(tmp_path: Path) -> None:
    config = LLAMA_8B | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
    assert planned(tmp_path, index(), config)[1]["verdict"] == "unknown"


@pytest.mark.parametrize("metadata", [{}, {"total_size": 1000}])
def test_an_unknown_architecture_gets_no_figures_from_nothing(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    config = LLAMA_8B | {"architectures": ["FrobForCausalLM"]}
    code, answer = planned(tmp_path, index(metadata=metadata), config)
    assert (code, answer["verdict"], answer["weight_bytes_per_rank"]) == (3, "unknown", None)
    assert "0.0 MiB" not in " ".join(answer["reasons"])


DEEPSEEK: dict[str, Any] = next(
    found["config"] for found in recording("exact.json")["facts"] if found["name"] == "dsr1"
)


def test_draft_layers_and_towers_are_no_contradiction() -> None:
    """A layer for speculative decoding follows the decoder's, and towers have layers of their own."""
    names = [f"model.layers.{n}.input_layernorm.weight" for n in range(62)]
    groups = group_index(
        {"weight_map": dict.fromkeys([*names, *(f"visual.blocks.{n}.a.weight" for n in range(99))], "x")}
    )
    config = DEEPSEEK | {"num_hidden_layers": 61}
    assert layers_against(groups, read_architecture(config | {"num_nextn_predict_layers": 1})) == ""
    assert "layer 61" in layers_against(groups, read_architecture(config | {"num_nextn_predict_layers": 0}))


def test_a_section_under_its_older_name_is_a_section_too() -> None:
    section = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    tensors = group_index({"weight_map": {
        f"model.layers.{n}.mlp.up_proj.{last}": "x" for n in range(32) for last in ("weight", "weight_scale")
    }})  # fmt: skip
    plan = make_plan(
        PlanRequest(
            LLAMA_8B | {"compression_config": section}, tensors=tensors, accelerator=H100, max_model_len=4096
        )
    )
    assert plan.verdict == "fits", plan.reasons


def write_shards(folder: Path, held: dict[str, tuple[int, ...]], places: dict[str, str]) -> None:
    """Weight files as sparse files: right in their headers and sizes, empty in their data."""
    for file in set(places.values()):
        header: dict[str, Any] = {}
        end = 0
        for name, shape in held.items():
            if places[name] == file:
                begin, end = end, end + 2 * (shape[0] * (shape[1] if len(shape) > 1 else 1))
                header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        raw = json.dumps(header).encode()
        with (folder / file).open("wb") as shard:
            shard.write(struct.pack("<Q", len(raw)) + raw)
            shard.truncate(8 + len(raw) + end)


def test_files_beside_the_index_are_read(tmp_path: Path) -> None:
    write_shards(tmp_path, shapes(), names())
    assert planned(tmp_path, index())[1]["verdict"] == "fits"
    # Without a size in the index the files still say it.
    assert "no total_size" not in " ".join(planned(tmp_path, {"weight_map": names()})[1]["reasons"])
    lying = planned(tmp_path, index(metadata={"total_size": SIZE * 10}))[1]
    assert (lying["verdict"], lying["weight_bytes_per_rank"]) == ("unknown", None)
    further = names() | {"model.extra.weight": "model-1-of-4.safetensors"}
    assert "model.extra.weight" in planned(tmp_path, index(weight_map=further))[1]["reasons"][0]


@pytest.mark.parametrize(
    "content",
    [struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 2) + b"[]", b"", struct.pack("<Q", 2) + b"{}more"],
    ids=["length", "no object", "empty", "data without a tensor"],
)
def test_a_file_whose_header_lies_is_bad_input_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model-2-of-4.safetensors").write_bytes(content)
    code, answer = planned(tmp_path, index())
    assert (code, answer["verdict"]) == (2, "refused")
    assert answer["reasons"][0].startswith("safetensors_index:model-2-of-4.safetensors")
