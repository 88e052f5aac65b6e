"""Whether a deployment can be placed on the cluster as it is, with the arithmetic. Pure.

Only counts: what a rank needs is the planner's answer (serving/planner), and where Ray will put the ranks is
predicted by serving/planner/placement_groups.py. A tensor-parallel group needs its accelerators on one node
unless it may span them; pipeline stages may lie on different nodes. Without accelerators all ranks share one
node (the engine's CPU build starts them as processes there), whose memory they share with other deployments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from serving.errors import NotPlaceable
from serving.planner.placement_groups import (
    CPU,
    GPU,
    PlacementGroup,
    Topology,
    assign,
    left_after,
    node_resources,
    placement_group,
    split_reason,
    type_resource,
)
from serving.planner.result import Plan
from serving.spec import EngineSpec

GIB = 1 << 30
ENOUGH_CPUS = 1e6
NO_CORE = "Each replica needs a CPU core beside its accelerators, and no node with them has one left"


@dataclass(frozen=True)
class Node:
    """One node of the cluster: what it has, and what of it is held by others than our deployments."""

    node_id: str
    name: str
    alive: bool
    cpus: int
    memory_bytes: int
    accelerators: dict[str, int] = field(default_factory=dict)
    cpus_foreign: float = 0.0
    accelerators_foreign: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What one deployment holds or wants: `replicas` times (stages × ranks per stage) accelerators.

    `memory_bytes`: what one replica surely takes of its node's memory; 0 where it is not known or lies in
    accelerators.
    """

    deployment: str
    accelerator_type: str | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    replicas: int
    tp_may_span_nodes: bool = False
    memory_bytes: int = 0

    @property
    def per_replica(self) -> int:
        """Accelerators or CPU cores of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def group(self) -> PlacementGroup:
        """What Ray is asked for, for each replica."""
        return placement_group(self, tp_may_span_nodes=self.tp_may_span_nodes)


def claim_of(*, deployment: str, engine: EngineSpec, min_replicas: int, plan: Plan | None = None) -> Claim:
    """The claim a deployment makes: at least one replica, since one has to start."""
    return Claim(
        deployment=deployment,
        accelerator_type=engine.accelerator_type,
        tensor_parallel_size=engine.tensor_parallel_size,
        pipeline_parallel_size=engine.pipeline_parallel_size,
        replicas=max(1, min_replicas),
        tp_may_span_nodes=engine.tp_may_span_nodes,
        memory_bytes=node_memory_of(plan, engine),
    )


def node_memory_of(plan: Plan | None, engine: Topology) -> int:
    """Bytes that one CPU replica surely takes of its node, by its plan; 0 on accelerators or when unknown."""
    if engine.accelerator_type is not None or plan is None or plan.memory is None:
        return 0
    memory = plan.memory
    if not memory.weights_are_exact:
        return 0
    beside = memory.kv_cache_bytes + memory.runtime.low
    return engine.tensor_parallel_size * sum(stage.weight_bytes + beside for stage in memory.stages)


class Floor:
    """What is free on each live node: resources by Ray's names, and memory in bytes (None: not known)."""

    def __init__(self, nodes: Iterable[Node], *, emptied: bool = False) -> None:
        """`emptied`: as if nobody but us were there."""
        alive = [node for node in nodes if node.alive]
        self.free: Mapping[str, Mapping[str, float]] = {
            node.node_id: _resources(node, emptied=emptied) for node in alive
        }
        self.memory: dict[str, int | None] = {node.node_id: node.memory_bytes or None for node in alive}

    def take(self, claim: Claim) -> str | None:
        """Take all replicas of the claim; None, or why the next one finds no place (then what came before it
        stays taken): a sentence, or "" where there simply is no room."""
        for _ in range(claim.replicas):
            nodes = assign(claim.group, self.free)
            if nodes is None:
                return ""
            if reason := split_reason(claim.group, nodes):
                return reason
            self.free = left_after(claim.group, nodes, self.free)
            if reason := self._take_memory(claim, nodes[0]):
                return reason
        return None

    def count(self, accelerator_type: str | None) -> dict[str, int]:
        """Free accelerators of the type, or whole free CPU cores, by node id."""
        if accelerator_type is None:
            return {node_id: int(free[CPU]) for node_id, free in self.free.items()}
        return {
            node_id: int(free[GPU])
            for node_id, free in self.free.items()
            if type_resource(accelerator_type) in free
        }

    def cpus(self) -> dict[str, float]:
        """Free CPU cores by node id."""
        return {node_id: free[CPU] for node_id, free in self.free.items()}

    def with_cpus(self) -> Floor:
        """The same with CPU cores enough for everything."""
        other = Floor(())
        other.free = {node_id: {**free, CPU: ENOUGH_CPUS} for node_id, free in self.free.items()}
        other.memory = dict(self.memory)
        return other

    def _take_memory(self, claim: Claim, node_id: str) -> str:
        has = self.memory[node_id]
        if not claim.memory_bytes or has is None:
            return ""
        self.memory[node_id] = has - claim.memory_bytes
        if has >= claim.memory_bytes:
            return ""
        left = gib(max(0, has))
        return f"One replica needs {gib(claim.memory_bytes)} of its node's memory and {left} are left"


