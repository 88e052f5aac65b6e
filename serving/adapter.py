"""LoRA adapters: what a folder holds and whether it goes with its base model; what an engine is told of them.

Reads adapter_config.json and the headers of the weights, runs no code from the folder and never raises for
what it finds there. The rules are vLLM's (lora/peft_helper.py, lora/lora_model.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.bounded_json import Unreadable, read_object
from serving.model_config import Problem
from serving.spec import EngineSpec
from serving.tensor_headers import read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG_LIMIT_BYTES = 1_000_000
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank (config/lora.py); an adapter of another rank runs under the next one."""
ADAPTER_MARK = ":"
"""Between deployment and adapter in the name callers give."""
FROM_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Modules whose input is the hidden state."""
LORA_A = re.compile(r"^(?P<module>.+)\.lora_(?:A|embedding_A)(?:\.\w+)?(?:\.weight)?$")


@dataclass
class AdapterInspection:
    """Facts: rank, alpha, target_modules, base_model, weight_bytes, layers. Problems as for models."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, where: str, message: str, *, level: str = "error") -> None:
        """Note something wrong; `where` names the file."""
        self.problems.append({"level": level, "field": where, "message": message})  # type: ignore[typeddict-item]


def inspect_adapter(path: str, *, base: Mapping[str, Any]) -> AdapterInspection:
    """What the folder holds; `base` are the base model's facts (serving/checkpoint.py)."""
    found = AdapterInspection()
    root = Path(path)
    try:
        if not os.path.isabs(path) or not root.is_dir():  # noqa: PTH117
            found.wrong("source", "Give the full path of a folder on this machine.")
            return found
        config = read_object(root / CONFIG, limit_bytes=CONFIG_LIMIT_BYTES)
    except FileNotFoundError:
        found.wrong(CONFIG, f"There is no {CONFIG} in this folder.")
        return found
    except (Unreadable, OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        found.wrong(CONFIG, f"{CONFIG} {words}.")
        return found
    _read_config(config, found)
    _read_weights(root / WEIGHTS, base, found)
    return found


def rank_needed(engine: EngineSpec) -> int:
    """The smallest max_lora_rank that holds every adapter of the engine."""
    largest = max((adapter.rank for adapter in engine.adapters.values()), default=1)
    return next(rank for rank in RANKS if rank >= largest)


def lora_arguments(engine: EngineSpec, *, deployment: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's arguments for the adapters; empty without any. What the operator gave holds, but for a rank that
    is too small."""
    if not engine.adapters:
        return {}
    rank, together = given.get("max_lora_rank"), given.get("max_loras")
    needed = rank_needed(engine)
    return {
        "enable_lora": True,
        "max_lora_rank": rank if isinstance(rank, int) and rank >= needed else needed,
        "max_loras": together if isinstance(together, int) else len(engine.adapters),
        "lora_modules": [
            {"name": f"{deployment}{ADAPTER_MARK}{name}", "path": adapter.source}
            for name, adapter in sorted(engine.adapters.items())
        ],
    }


def _read_config(config: Mapping[str, Any], found: AdapterInspection) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        found.wrong(CONFIG, f"peft_type is {str(kind)[:40]}; only LORA adapters can be served.")
    rank = config.get("r")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        found.wrong(CONFIG, f"r must be a whole number from 1 to {RANKS[-1]}.")
        rank = None
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        found.wrong(CONFIG, "lora_alpha is missing or no number.")
        alpha = None
    modules = config.get("target_modules")
    names = [modules] if isinstance(modules, str) else modules
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        found.wrong(CONFIG, "target_modules must name modules.")
        names = []
    for name, wanted, words in (
        ("use_dora", False, "DoRA adapters"),
        ("modules_to_save", None, "whole modules saved beside the adapter (modules_to_save)"),
        ("bias", "none", "adapter biases"),
    ):
        if config.get(name, wanted) not in (wanted, None, []):
            found.wrong(CONFIG, f"vLLM does not serve {words}.")
    found.facts |= {
        "rank": rank,
        "alpha": alpha,
        "target_modules": sorted(name[:80] for name in names[:100]),
        "base_model": str(config.get("base_model_name_or_path") or "")[:300],
    }


def _read_weights(path: Path, base: Mapping[str, Any], found: AdapterInspection) -> None:
    try:
        header = read_header(path)
    except FileNotFoundError:
        found.wrong(WEIGHTS, f"There is no {WEIGHTS} in this folder.")
        return
    except (Unreadable, OSError) as error:
        found.wrong(WEIGHTS, f"{WEIGHTS} {error}.")
        return
    found.facts["weight_bytes"] = sum(tensor.size_bytes for tensor in header.tensors)
    factors = [(LORA_A.match(tensor.name), tensor) for tensor in header.tensors]
    down = [(match["module"], tensor) for match, tensor in factors if match]
    if not down:
        found.wrong(WEIGHTS, f"{WEIGHTS} holds no LoRA factors (lora_A, lora_B).")
        return
    rank = found.facts.get("rank")
    odd = [tensor.name for _, tensor in down if rank and rank not in tensor.shape]
    if odd:
        found.wrong(WEIGHTS, f"r is {rank}, but {odd[0]} has the shape of another rank.")
    _check_base([module for module, _ in down], {m: t.shape for m, t in down}, base, found)


def _check_base(
    modules: list[str], shapes: Mapping[str, Any], base: Mapping[str, Any], found: AdapterInspection
) -> None:
    """Layers and width must be the base model's; the name of the base says nothing reliable."""
    layers = {int(number) for module in modules for number in re.findall(r"\.layers\.(\d+)\.", module)}
    found.facts["layers"] = len(layers)
    has_layers, width = base.get("layers"), base.get("hidden_size")
    if has_layers and layers and max(layers) >= has_layers:
        found.wrong(WEIGHTS, f"It adapts layer {max(layers)}; the base model has {has_layers} layers.")
    odd = [module for module in modules if module.endswith(FROM_HIDDEN) and width not in shapes[module]]
    if width and odd:
        message = f"{odd[0]} takes {max(shapes[odd[0]])} numbers; the base model's hidden size is {width}."
        found.wrong(WEIGHTS, message)
