"""The placement group of one replica: what Ray is asked for, which rank sits where, where Ray will put it.

Pure. The running code (serving/cluster) hands Ray exactly `placement_group(...)`, so a drawing made from it
cannot differ from what is asked. `assign` predicts Ray's own choice; docs/decisions/0003-placement.md says
why the bundles are as they are. Must not import ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

CPU = "CPU"
GPU = "GPU"
TYPE_HINT = 0.001
"""Share of a node's `accelerator_type:…` resource (1 per node) that binds a bundle to that type of node."""
Strategy = Literal["PACK", "STRICT_PACK"]
NodeResources = Mapping[str, float]
"""What a node has free, by Ray's names: CPU, GPU, accelerator_type:H100 …"""


class Topology(Protocol):
    """What decides the placement: an EngineSpec has it, so has a Claim."""

    @property
    def accelerator_type(self) -> str | None:
        """Ray's name of the accelerator; None serves on CPU."""

    @property
    def tensor_parallel_size(self) -> int:
        """Ranks of one stage."""

    @property
    def pipeline_parallel_size(self) -> int:
        """Stages of one replica."""


@dataclass(frozen=True)
class Shape:
    """A topology by itself, where no EngineSpec is at hand."""

    accelerator_type: str | None
    tensor_parallel_size: int
    pipeline_parallel_size: int


@dataclass(frozen=True)
class Rank:
    """One rank of a replica, by pipeline stage and by place in the stage's tensor-parallel group."""

    stage: int
    tensor_rank: int


