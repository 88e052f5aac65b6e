"""What cannot be computed exactly: peak activations, CUDA graphs, the runtime's own memory, as bands. Pure.

Sources: vLLM 0.29's profile runs (v1/worker/gpu_model_runner.py and v1/worker/gpu/model_runner.py) for what
they depend on; the constants are measured, from published engine logs (tests/recordings/planner/models.json).
Activations are the weakest part of a plan: the upper bound is the older runner's rule, whose sampler alone
takes more than most forward passes.
"""

from __future__ import annotations

from serving.planner.architecture import Architecture
from serving.planner.request import GIB, PlanRequest
from serving.planner.result import ByteRange

SAMPLER_FACTORS = {"v1": 9.6, "v1-native": 9.6, "v1-flashinfer": 4.1}
"""Copies of the float32 logits that the older runner's dummy sampler holds at once, by sampling kernel."""
LOGITS_BYTES = 4
CPU_PROCESS = ByteRange(GIB // 2, GIB * 3 // 2)
"""Resident memory of a CPU worker besides weights and cache, measured on the demo model with margin."""
MARGIN_BYTES = GIB
"""How far the current runner's few measured peaks lie above its rule."""
OLDER_MARGIN_BYTES = GIB * 3 // 10
"""How far logged caches of the older runner lie from its rule, either way (0.27 GiB at most): its peak is
well known, but a log that refuses by a few MiB must not be planned as fitting."""
LARGE_CARD_BYTES = 70 * GIB
FULL_CAPTURE_SIZES = 51
GRAPHS_AT_LEAST = 0.24
GRAPHS_DENSE = 1.6
GRAPHS_MIXTURE = 2.6
GRAPHS_HYBRID = 5.2
"""GiB of the engine's estimate for all capture sizes: 0.58 to 1.55 logged for dense models; the others are
the graphs' logged sizes (1.03 to 2.37 GiB) times the estimate's usual excess of 2.2."""


def activation_band(
    request: PlanRequest, architecture: Architecture, *, is_first: bool, is_last: bool
) -> ByteRange:
    """Peak of the profile run on one stage. The older regime's rule is nearly sharp, else it is the bound."""
    forward = forward_bytes(request, architecture, is_last=is_last)
    sampler = sampler_bytes(request, architecture) if is_last else 0
    if request.regime.startswith("v1"):
        peak = max(forward, sampler)
        return ByteRange(max(0, peak - OLDER_MARGIN_BYTES), peak + OLDER_MARGIN_BYTES)
    encoder = MARGIN_BYTES if architecture.is_multimodal and is_first else 0
    return ByteRange(forward, max(sampler, forward + MARGIN_BYTES) + encoder)


def forward_bytes(request: PlanRequest, architecture: Architecture, *, is_last: bool) -> int:
    """One layer's intermediate results for a full batch of tokens, and the logits on the last stage."""
    assert request.max_num_batched_tokens is not None and request.max_num_seqs is not None
    tokens, ranks = request.max_num_batched_tokens, request.tensor_parallel_size
    element, hidden = architecture.bytes_per_element, architecture.hidden_size
    widest = max((layer.dense_intermediate for layer in architecture.layers), default=0)
    peak = element * tokens * (3 * widest // ranks + 3 * hidden)
    if architecture.mixture is not None:
        width = architecture.mixture.intermediate // ranks
        chosen = architecture.mixture.experts_per_token
        peak = max(peak, element * tokens * chosen * (max(2 * width, hidden) + width))
    return peak + (request.max_num_seqs * architecture.vocab_size * 2 if is_last else 0)


def sampler_bytes(request: PlanRequest, architecture: Architecture) -> int:
    """The older runner's dummy sampler run over max_num_seqs rows of logits."""
    assert request.max_num_seqs is not None
    factor = SAMPLER_FACTORS.get(request.regime, SAMPLER_FACTORS["v1"])
    return int(factor * request.max_num_seqs * architecture.vocab_size * LOGITS_BYTES)


def graphs_band(request: PlanRequest, architecture: Architecture) -> ByteRange:
    """What is set aside for CUDA graphs. The older regime took them from outside the requested share."""
    if request.enforce_eager or request.accelerator is None or request.regime.startswith("v1"):
        return ByteRange(0, 0)
    share = capture_sizes(request) / FULL_CAPTURE_SIZES
    most = GRAPHS_DENSE
    if architecture.mixture is not None or architecture.is_multimodal:
        most = GRAPHS_MIXTURE
    if any(layer.recurrent for layer in architecture.layers):
        most = GRAPHS_HYBRID
    return ByteRange(int(GRAPHS_AT_LEAST * share * GIB), int(most * share * GIB))


def capture_sizes(request: PlanRequest) -> int:
    """How many batch sizes are captured: 1, 2, 4, every 8th to 256, every 16th up to twice max_num_seqs."""
    assert request.max_num_seqs is not None
    capability = request.accelerator.compute_capability if request.accelerator else None
    largest = min(2 * request.max_num_seqs, 1024 if capability and capability[0] == 10 else 512)
    return sum(size <= largest for size in (1, 2, 4, *range(8, 256, 8), *range(256, 1025, 16)))


def runtime_band(request: PlanRequest, architecture: Architecture) -> ByteRange:
    """Libraries' and communicators' memory outside the allocator, per rank."""
    if request.accelerator is None:
        return CPU_PROCESS
    is_large = request.accelerator.usable_bytes >= LARGE_CARD_BYTES
    if request.tensor_parallel_size * request.pipeline_parallel_size == 1:
        low, high = (0.13, 0.14) if is_large else (0.02, 0.14)
    else:
        low, high = (0.54, 0.62) if is_large else (0.35, 0.62)
    if any(layer.recurrent for layer in architecture.layers) and request.tensor_parallel_size > 1:
        high = 1.4
    return ByteRange(int(low * GIB), int(high * GIB))


def defaults_for_card(request: PlanRequest) -> tuple[int, int]:
    """(max_num_batched_tokens, max_num_seqs) as vLLM's API server picks them (engine/arg_utils.py)."""
    card = request.accelerator
    if card is None:
        # The CPU engine multiplies its defaults by the number of ranks.
        ranks = request.tensor_parallel_size * request.pipeline_parallel_size
        return 2048 * ranks, 128 * ranks
    if card.usable_bytes >= 160 * GIB:
        return 16384, 1024
    if card.usable_bytes >= LARGE_CARD_BYTES and "a100" not in card.name.lower():
        return 8192, 1024
    return 2048, 256
