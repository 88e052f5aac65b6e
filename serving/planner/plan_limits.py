"""What a plan may not claim: a clean "fits" off CUDA, times of what does not run or is not known. Pure."""

from __future__ import annotations

from serving.planner.architecture import Architecture
from serving.planner.latency import unknown_because
from serving.planner.request import Accelerator, PlanRequest
from serving.planner.result import Memory, Verdict

CUDA_VENDOR = "nvidia"
SAME_RUNNER = "amd"
"""The vendor whose accelerators vLLM runs with the same model runner as NVIDIA's."""
NOT_STARTED: dict[Verdict, str] = {
    "does_not_fit": "It does not fit, so it has no times and no price per token.",
    "refused": "The engine would not start.",
}
ON_CPU = "Times on CPU are not predicted; they are measured once it serves."


def is_cuda(card: Accelerator | None) -> bool:
    """Whether the memory model was made for this machine (the CPU engine has its own, simpler one)."""
    if card is None or card.compute_capability is not None or not card.vendor:
        return True
    return card.vendor.lower().startswith(CUDA_VENDOR)


def _has_same_runner(card: Accelerator) -> bool:
    return card.vendor.lower().startswith(SAME_RUNNER)


def beyond_cuda(
    request: PlanRequest, verdict: Verdict, reasons: tuple[str, ...]
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict with what is not known of other vendors' accelerators taken off it."""
    card = request.accelerator
    if card is None or is_cuda(card) or verdict == "refused":
        return verdict, reasons
    why = (
        f"The memory model is that of vLLM on NVIDIA's accelerators (CUDA): on {card.name} ({card.vendor}) "
        "its activations, graphs and runtime were never checked."
    )
    if verdict == "does_not_fit":
        return verdict, (*reasons, why)
    return "tight" if _has_same_runner(card) else "unknown", (why, *reasons)


def no_times_because(
    request: PlanRequest, architecture: Architecture, memory: Memory | None, verdict: Verdict
) -> str:
    """Why no times are predicted, a sentence; empty where they are."""
    card = request.accelerator
    if verdict in NOT_STARTED:
        return NOT_STARTED[verdict]
    if card is None:
        return ON_CPU
    if not is_cuda(card) and not _has_same_runner(card):
        return f"Times were fitted to NVIDIA's accelerators; nothing is known of {card.name}."
    if request.cpu_offload_gib:
        # Weights fetched over the bus in every step are nothing that the roofline was fitted to.
        return "Times with weights in the node's memory (cpu_offload_gb) are not predicted."
    if memory is None:
        return "Nothing says how much memory there is."
    return unknown_because(request, architecture, memory)
