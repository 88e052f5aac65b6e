"""Folders with a LoRA adapter, whole or with one thing wrong."""

import json
import struct
from pathlib import Path
from typing import Any

CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/base",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
}


def write_adapter(
    folder: Path, *, width: int = 16, layers: int = 2, rank: int = 4, config: dict[str, Any] | None = None
) -> Path:
    """An adapter of q_proj for a model of this width and depth; `config` replaces parts of CONFIG."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    header: dict[str, Any] = {}
    at = 0
    for layer in range(layers):
        for factor, shape in (("lora_A", [rank, width]), ("lora_B", [width, rank])):
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.{factor}.weight"
            size = shape[0] * shape[1] * 2
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    return folder
