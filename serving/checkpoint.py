"""Inspects a model's folder without loading it: config.json, safetensors headers, tokenizer files.

It reads at most some 100 MB, stops looking after two seconds, runs no code from the folder, and never
raises for what it finds there: everything wrong becomes a problem with a level, a field and plain words.
It must not import an engine library.
"""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serving.bounded_json import Unreadable, read_bytes, read_object
from serving.engine_support import engine_support
from serving.layer_check import layers_held, missing_in_layers
from serving.model_config import CONFIG, ConfigFacts, Problem, read_config
from serving.planner.request import TensorGroup
from serving.planner.tensors import group_tensors, is_plain_name
from serving.tensor_headers import read_header
from serving.weight_totals import WeightTotals

CONFIG_LIMIT_BYTES = 4_000_000
INDEX_LIMIT_BYTES = 24_000_000
READ_LIMIT_BYTES = 100_000_000
PATIENCE_S = 1.5
"""Headers not read by then are counted by their files' sizes; reading one takes milliseconds."""
FILE_LIMIT = 5_000
SENTENCE_TRANSFORMERS = "modules.json"
"""With it vLLM makes embeddings, whatever the architecture says."""
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = {"tokenizer.json", "tokenizer.model", "tekken.json", "spiece.model", "vocab.txt"}
CHAT_TEMPLATE_KEY = re.compile(rb'"chat_template"\s*:\s*["\[]')
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")


@dataclass
class Inspection:
    """Facts (see `inspect_folder`) and problems, the serious ones first; for the planner the parsed
    config.json and the tensors of all headers, None where they could not be read whole."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    config: dict[str, Any] | None = None
    tensors: tuple[TensorGroup, ...] | None = None

    @property
    def is_servable(self) -> bool:
        """Whether no problem is an error."""
        return all(problem["level"] != "error" for problem in self.problems)


def inspect_folder(path: str) -> Inspection:
    """What the folder holds and what is wrong with it.

    Facts: architecture, model_type, layers, hidden_size, attention_heads, kv_heads, head_dim, vocab_size,
    max_context_tokens, dtype, quantization, tie_word_embeddings, kv_bytes_per_token (16-bit, full
    attention), parameters, parameters_are_packed, weight_bytes, weight_bytes_by_dtype, tensor_count,
    file_count, tokenizer, chat_template, sentence_transformers. Bytes and counts are integers; None
    is "not known". Facts are empty when there is no folder. Problems: {level: "error" | "warn", field,
    message}.
    """
    refusal = _path_problem(path)
    if refusal:
        return Inspection(problems=[refusal])
    return _Folder(Path(path)).inspect()


def facts_of_config(config: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Facts and problems of a config.json alone, as `inspect_folder` gives them; nothing of weights."""
    stated = asdict(read_config(config))
    problems = stated.pop("problems")
    stated.pop("quantization_bits")
    return stated, problems


