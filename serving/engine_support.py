"""What the pinned vLLM release can load and takes, from lists shipped in data/. Pure; imports no engine."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from serving.spec import why_forbidden


@lru_cache(maxsize=1)
def engine_support() -> dict[str, Any]:
    """The list as it was made by data/make_vllm_architectures.py; it names its vLLM version."""
    return dict(json.loads((Path(__file__).parent / "data" / "vllm_architectures.json").read_text()))


@lru_cache(maxsize=1)
def generating_architectures() -> frozenset[str]:
    """Architectures that make text and can be served by themselves."""
    support = engine_support()
    return frozenset(support["text_generation"]) | frozenset(support["multimodal"])


@lru_cache(maxsize=1)
def engine_argument_names() -> frozenset[str]:
    """The names that data/make_vllm_engine_arguments.py found in vLLM's own classes."""
    names = json.loads((Path(__file__).parent / "data" / "vllm_engine_arguments.json").read_text())
    return frozenset(names["engine"]) | frozenset(names["frontend"])


def unknown_argument(names: Iterable[str]) -> str:
    """What to say of the first name that is no argument of this vLLM, with the likely one; else nothing."""
    known = engine_argument_names()
    for name in names:
        if name in known:
            continue
        version = engine_support()["vllm_version"]
        words = f"“{name}” is no engine argument of vLLM {version}."
        # The longest name has some forty characters: a much longer one is like none of them.
        near = get_close_matches(name[:80], known, n=1, cutoff=0.7)
        if not near:
            return words
        reason = why_forbidden(near[0], None)
        return f"{words} Did you mean “{near[0]}”?" + (f" It cannot be set here: {reason}." if reason else "")
    return ""


def support_of(name: str, *, has_own_code: bool) -> tuple[Literal["error", "warn"], str]:
    """("error" | "warn", what to say) of an architecture; the text is empty when all is well.

    `has_own_code`: config.json points to Python code in the model's repository (auto_map).
    """
    support = engine_support()
    version = support["vllm_version"]
    if name in generating_architectures():
        return "warn", ""
    if name in support["pooling"]:
        return "warn", f"{name} makes embeddings or scores, no text: chat and completions will be refused."
    if name in support["draft_only"]:
        return "error", f"{name} is a draft model for speculative decoding and cannot be served alone."
    if name in support["no_longer_supported"]:
        last = support["no_longer_supported"][name]
        return "error", f"{name} was supported by vLLM up to {last}, and is not by {version}."
    if name in support["needs_plugin"]:
        return "error", f"{name} needs a vLLM plugin ({support['needs_plugin'][name]})."
    if name in support["transformers_causal_lm"]:
        return "warn", (
            f"vLLM {version} has no class of its own for {name}; it may run through the Transformers "
            "backend, slower, or be refused at start."
        )
    if has_own_code:
        return "error", (
            f"{name} needs Python code from the model's repository, which is not run on the cluster; "
            f"vLLM {version} does not know it."
        )
    return "error", f"vLLM {version} does not support the architecture {name}."
