"""Whether a deployment can be placed on the cluster as it is, with the arithmetic. Pure.

A tensor-parallel group needs its accelerators on one node; pipeline stages may lie on different nodes.
Without accelerators all ranks share one node (the engine's CPU build starts them as processes there).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from serving.accelerators import usable_bytes
from serving.errors import NotPlaceable
from serving.spec import EngineSpec

GIB = 1 << 30
CPU_RANK_OVERHEAD_BYTES = 1_500 << 20
"""Resident memory of one CPU rank beside weights and KV cache (measured 1.3 to 1.5 GiB with vLLM 0.29)."""
GPU_MEMORY_UTILIZATION = 0.92
"""vLLM 0.29's default share of an accelerator's memory."""
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Node:
    """One node of the cluster: what it has, whether or not somebody uses it."""

    node_id: str
    name: str
    alive: bool
    cpus: int
    memory_bytes: int
    accelerators: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What one deployment holds or wants: `replicas` times (stages × ranks per stage) accelerators."""

    deployment: str
    accelerator_type: str | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    replicas: int

    @property
    def per_replica(self) -> int:
        """Accelerators or CPU cores of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


def claim_of(*, deployment: str, engine: EngineSpec, min_replicas: int) -> Claim:
    """The claim a deployment makes: at least one replica, since one has to start."""
    return Claim(
        deployment=deployment,
        accelerator_type=engine.accelerator_type,
        tensor_parallel_size=engine.tensor_parallel_size,
        pipeline_parallel_size=engine.pipeline_parallel_size,
        replicas=max(1, min_replicas),
    )


def free_by_node(
    accelerator_type: str | None, *, nodes: Iterable[Node], claims: Iterable[Claim]
) -> tuple[dict[str, int], dict[str, int]]:
    """(what each live node has of the type, what no claim takes of it), by node id; nodes without are left
    out. Claims that find no room take nothing: they wait themselves."""
    counted = {node.node_id: _count(node, accelerator_type) for node in nodes if node.alive}
    total = {node_id: count for node_id, count in counted.items() if count}
    free = dict(total)
    for claim in claims:
        if claim.accelerator_type == accelerator_type:
            _take(claim, free)
    return total, free


def check_placeable(
    wanted: Claim,
    *,
    engine: EngineSpec,
    nodes: Iterable[Node],
    others: Iterable[Claim],
    weight_bytes: int | None = None,
    parameters: int | None = None,
) -> list[str]:
    """The arithmetic, line by line, when it fits; raises NotPlaceable with the same lines when not."""
    alive = [node for node in nodes if node.alive]
    held = [claim for claim in others if claim.accelerator_type == wanted.accelerator_type]
    lines = [_needs_line(wanted), *_has_lines(wanted, alive), *_held_lines(held)]
    _check_ever(wanted, alive, lines)
    lines += _check_memory(engine, alive, weight_bytes, parameters)
    free = {node.node_id: _count(node, wanted.accelerator_type) for node in alive}
    for claim in held:
        _take(claim, free)
    left_over = dict(free)
    if not _take(wanted, left_over):
        left = sum(free.values())
        raise NotPlaceable(
            f"{wanted.deployment} cannot be placed: it needs"
            f" {_amount(wanted, wanted.per_replica * wanted.replicas)}"
            f" and {_amount(wanted, left)} {'is' if left == 1 else 'are'} free."
            " Stop or shrink another deployment, or choose a smaller topology.",
            arithmetic=lines,
        )
    return lines


def _check_ever(wanted: Claim, alive: list[Node], lines: list[str]) -> None:
    empty = {node.node_id: _count(node, wanted.accelerator_type) for node in alive}
    if _take(replace(wanted, replicas=1), dict(empty)):
        return
    largest = max(empty.values(), default=0)
    if wanted.accelerator_type is not None and sum(empty.values()) == 0:
        known = sorted({name for node in alive for name in node.accelerators})
        message = (
            f"The cluster has no {wanted.accelerator_type}."
            f" It has {', '.join(known) if known else 'no accelerators at all, only CPU'}."
        )
        raise NotPlaceable(message, arithmetic=lines, field="accelerator_type")
    if wanted.accelerator_type is None:
        message = (
            f"One replica needs {_amount(wanted, wanted.per_replica)} on one node"
            f" (TP {wanted.tensor_parallel_size} × PP {wanted.pipeline_parallel_size});"
            f" the largest node has {largest}."
        )
        raise NotPlaceable(message, arithmetic=lines, field="tensor_parallel_size")
    message = (
        f"One replica needs {wanted.pipeline_parallel_size} × {wanted.tensor_parallel_size}"
        f" {wanted.accelerator_type}, each group on one node; the cluster has {sum(empty.values())},"
        f" at most {largest} on one node."
    )
    raise NotPlaceable(message, arithmetic=lines, field="tensor_parallel_size")


def _check_memory(
    engine: EngineSpec, alive: list[Node], weight_bytes: int | None, parameters: int | None
) -> list[str]:
    if not weight_bytes:
        return ["Weights: size unknown until the model is read"]
    total = weight_bytes
    if engine.dtype in DTYPE_BYTES and parameters:
        total = (
            max(1, parameters) * DTYPE_BYTES[engine.dtype]
            if _is_unquantized(weight_bytes, parameters)
            else total
        )
    ranks, kv = engine.accelerators_per_replica, 0
    per_rank = total // ranks
    if engine.accelerator_type is None:
        kv = (engine.kv_cache_memory_bytes or 0) * ranks
        need = total + kv + CPU_RANK_OVERHEAD_BYTES * ranks
        largest = max((node.memory_bytes for node in alive), default=0)
        line = (
            f"Memory: weights {_gib(total)} + KV cache {_gib(kv)} + {ranks} × {_gib(CPU_RANK_OVERHEAD_BYTES)}"
            f" engine = {_gib(need)}; the largest node has {_gib(largest)}"
        )
        fits = need <= largest or largest == 0
    else:
        usable = usable_bytes(engine.accelerator_type)
        if usable is None:
            return [f"Weights: {_gib(per_rank)} per {engine.accelerator_type}; its memory is not known here"]
        budget = int(usable * GPU_MEMORY_UTILIZATION)
        line = (
            f"Memory: weights {_gib(total)} ÷ {ranks} = {_gib(per_rank)} per accelerator;"
            f" {engine.accelerator_type} gives the engine {_gib(budget)} of {_gib(usable)}"
        )
        fits = per_rank < budget
    if not fits:
        kv_is_the_reason = engine.accelerator_type is None and kv > total
        what = "KV cache does" if kv_is_the_reason else "weights do"
        field = "kv_cache_memory_bytes" if kv_is_the_reason else "tensor_parallel_size"
        raise NotPlaceable(f"The {what} not fit. {line}.", arithmetic=[line], field=field)
    return [line]


def _is_unquantized(weight_bytes: int, parameters: int) -> bool:
    return weight_bytes >= 1.9 * parameters


def _take(claim: Claim, free: dict[str, int]) -> bool:
    """Take the claim out of `free` (node id -> count), first fit, largest node first; False if it cannot."""
    groups = 1 if claim.accelerator_type is None else claim.pipeline_parallel_size
    size = claim.per_replica if claim.accelerator_type is None else claim.tensor_parallel_size
    for _ in range(claim.replicas * groups):
        node = max((n for n in free if free[n] >= size), key=lambda n: free[n], default=None)
        if node is None:
            return False
        free[node] -= size
    return True


def _count(node: Node, accelerator_type: str | None) -> int:
    return node.cpus if accelerator_type is None else node.accelerators.get(accelerator_type, 0)


def _amount(claim: Claim, count: int) -> str:
    if claim.accelerator_type is None:
        return f"{count} CPU core{'' if count == 1 else 's'}"
    return f"{count} × {claim.accelerator_type}"


def _needs_line(claim: Claim) -> str:
    plural = "" if claim.replicas == 1 else "s"
    return (
        f"Needs: {claim.replicas} replica{plural} × TP {claim.tensor_parallel_size}"
        f" × PP {claim.pipeline_parallel_size} = {_amount(claim, claim.per_replica * claim.replicas)}"
    )


def _has_lines(claim: Claim, alive: list[Node]) -> list[str]:
    if not alive:
        return ["The cluster has no live node"]
    return [f"{node.name}: {_amount(claim, _count(node, claim.accelerator_type))}" for node in alive]


def _held_lines(held: list[Claim]) -> list[str]:
    return [
        f"{claim.deployment} holds {_amount(claim, claim.per_replica * claim.replicas)}" for claim in held
    ]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB // 10 else f"{size_bytes / (1 << 20):.0f} MiB"