def _path_problem(path: str) -> Problem | None:
    if not path or not os.path.isabs(path):  # noqa: PTH117 - `path` may hold bytes that Path refuses
        return _error("source", "Give the folder's absolute path, beginning with “/”.")
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except FileNotFoundError:
        return _error("source", f"The folder {path[:300]} does not exist on this machine.")
    except PermissionError:
        return _error("source", f"The folder {path[:300]} may not be read by the console's user.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a valid path"
        return _error("source", f"{path[:300]!r} cannot be opened: {reason}.")
    if not stat.S_ISDIR(mode):
        return _error("source", f"{path[:300]} is a file; give the folder that holds it.")
    return None


def _error(where: str, message: str) -> Problem:
    return {"level": "error", "field": where, "message": message}


def _warning(where: str, message: str) -> Problem:
    return {"level": "warn", "field": where, "message": message}


class _Folder:
    """One inspection: collects facts and problems while it reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self.names: set[str] = set()
        self.deadline = time.monotonic() + PATIENCE_S
        self.config: dict[str, Any] | None = None
        self.tensors: tuple[TensorGroup, ...] | None = None

    def inspect(self) -> Inspection:
        try:
            self._list()
        except OSError as error:
            return Inspection(problems=[_error("source", f"The folder cannot be listed: {error.strerror}.")])
        facts = self._config()
        numbers = self._weights(facts)
        stated = asdict(facts)
        self.problems += stated.pop("problems")
        stated.pop("quantization_bits")
        tokenizer = self._tokenizer(facts)
        merged = {**stated, **numbers, **tokenizer}
        problems = sorted(self.problems, key=lambda problem: problem["level"] != "error")
        return Inspection(merged, problems, self.config, self.tensors)

    def _list(self) -> None:
        with os.scandir(self.root) as entries:
            for entry in entries:
                self.names.add(entry.name)
                if len(self.names) >= FILE_LIMIT:
                    self._warn(
                        "source", f"The folder holds more than {FILE_LIMIT:,} files; the rest is ignored."
                    )
                    return

    def _config(self) -> ConfigFacts:
        if CONFIG in self.names:
            try:
                self.config = read_object(self.root / CONFIG, limit_bytes=CONFIG_LIMIT_BYTES)
                return read_config(self.config)
            except Unreadable as error:
                self._error(CONFIG, f"config.json {error}.")
        elif "adapter_config.json" in self.names:
            self._error(
                CONFIG, "This folder holds a LoRA adapter, not a whole model: there is no config.json."
            )
        elif "params.json" in self.names:
            self._error(
                CONFIG, "There is no config.json: this is Mistral's own format; give the Transformers one."
            )
        else:
            self._error(CONFIG, "There is no config.json in this folder.")
        return ConfigFacts()

    # --- weights -------------------------------------------------------------------------------------------

    def _weights(self, facts: ConfigFacts) -> dict[str, Any]:
        wanted = self._shard_names()
        totals = WeightTotals(packed_bits=facts.quantization_bits)
        budget = READ_LIMIT_BYTES
        for name in wanted:
            try:
                if time.monotonic() > self.deadline or budget <= 0:
                    totals.add_unread((self.root / name).stat().st_size)
                    continue
                header = read_header(self.root / name)
            except (Unreadable, OSError) as error:
                self._error(name, f"{name} {error}.")
                totals.broken = True
                continue
            budget -= header.header_bytes
            totals.add(header)
        if totals.unread_files:
            self._warn(
                "weights", f"The headers of {totals.unread_files} files were not read; their sizes count."
            )
        elif not totals.broken:
            self._check_layers([tensor.name for tensor in totals.tensors], facts)
            self.tensors = group_tensors((t.name, t.dtype, t.shape, t.size_bytes) for t in totals.tensors)
        return totals.facts(files=len(wanted))

    def _check_layers(self, names: list[str], facts: ConfigFacts) -> None:
        missing = missing_in_layers(names)
        if missing:
            shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
            self._warn(
                "weights",
                f"Missing tensors that the other layers have: {len(missing)} ({shown}). "
                "The engine may start all the same and answer nonsense.",
            )
        held = layers_held(names)
        if held is not None and facts.layers is not None and held < facts.layers:
            self._warn("weights", f"config.json speaks of {facts.layers} layers; the weights hold {held}.")

    def _shard_names(self) -> list[str]:
        present = sorted(name for name in self.names if name.endswith(".safetensors"))
        if INDEX in self.names:
            named = self._names_in_index()
            if named is not None:
                missing = [name for name in named if name not in self.names]
                if missing:
                    shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
                    self._error(INDEX, f"{len(missing)} of {len(named)} weight files are missing: {shown}.")
                return [name for name in named if name in self.names]
        whole = [name for name in present if not name.startswith(("consolidated", "adapter_model"))]
        if not whole:
            self._no_weights(consolidated=bool(present))
        return whole

    def _names_in_index(self) -> list[str] | None:
        try:
            index = read_object(self.root / INDEX, limit_bytes=INDEX_LIMIT_BYTES)
        except Unreadable as error:
            self._error(INDEX, f"{INDEX} {error}.")
            return None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            self._error(INDEX, f"{INDEX} has no weight_map, so the weight files are not known.")
            return None
        files = {value for value in weight_map.values() if isinstance(value, str)}
        if len(files) > FILE_LIMIT or any(not is_plain_name(name) for name in files):
            self._error(INDEX, f"{INDEX} names files that cannot lie in this folder.")
            return None
        return sorted(files)

    def _no_weights(self, *, consolidated: bool) -> None:
        if consolidated:
            message = (
                "Only consolidated or adapter weights are here; give the model in the Transformers layout."
            )
        elif any(name.endswith(".gguf") for name in self.names):
            message = "Only GGUF weights are here; give the model in safetensors form."
        elif any(name.endswith(OTHER_WEIGHTS) for name in self.names):
            message = "Only PyTorch or other weights (.bin, .pt …) are here: convert them to safetensors."
        else:
            message = "There are no weights (*.safetensors) in this folder."
        self._error("weights", message)

    # --- tokenizer -----------------------------------------------------------------------------------------

    def _tokenizer(self, facts: ConfigFacts) -> dict[str, Any]:
        tokenizer = (
            bool(TOKENIZER_FILES & self.names)
            or {"vocab.json", "merges.txt"} <= self.names
            or any(name.endswith(".tiktoken") for name in self.names)
        )
        template = self._has_chat_template()
        if not tokenizer:
            self._error(
                "tokenizer", "There is no tokenizer (tokenizer.json or tokenizer.model) in this folder."
            )
        if not template and facts.architecture not in engine_support()["pooling"]:
            self._warn("chat_template", "There is no chat template: completions work, chat needs one.")
        return {
            "tokenizer": tokenizer,
            "chat_template": template,
            "sentence_transformers": SENTENCE_TRANSFORMERS in self.names,
        }

    def _has_chat_template(self) -> bool:
        if {"chat_template.jinja", "chat_template.json"} & self.names:
            return True
        if "tokenizer_config.json" not in self.names:
            return False
        try:
            raw = read_bytes(self.root / "tokenizer_config.json", limit_bytes=READ_LIMIT_BYTES // 5)
        except Unreadable as error:
            self._error("tokenizer_config.json", f"tokenizer_config.json {error}.")
            return False
        # Only whether the key is there: the file may be large, and its content is the engine's business.
        return CHAT_TEMPLATE_KEY.search(raw) is not None

    def _error(self, where: str, message: str) -> None:
        self.problems.append(_error(where, message))

    def _warn(self, where: str, message: str) -> None:
        self.problems.append(_warning(where, message))
