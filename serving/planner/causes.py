"""The likely cause, in words, of a plan that was off: rules over the plan, the measurement and the revision.

Rules are tried in order, those that a figure proves before those that only fit. Pure. Must not claim more
than the figures show: where no rule fits, it says that no cause is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.planner.compare import TOLERANCE, Difference, PlannedMemory, verdict_was_wrong
from serving.planner.measured import Measured

GIB = 1 << 30
PLANNED_FOR = "0.29"
"""The vLLM release whose rules the planner follows."""

NEAR = 0.08
"""How near a ratio has to be to 2 or 1/2 to say that a number format of another width was used."""

OTHERS_HOLD = 0.03
"""A device of which more than this share was taken before the engine started is shared with others."""


@dataclass(frozen=True)
class Case:
    """Everything a rule may look at. `engine`: the revision's serving.spec.EngineSpec as JSON."""

    plan: PlannedMemory
    measured: Measured
    differences: Mapping[str, Difference]
    engine: Mapping[str, Any]

    def off(self, part: str) -> Difference | None:
        """The part's difference if it is off."""
        found = self.differences.get(part)
        return found if found is not None and found.is_off else None

    def ratio(self, part: str) -> float | None:
        """Measured over planned of a part that is off."""
        found = self.off(part)
        if found is None or not found.planned or found.measured is None:
            return None
        return found.measured / found.planned

    @property
    def kv_is_off(self) -> bool:
        """Whether anything of the KV cache is."""
        return any(self.off(part) for part in ("kv_cache", "kv_blocks", "kv_tokens", "max_concurrency"))

    @property
    def on_cpu(self) -> bool:
        """Whether the revision runs on CPU."""
        return self.engine.get("accelerator_type") is None


def likely_cause(
    plan: PlannedMemory, measured: Measured, differences: Sequence[Difference], engine: Mapping[str, Any]
) -> str:
    """One or two sentences; empty when nothing is off."""
    case = Case(plan, measured, {one.part: one for one in differences}, engine)
    if verdict_was_wrong(plan):
        why = plan.reasons[0].rstrip(".") if plan.reasons else "no reason was stored"
        word = "was refused" if plan.verdict == "refused" else "does not fit"
        return f"The plan said that it {word} ({why}), but it runs: the rule is wrong here."
    if not any(one.is_off for one in differences):
        return ""
    causes = [cause for rule in RULES if (cause := rule(case))]
    return " ".join(causes[:2]) or _unexplained(case)


def _unknown_architecture(case: Case) -> str:
    if case.plan.architecture_is_known:
        return ""
    name = case.plan.architecture or "the architecture"
    return f"{name} is unknown to the planner: the plan was made from the checkpoint's bytes."


def _another_release(case: Case) -> str:
    version = case.measured.engine_version
    if version is None or version == PLANNED_FOR or version.startswith(f"{PLANNED_FOR}."):
        return ""
    return f"The engine is vLLM {version}; the plan follows the rules of {PLANNED_FOR}."


def _weight_format(case: Case) -> str:
    ratio = case.ratio("weights")
    if ratio is None:
        return ""
    planned_dtype = case.plan.settings.get("dtype") or case.engine.get("dtype") or "auto"
    method = str(case.plan.settings.get("quantization") or "")
    if "mxfp4" in method and 1 < ratio < 1.2:
        return "The MXFP4 kernel lays the experts' weights out anew, padded to its tile size, after loading."
    if method and ratio > 1.5:
        return f"The weights were not loaded as {method}: they take {ratio:.1f} times as much as planned."
    if abs(ratio - 2) < 2 * NEAR or abs(ratio - 0.5) < NEAR / 2:
        times = "twice" if ratio > 1 else "half"
        return f"Weights take {times} what was planned for number format {planned_dtype}: another was loaded."
    return ""


def _weights_estimated(case: Case) -> str:
    if case.off("weights") and not case.plan.weights_are_exact and case.plan.architecture_is_known:
        return "The weights were estimated from the checkpoint's bytes, not from its layers."
    return ""


def _block_size(case: Case) -> str:
    planned, measured = case.plan.block_tokens, case.measured.block_tokens
    if not case.kv_is_off or not planned or not measured or planned == measured:
        return ""
    return f"A KV block holds {measured:,} tokens; {int(planned):,} were planned."


def _kv_format(case: Case) -> str:
    ratio = _bytes_per_token_ratio(case)
    if not case.kv_is_off or ratio is None or abs(ratio - 1) <= TOLERANCE:
        return ""
    if abs(ratio - 2) < 2 * NEAR or abs(ratio - 0.5) < NEAR / 2:
        width = "twice" if ratio > 1 else "half"
        return f"A token takes {width} the planned bytes in the KV cache: another KV number format is used."
    return f"A token takes {ratio:.2f} times the planned bytes in the KV cache."