def floor_of(nodes: Iterable[Node], claims: Iterable[Claim]) -> Floor:
    """What is free beside the claims. Those that find no room take none: they wait themselves."""
    floor = Floor(nodes)
    for claim in claims:
        floor.take(claim)
    return floor


def check_placeable(
    wanted: Claim,
    *,
    nodes: Iterable[Node],
    others: Iterable[Claim],
    plan: Plan | None = None,
) -> list[str]:
    """The arithmetic, line by line, when it fits; raises NotPlaceable with the same lines when not.

    `plan` only adds its lines: whether the engine fits in its accelerators is the planner's verdict.
    """
    alive = [node for node in nodes if node.alive]
    claims = list(others)
    held = [claim for claim in claims if claim.accelerator_type == wanted.accelerator_type]
    lines = [
        _needs_line(wanted),
        *_has_lines(wanted, alive),
        *_held_lines(held),
        *_memory_lines(wanted, held, alive),
        *(plan.arithmetic if plan else ()),
    ]
    _check_ever(wanted, alive, lines)
    floor = floor_of(alive, claims)
    left, roomy = sum(floor.count(wanted.accelerator_type).values()), floor.with_cpus()
    reason = floor.take(wanted)
    if reason is None:
        return lines
    if not reason and wanted.accelerator_type is not None and roomy.take(wanted) is None:
        reason = NO_CORE
    raise NotPlaceable(_no_room(wanted, left, reason), arithmetic=lines)


def _no_room(wanted: Claim, left: int, reason: str) -> str:
    advice = " Stop or shrink another deployment, or choose a smaller topology."
    if reason:
        return f"{wanted.deployment} cannot be placed: {reason.rstrip('.')}.{advice}"
    return (
        f"{wanted.deployment} cannot be placed: it needs"
        f" {_amount(wanted, wanted.per_replica * wanted.replicas)}"
        f" and {_amount(wanted, left)} {'is' if left == 1 else 'are'} free.{advice}"
    )


def _check_ever(wanted: Claim, alive: list[Node], lines: list[str]) -> None:
    """Raise where not even one replica finds a place when nobody else is there."""
    floor = Floor(alive, emptied=True)
    counts = floor.count(wanted.accelerator_type)
    one, roomy = replace(wanted, replicas=1), floor.with_cpus()
    reason = floor.take(one)
    if reason is None:
        return
    if not reason and wanted.accelerator_type is not None and roomy.take(one) is None:
        reason = NO_CORE
    raise NotPlaceable(
        _never(wanted, counts, alive, reason),
        arithmetic=lines,
        field="accelerator_type"
        if wanted.accelerator_type is not None and not sum(counts.values())
        else "tensor_parallel_size",
    )


