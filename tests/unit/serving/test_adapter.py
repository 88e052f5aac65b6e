"""LoRA adapters: what a folder says, what does not go with the base model, what the engine is told."""

from pathlib import Path
from typing import Any

import pytest

from serving.adapter import inspect_adapter, lora_arguments
from serving.spec import AdapterSource, EngineSpec
from tests.unit.serving.adapter_folders import write_adapter

BASE = {"layers": 2, "hidden_size": 16}


def engine(**ranks: int) -> EngineSpec:
    adapters = {name: AdapterSource(source=f"/a/{name}", rank=rank) for name, rank in ranks.items()}
    return EngineSpec(model="m", model_source="/m", max_model_len=512, adapters=adapters)


def test_a_whole_adapter_has_facts_and_no_problems(tmp_path: Path) -> None:
    found = inspect_adapter(str(write_adapter(tmp_path / "a")), base=BASE)
    assert found.problems == []
    assert found.facts == {
        "rank": 4,
        "alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "base_model": "org/base",
        "weight_bytes": 2 * 2 * 4 * 16 * 2,
        "layers": 2,
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 0}, "r must be"),
        ({"r": "8"}, "r must be"),
        ({"r": 8}, "another rank"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"target_modules": []}, "target_modules"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_vllm_refuses_is_said_before(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    found = inspect_adapter(str(write_adapter(tmp_path / "a", config=config)), base=BASE)
    assert [one["level"] for one in found.problems] == ["error"]
    assert words in found.problems[0]["message"]


@pytest.mark.parametrize(
    ("made", "words"), [({"layers": 5}, "2 layers"), ({"width": 32}, "hidden size is 16")]
)
def test_an_adapter_of_another_model_is_told(tmp_path: Path, made: dict[str, int], words: str) -> None:
    found = inspect_adapter(str(write_adapter(tmp_path / "a", **made)), base=BASE)
    assert any(words in one["message"] for one in found.problems)
    assert inspect_adapter(str(tmp_path / "a"), base={}).problems == []


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (("adapter_config.json", None), "adapter_config.json"),
        (("adapter_config.json", b"{"), "adapter_config.json"),
        (("adapter_config.json", b"[]"), "adapter_config.json"),
        (("adapter_model.safetensors", None), "adapter_model.safetensors"),
        (("adapter_model.safetensors", b"xx"), "adapter_model.safetensors"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, broken: tuple[str, bytes | None], field: str) -> None:
    folder = write_adapter(tmp_path / "a")
    name, content = broken
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert [one["field"] for one in inspect_adapter(str(folder), base=BASE).problems] == [field]


@pytest.mark.parametrize("path", ["relative", "/no/such/folder", "/etc/hostname", "/a\x00b"])
def test_what_is_no_folder_is_told(path: str) -> None:
    assert inspect_adapter(path, base=BASE).problems[0]["level"] == "error"


def test_the_engine_is_told_of_all_adapters_under_the_deployments_name() -> None:
    assert lora_arguments(engine(), deployment="chat", given={}) == {}
    assert lora_arguments(engine(fr=4, de=9), deployment="chat", given={}) == {
        "enable_lora": True,
        "max_lora_rank": 16,
        "max_loras": 2,
        "lora_modules": [
            {"name": "chat:de", "path": "/a/de"},
            {"name": "chat:fr", "path": "/a/fr"},
        ],
    }


@pytest.mark.parametrize(("given", "rank", "together"), [(64, 64, 1), (8, 16, 1), ("x", 16, 1)])
def test_what_the_operator_gave_holds_unless_too_small(given: Any, rank: int, together: int) -> None:
    told = lora_arguments(engine(fr=9), deployment="chat", given={"max_lora_rank": given, "max_loras": 1})
    assert (told["max_lora_rank"], told["max_loras"]) == (rank, together)