def _bytes_per_token_ratio(case: Case) -> float | None:
    """Measured over planned KV bytes per token; only where the cache has a single kind of layers, which is
    where tokens are blocks times block size."""
    seen, planned = case.measured, case.plan.kv_bytes_per_token
    if not (planned and seen.kv_cache_bytes and seen.num_blocks and seen.block_tokens):
        return None
    tokens = seen.num_blocks * seen.block_tokens
    if seen.kv_cache_tokens is not None and abs(seen.kv_cache_tokens - tokens) > seen.block_tokens:
        return None
    return seen.kv_cache_bytes / tokens / planned


def _kv_given(case: Case) -> str:
    difference, given = case.off("kv_cache"), case.engine.get("kv_cache_memory_bytes")
    if difference is None or difference.measured is None:
        return ""
    if given and abs(difference.measured - given) <= TOLERANCE * given:
        return f"The revision gives the KV cache {_gib(given)} explicitly; the plan did not count with that."
    whole_gib = difference.measured / GIB
    if given and case.on_cpu and round(whole_gib) >= 1 and abs(whole_gib - round(whole_gib)) < 0.01:
        return (
            f"The KV cache is {round(whole_gib)} GiB instead of the {_gib(given)} of the revision:"
            " VLLM_CPU_KVCACHE_SPACE on the node overrides it."
        )
    return ""


def _memory_of_the_node(case: Case) -> str:
    if not case.on_cpu or case.engine.get("kv_cache_memory_bytes") or not case.off("kv_cache"):
        return ""
    return (
        "Without an explicit size the CPU engine takes what its share of the node's memory leaves beside the"
        " process; that depends on what the process holds at that moment."
    )


def _another_device(case: Case) -> str:
    planned, seen = case.plan.usable_bytes, case.measured.device_total_bytes
    if not planned or not seen or abs(seen - planned) <= 0.01 * planned:
        return ""
    return f"The accelerator has {_gib(seen)}; the plan counted with {_gib(planned)}."


def _others_on_the_device(case: Case) -> str:
    total, free = case.measured.device_total_bytes, case.measured.free_at_start_bytes
    if not total or free is None or total - free <= OTHERS_HOLD * total:
        return ""
    return f"{_gib(total - free)} of the accelerator were taken by other processes when the engine started."


def _what_the_cache_lost(case: Case) -> str:
    """The KV cache gets what the other parts leave, so the part that is off explains it."""
    if not case.kv_is_off:
        return ""
    words = {
        "weights": "weights",
        "activation": "the activation peak",
        "cuda_graphs": "the CUDA graphs",
        "runtime": "what the runtime holds",
    }
    for part, word in words.items():
        found = case.off(part)
        if found and found.measured is not None and found.planned is not None:
            more = found.measured - found.planned
            side = "more" if more > 0 else "less"
            return f"The KV cache gets what is left, and {word} took {_gib(abs(more))} {side} than planned."
    return ""


def _inside_the_band(case: Case) -> str:
    found = case.off("kv_cache")
    if found is None or not found.is_within_band:
        return ""
    return (
        "It is inside the planned band: the activation peak cannot be computed exactly, and the KV cache gets"
        " what it leaves."
    )


def _estimates(case: Case) -> str:
    off = [one for one in ("activation", "cuda_graphs", "runtime") if case.off(one)]
    words = {
        "activation": "activation peak",
        "cuda_graphs": "CUDA graphs",
        "runtime": "runtime memory",
    }
    if not off or case.kv_is_off or case.off("weights"):
        return ""
    return (
        f"The planner's estimate of {' and '.join(words[one] for one in off)} does not hold for this model."
    )


RULES: tuple[Callable[[Case], str], ...] = (
    _unknown_architecture,
    _weight_format,
    _weights_estimated,
    _kv_given,
    _block_size,
    _kv_format,
    _another_device,
    _what_the_cache_lost,
    _others_on_the_device,
    _memory_of_the_node,
    _another_release,
    _inside_the_band,
    _estimates,
)


def _unexplained(case: Case) -> str:
    parts = [part.replace("_", " ") for part in case.differences if case.off(part)]
    return f"No cause is known for {', '.join(parts)}: the plan's arithmetic and the engine's log say why."


def _gib(size_bytes: float) -> str:
    if size_bytes >= 0.1 * GIB:
        return f"{size_bytes / GIB:.2f} GiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"
