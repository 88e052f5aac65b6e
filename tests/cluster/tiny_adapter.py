"""A random LoRA adapter in PEFT's layout, for any Llama: it changes every answer and makes no sense."""

import json
from pathlib import Path

RANK = 4


def make_tiny_adapter(folder: Path, *, base: Path, seed: int) -> Path:
    """The adapter for `base`, a folder with a config.json, in `folder`, which is returned."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    width, heads = config["hidden_size"], config["num_attention_heads"]
    sizes = {"q_proj": width, "v_proj": width // heads * config["num_key_value_heads"]}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, rows in sizes.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, width, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": sorted(sizes),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return folder
