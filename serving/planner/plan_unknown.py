"""The plan of what no closed form covers: a wide band from the checkpoint's bytes, and the verdict "unknown".

Pure. It says what is known (size of the checkpoint, heads and layers of any decoder) and never "fits".
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.architecture import Architecture
from serving.planner.kv_cache import cache_geometry
from serving.planner.kv_cache_specs import layer_specs
from serving.planner.memory import memory_of, parts_of, rooms_of
from serving.planner.plan_accounting import cache_format, request_shape
from serving.planner.plan_words import gib
from serving.planner.quantization_reading import Quantization
from serving.planner.request import PlanRequest
from serving.planner.result import Plan
from serving.planner.weights import StageWeights, padded_vocabulary, stage_layers

LEAST_SHARE, MOST_SHARE = 0.9, 1.15
"""A rank's share of the checkpoint: some parts are not loaded, others are copied to every rank."""


def plan_unknown(
    request: PlanRequest,
    architecture: Architecture,
    quantization: Quantization,
    settings: dict[str, object],
    *,
    why: str = "",
) -> Plan:
    """Verdict "unknown" with as much as the checkpoint's bytes allow."""
    why = why or architecture.unknown_because or quantization.unknown_because
    nothing = Plan(
        "unknown",
        (why,),
        architecture=architecture.name,
        architecture_is_known=architecture.is_known,
        settings=settings,
    )
    total = _checkpoint_bytes(request)
    if total is None:
        return replace(nothing, reasons=(why, "Without the checkpoint's size not even a band can be given."))
    least, most = _band(request, architecture, total)
    reasons = (why, f"From the checkpoint's {gib(total)}: {gib(least)} to {gib(most)} of weights per rank.")
    stages = tuple(
        StageWeights(first, count, {"checkpoint": most})
        for first, count in stage_layers(len(architecture.layers), request.pipeline_parallel_size)
    )
    parts = parts_of(request, architecture, stages)
    rooms = rooms_of(request, parts)
    specs = layer_specs(architecture, cache_format(request, architecture, quantization))
    geometry = cache_geometry(
        specs, [(stage.first_layer, stage.layers) for stage in stages], request_shape(request, architecture)
    )
    if rooms is None or geometry is None:
        return replace(nothing, reasons=reasons)
    kv_bytes = [
        sum(
            spec.bytes_per_token
            for layer in specs[s.first_layer : s.first_layer + s.layers]
            for spec in layer
        )
        for s in stages
    ]
    memory = memory_of(request, parts, rooms, geometry, kv_bytes, exact=False)
    room = min(rooms.least)
    hint = (
        "little speaks against it"
        if room > 0 and geometry.fits_one_request(rooms.least)
        else "it may not fit"
    )
    return replace(nothing, reasons=(*reasons, f"With plain attention in every layer {hint}."), memory=memory)


def _checkpoint_bytes(request: PlanRequest) -> int | None:
    if request.checkpoint_bytes:
        return request.checkpoint_bytes
    if request.tensors:
        return sum(group.total_bytes for group in request.tensors)
    return None


def _band(request: PlanRequest, architecture: Architecture, total: int) -> tuple[int, int]:
    """Least and most weights of one rank: an even share, and the embedding and head on every stage."""
    ranks = request.tensor_parallel_size * request.pipeline_parallel_size
    rows = padded_vocabulary(architecture.vocab_size) // request.tensor_parallel_size
    copies = 2 * rows * architecture.hidden_size * architecture.bytes_per_element
    extra = copies if request.pipeline_parallel_size > 1 else 0
    return int(total / ranks * LEAST_SHARE), int(total / ranks * MOST_SHARE) + extra
