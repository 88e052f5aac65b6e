"""The plan of what no closed form covers: a wide band from the checkpoint's bytes, and the verdict "unknown".

Pure. It says what is known (size of the checkpoint, heads and layers of any decoder) and never "fits"; where
the files contradict each other it gives no figures at all.
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import Architecture
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_sizes import HEADS
from serving.planner.kv_cache import Geometry, cache_geometry
from serving.planner.kv_cache_specs import layer_specs
from serving.planner.memory import Parts, memory_of, parts_of, rooms_of
from serving.planner.plan_accounting import cache_format, request_shape
from serving.planner.plan_checkpoint import Doubt, known_bytes
from serving.planner.plan_words import gib
from serving.planner.quantization_reading import Quantization
from serving.planner.request import PlanRequest
from serving.planner.result import Memory, Plan
from serving.planner.weights import StageWeights, padded_vocabulary, stage_layers

LEAST_SHARE, MOST_SHARE = 0.9, 1.15
"""A rank's share of the checkpoint: some parts are not loaded, others are copied to every rank."""
WITHOUT_ATTENTION = ("rwkv", "mamba", "retnet", "hyena", "xlstm")
NO_TIMES = "The model's structure is not known, so its times cannot be predicted."


def plan_unknown(
    request: PlanRequest,
    architecture: Architecture,
    quantization: Quantization,
    settings: dict[str, object],
    *,
    doubt: Doubt | None = None,
) -> Plan:
    """Verdict "unknown" with as much as the checkpoint's bytes allow."""
    why = doubt.reason if doubt else architecture.unknown_because or quantization.unknown_because
    nothing = Plan(
        "unknown",
        (why,),
        architecture=architecture.name,
        architecture_is_known=architecture.is_known,
        settings=settings,
        no_times_because=NO_TIMES,
    )
    if doubt and not doubt.size_is_true:
        return replace(nothing, no_times_because="The model's files contradict each other.")
    total = known_bytes(request)
    if total is None:
        return replace(nothing, reasons=(why, "Without the checkpoint's size not even a band can be given."))
    least, most = _band(request, architecture, total)
    reasons = (why, f"From the checkpoint's {gib(total)}: {gib(least)} to {gib(most)} of weights per rank.")
    if not _has_attention(request, architecture):
        plain = "Its config gives no attention heads, so nothing is said of a cache."
        return replace(nothing, reasons=(*reasons, plain))
    memory, fits = _with_plain_attention(request, architecture, quantization, most)
    if memory is None:
        return replace(nothing, reasons=reasons)
    room = "has room" if fits else "may have no room"
    hint = (
        f"Were every layer plain attention, a request of {request.max_model_len:,} tokens {room} beside them."
    )
    return replace(nothing, reasons=(*reasons, hint), memory=memory)


def _has_attention(request: PlanRequest, architecture: Architecture) -> bool:
    names = f"{architecture.name} {architecture.model_type}".lower()
    return not any(word in names for word in WITHOUT_ATTENTION) and bool(
        Fields(request.config).raw(*HEADS) is not None
    )


def _with_plain_attention(
    request: PlanRequest, architecture: Architecture, quantization: Quantization, weights: int
) -> tuple[Memory | None, bool]:
    """The account of a decoder of plain attention with so many bytes of weights, and whether one request
    fits at the upper estimate; (None, False) where nothing says how much memory there is."""
    stages = tuple(
        StageWeights(first, count, {"checkpoint": weights})
        for first, count in stage_layers(len(architecture.layers), request.pipeline_parallel_size)
    )
    parts = parts_of(request, architecture, stages)
    specs = layer_specs(architecture, cache_format(request, architecture, quantization))
    geometry = cache_geometry(
        specs, [(stage.first_layer, stage.layers) for stage in stages], request_shape(request, architecture)
    )
    kv_bytes = [
        sum(
            spec.bytes_per_token
            for layer in specs[s.first_layer : s.first_layer + s.layers]
            for spec in layer
        )
        for s in stages
    ]
    return _judged(request, parts, geometry, kv_bytes)


def _judged(
    request: PlanRequest, parts: Parts, geometry: Geometry | None, kv_bytes: list[int]
) -> tuple[Memory | None, bool]:
    rooms = rooms_of(request, parts)
    if rooms is None or geometry is None:
        return None, False
    memory = memory_of(request, parts, rooms, geometry, kv_bytes, exact=False)
    return memory, min(rooms.least) > 0 and geometry.fits_one_request(rooms.least)


def _band(request: PlanRequest, architecture: Architecture, total: int) -> tuple[int, int]:
    """Least and most weights of one rank: an even share, and the embedding and head on every stage."""
    ranks = request.tensor_parallel_size * request.pipeline_parallel_size
    rows = padded_vocabulary(architecture.vocab_size) // request.tensor_parallel_size
    copies = 2 * rows * architecture.hidden_size * architecture.bytes_per_element
    extra = copies if request.pipeline_parallel_size > 1 else 0
    return int(total / ranks * LEAST_SHARE), int(total / ranks * MOST_SHARE) + extra
