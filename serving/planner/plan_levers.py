"""Which single change would make a tight or missing plan fit, found by trying it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from serving.planner.architecture import Architecture
from serving.planner.memory import parts_of, requested_bytes, rooms_of
from serving.planner.plan_accounting import Account, account_of, spare_bytes, weights_of
from serving.planner.quantization_reading import Quantization
from serving.planner.refusals import refusals
from serving.planner.request import PlanRequest
from serving.planner.result import Verdict
from serving.planner.weights import Weights

SEQUENCES = (512, 256, 128, 64, 32, 16)
BATCHES = (8192, 4096, 2048, 1024, 512)
LENGTH_STEP = 256
SHORTEST_LENGTH = 1024
MOST_STAGES = 8
DOUBLINGS = (1, 2, 4, 8, 16, 32, 64)

Change = tuple[str, PlanRequest]


def best_lever(
    request: PlanRequest, architecture: Architecture, quantization: Quantization, verdict: Verdict
) -> str:
    """A sentence with the first change that makes it fit at the upper estimate; empty where none is found."""

    known = weights_of(request, architecture, quantization)

    def account(changed: PlanRequest) -> Account | None:
        if refusals(changed, architecture, quantization):
            return None
        is_same = _topology(changed) == _topology(request)
        weights = known if is_same else weights_of(changed, architecture, quantization)
        if weights.problems or not _leaves_room(changed, architecture, weights):
            return None
        found = account_of(changed, architecture, quantization, weights, with_memory=False)
        return None if found.problems or found.rooms is None else found

    for words, changed in _changes(request, verdict, account):
        if _is_hopeless(changed, request, known):
            continue
        found = account(changed)
        if found is not None and _holds(changed, found):
            return f"{words} makes it fit at the upper estimate too."
    return ""


def _is_hopeless(changed: PlanRequest, request: PlanRequest, known: Weights) -> bool:
    """Whether an even share of the weights is too much already: dividing further never makes them fewer."""
    usable = requested_bytes(changed)
    if usable is None or known.problems or request.cpu_offload_gib:
        return False
    before = request.tensor_parallel_size
    share = changed.tensor_parallel_size * changed.pipeline_parallel_size
    return sum(stage.total_bytes for stage in known.stages) * before > usable * share


def _leaves_room(request: PlanRequest, architecture: Architecture, weights: Weights) -> bool:
    """Whether any cache is left at the upper estimate: dividing the cache costs more than knowing this."""
    parts = parts_of(request, architecture, weights.stages)
    spare = spare_bytes(request, Account(parts), upper=True)
    rooms = rooms_of(request, parts)
    return (spare is None or spare >= 0) and rooms is not None and min(rooms.least) > 0


def _topology(request: PlanRequest) -> tuple[int, int]:
    return request.tensor_parallel_size, request.pipeline_parallel_size


def _holds(request: PlanRequest, account: Account) -> bool:
    spare = spare_bytes(request, account, upper=True)
    return account.fits(upper=True) and (spare is None or spare >= 0)


def _changes(
    request: PlanRequest, verdict: Verdict, account: Callable[[PlanRequest], Account | None]
) -> Iterator[Change]:
    assert request.max_num_seqs is not None and request.max_num_batched_tokens is not None
    if request.accelerator is not None and request.kv_cache_memory_bytes is None:
        for count in SEQUENCES:
            if count < request.max_num_seqs:
                yield f"Lowering max_num_seqs to {count}", replace(request, max_num_seqs=count)
        for batch in BATCHES:
            if batch < request.max_num_batched_tokens:
                changed = replace(
                    request, max_num_batched_tokens=batch, max_num_seqs=min(request.max_num_seqs, batch, 256)
                )
                yield (
                    f"Lowering max_num_batched_tokens to {batch} and max_num_seqs to {changed.max_num_seqs}",
                    changed,
                )
        if request.kv_cache_dtype == "auto":
            yield "An FP8 KV cache (kv_cache_dtype fp8)", replace(request, kv_cache_dtype="fp8")
    yield from _shorter(request, account)
    if request.accelerator is not None:
        yield from _more_ranks(request)


def _shorter(request: PlanRequest, account: Callable[[PlanRequest], Account | None]) -> Iterator[Change]:
    """The longest context that fits at the upper estimate, rounded down."""
    found = account(request)
    if found is None or found.geometry is None or not found.geometry.groups or min(found.rooms.least) <= 0:  # type: ignore[union-attr]
        return
    length = found.longest_request(upper=True) // LENGTH_STEP * LENGTH_STEP
    if SHORTEST_LENGTH <= length < (request.max_model_len or 0):
        yield f"Lowering max_model_len to {length:,}", replace(request, max_model_len=length)


def _more_ranks(request: PlanRequest) -> Iterator[Change]:
    """Larger topologies, the fewest accelerators first; a tensor-parallel group never leaves its node."""
    assert request.accelerator is not None
    tensor, pipeline = _topology(request)
    per_node = request.accelerator.accelerators_per_node
    pairs = [
        (tensor * more, pipeline * stages)
        for more in DOUBLINGS
        if more == 1 or tensor * more <= per_node
        for stages in DOUBLINGS
        if stages == 1 or pipeline * stages <= MOST_STAGES
    ]
    for ranks, stages in sorted(pairs[1:], key=lambda pair: (pair[0] * pair[1], pair[1])):
        words = f"Tensor parallel over {ranks} accelerators" if ranks != tensor else ""
        if stages != pipeline:
            words = f"{words} × {stages} pipeline stages" if words else f"{stages} pipeline stages"
            nodes = -(-stages // max(1, per_node // ranks))
            words += f" (over {nodes} nodes)" if nodes > 1 else ""
        yield words, replace(request, tensor_parallel_size=ranks, pipeline_parallel_size=stages)