@dataclass(frozen=True)
class PlacementGroup:
    """Bundles and strategy as Ray takes them. Bundle i is for `ranks[i]`; 0 also holds the replica."""

    bundles: list[dict[str, float]]
    strategy: Strategy
    accelerator_type: str | None
    tensor_parallel_size: int
    tp_may_span_nodes: bool = False

    @property
    def ranks(self) -> list[Rank]:
        """Which rank each bundle is for, in vLLM's order: the tensor rank counts fastest."""
        return [
            Rank(stage=index // self.tensor_parallel_size, tensor_rank=index % self.tensor_parallel_size)
            for index in range(len(self.bundles))
        ]


def placement_group(engine: Topology, *, tp_may_span_nodes: bool = False) -> PlacementGroup:
    """The placement group that one replica of `engine` gets.

    One bundle per rank, because vLLM's Ray executor refuses a bundle with more than one GPU. A single stage
    must have one node (STRICT_PACK) unless its ranks may span nodes; several stages are packed, which fills
    one node after another. On CPU all ranks are child processes of the replica and must share its node.
    """
    count = engine.tensor_parallel_size * engine.pipeline_parallel_size
    kind = engine.accelerator_type
    if kind is None:
        bundles = [{CPU: 1.0} for _ in range(count)]
    else:
        bundles = [{GPU: 1.0, type_resource(kind): TYPE_HINT} for _ in range(count)]
        bundles[0][CPU] = 1.0
    one_node = kind is None or (engine.pipeline_parallel_size == 1 and not tp_may_span_nodes)
    return PlacementGroup(
        bundles=bundles,
        strategy="STRICT_PACK" if one_node else "PACK",
        accelerator_type=kind,
        tensor_parallel_size=engine.tensor_parallel_size,
        tp_may_span_nodes=tp_may_span_nodes,
    )


def assign(group: PlacementGroup, nodes_free: Mapping[str, NodeResources]) -> list[str] | None:
    """Node id of each bundle as Ray 2.60 will choose it, or None where Ray would leave the group pending.

    Follows Ray's own policy: the node with the largest free share left after the bundle comes first; PACK
    then fills it with as many bundles as go in. Between equal nodes Ray's choice is arbitrary, here it is the
    smallest id. Whether a tensor-parallel group ends up on two nodes is for `split_stages` to say.
    """
    free = {node_id: dict(resources) for node_id, resources in nodes_free.items()}
    if group.strategy == "STRICT_PACK":
        node_id = _best_node(_sum_of(group.bundles), free)
        return None if node_id is None else [node_id] * len(group.bundles)
    chosen: dict[int, str] = {}
    waiting = sorted(range(len(group.bundles)), key=lambda index: -group.bundles[index].get(CPU, 0.0))
    while waiting:
        node_id = _best_node(group.bundles[waiting[0]], free)
        if node_id is None:
            return None
        for index in list(waiting):
            if _fits(group.bundles[index], free[node_id]):
                _subtract(group.bundles[index], free[node_id])
                chosen[index] = node_id
                waiting.remove(index)
    return [chosen[index] for index in range(len(group.bundles))]


def left_after(
    group: PlacementGroup, nodes: Sequence[str], nodes_free: Mapping[str, NodeResources]
) -> dict[str, dict[str, float]]:
    """What is free once the group holds `nodes` (one id per bundle, as `assign` gives them)."""
    free = {node_id: dict(resources) for node_id, resources in nodes_free.items()}
    for bundle, node_id in zip(group.bundles, nodes, strict=True):
        _subtract(bundle, free[node_id])
    return free


def bundles_by_rank(nodes: Sequence[str]) -> list[int]:
    """The bundle of each rank, given the node of each bundle: neighbours in rank share a node where possible.

    Nodes come in the order of their first bundle, so rank 0 is with the replica, and a group that Ray placed
    bundle after bundle keeps its order.
    """
    first = {node_id: index for index, node_id in reversed(list(enumerate(nodes)))}
    return sorted(range(len(nodes)), key=lambda index: (first[nodes[index]], index))


def split_stages(group: PlacementGroup, nodes: Sequence[str]) -> list[int]:
    """Stages whose tensor-parallel group lies on more than one node, given the node of each bundle."""
    ordered = [nodes[index] for index in bundles_by_rank(nodes)]
    size = group.tensor_parallel_size
    return [
        stage
        for stage in range(len(ordered) // size)
        if len(set(ordered[stage * size : (stage + 1) * size])) > 1
    ]


def split_reason(group: PlacementGroup, nodes: Sequence[str]) -> str:
    """Why a replica placed so refuses to start, or "": a tensor-parallel group of it would span nodes."""
    split = [] if group.tp_may_span_nodes else split_stages(group, nodes)
    if not split:
        return ""
    size = group.tensor_parallel_size
    held = " + ".join(str(count) for count in Counter(nodes).values())
    return (
        f"The tensor-parallel group of {size} in stage {split[0]} would span nodes: Ray found room for"
        f" {held} ranks on {len(set(nodes))} nodes. Free accelerators in groups of {size} per node, or"
        " choose a smaller tensor-parallel size."
    )


def type_resource(accelerator_type: str) -> str:
    """Ray's name for "this node has accelerators of that type"."""
    return f"accelerator_type:{accelerator_type}"


def node_resources(*, cpus: float, accelerators: Mapping[str, float]) -> dict[str, float]:
    """A node's free resources in Ray's names from free CPUs and free accelerators by type."""
    resources = {CPU: float(cpus), GPU: float(sum(accelerators.values()))}
    return {**resources, **{type_resource(kind): 1.0 for kind in accelerators}}


def resources_of(
    group: PlacementGroup, counts: Mapping[str, int], cpus: Mapping[str, float]
) -> dict[str, NodeResources]:
    """Nodes in Ray's names from free accelerators (on CPU: cores); unnamed in `cpus`: cores enough."""
    kind = group.accelerator_type
    if kind is None:
        return {node: node_resources(cpus=count, accelerators={}) for node, count in counts.items()}
    return {
        node: node_resources(cpus=cpus.get(node, float(len(group.bundles))), accelerators={kind: count})
        for node, count in counts.items()
    }


def _best_node(needed: NodeResources, free: Mapping[str, NodeResources]) -> str | None:
    scored = [
        (-_score(needed, resources), node_id)
        for node_id, resources in free.items()
        if _fits(needed, resources)
    ]
    return min(scored)[1] if scored else None


def _score(needed: NodeResources, free: NodeResources) -> float:
    """Ray's score of a node: the share of each needed resource that stays free, added up."""
    return sum((free[name] - amount) / free[name] for name, amount in needed.items())


def _fits(needed: NodeResources, free: NodeResources) -> bool:
    # Ray counts in ten-thousandths; so that 0.001 taken eight times leaves what it should.
    return all(round(free.get(name, 0.0) - amount, 4) >= 0 for name, amount in needed.items())


def _subtract(needed: NodeResources, free: dict[str, float]) -> None:
    for name, amount in needed.items():
        free[name] = round(free[name] - amount, 4)


def _sum_of(bundles: Sequence[NodeResources]) -> dict[str, float]:
    total: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            total[name] = round(total.get(name, 0.0) + amount, 4)
    return total