def _never(wanted: Claim, counts: dict[str, int], alive: list[Node], reason: str) -> str:
    kind, largest = wanted.accelerator_type, max(counts.values(), default=0)
    if kind is not None and not sum(counts.values()):
        known = sorted({name for node in alive for name in node.accelerators})
        return (
            f"The cluster has no {kind}. It has {', '.join(known)}."
            if known
            else f"The cluster has no {kind}. It has no accelerators at all, only CPU."
        )
    if reason:
        return f"{reason.rstrip('.')}; no node of the cluster has more." if kind is None else reason
    if kind is None:
        return (
            f"One replica needs {_amount(wanted, wanted.per_replica)} on one node"
            f" (TP {wanted.tensor_parallel_size} × PP {wanted.pipeline_parallel_size});"
            f" the largest node has {largest}."
        )
    where = "" if wanted.tp_may_span_nodes else ", each group on one node"
    return (
        f"One replica needs {wanted.pipeline_parallel_size} × {wanted.tensor_parallel_size}"
        f" {kind}{where}; the cluster has {sum(counts.values())}, at most {largest} on one node."
    )


def _resources(node: Node, *, emptied: bool) -> dict[str, float]:
    cpus, accelerators = float(node.cpus), dict(node.accelerators)
    if not emptied:
        cpus = max(0.0, cpus - node.cpus_foreign)
        accelerators = {
            kind: max(0, count - node.accelerators_foreign.get(kind, 0))
            for kind, count in accelerators.items()
        }
    return node_resources(cpus=cpus, accelerators=accelerators)


def _count(node: Node, accelerator_type: str | None) -> int:
    return node.cpus if accelerator_type is None else node.accelerators.get(accelerator_type, 0)


def _foreign(node: Node, accelerator_type: str | None) -> float:
    if accelerator_type is None:
        return node.cpus_foreign
    return node.accelerators_foreign.get(accelerator_type, 0)


def _amount(claim: Claim, count: float) -> str:
    if claim.accelerator_type is None:
        return f"{count:g} CPU core{'' if count == 1 else 's'}"
    return f"{count:g} × {claim.accelerator_type}"


def _needs_line(claim: Claim) -> str:
    plural = "" if claim.replicas == 1 else "s"
    return (
        f"Needs: {claim.replicas} replica{plural} × TP {claim.tensor_parallel_size}"
        f" × PP {claim.pipeline_parallel_size} = {_amount(claim, claim.per_replica * claim.replicas)}"
    )


def _has_lines(claim: Claim, alive: list[Node]) -> list[str]:
    if not alive:
        return ["The cluster has no live node"]
    lines = []
    for node in alive:
        foreign = _foreign(node, claim.accelerator_type)
        less = f", {_amount(claim, foreign)} held by others than deployments" if foreign else ""
        lines.append(f"{node.name}: {_amount(claim, _count(node, claim.accelerator_type))}{less}")
    return lines


def _held_lines(held: list[Claim]) -> list[str]:
    return [
        f"{claim.deployment} holds {_amount(claim, claim.per_replica * claim.replicas)}"
        + (f" and {gib(claim.memory_bytes * claim.replicas)} of memory" if claim.memory_bytes else "")
        for claim in held
    ]


def _memory_lines(wanted: Claim, held: list[Claim], alive: list[Node]) -> list[str]:
    """What a CPU replica takes of its node. Empty on accelerators, where the plan has the sum."""
    if wanted.accelerator_type is not None:
        return []
    if not wanted.memory_bytes:
        return ["Memory: not known until the model's files are read"]
    largest = max((node.memory_bytes for node in alive), default=0)
    needed = gib(wanted.memory_bytes)
    return [f"Memory: one replica needs {needed} of its node; the largest node has {gib(largest)}"]


def gib(size_bytes: int) -> str:
    """A size for people, with its unit."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB // 10 else f"{size_bytes / (1 << 20):.0f} MiB"
