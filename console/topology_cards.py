"""The choices of a topology beside the deployment form: three kinds, each with its best split. Read only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from console.models import RegisteredModel
from console.placements import known_nodes, other_claims
from console.planning import Load, checkpoint_of, cluster_view, rank_topologies, request_of, with_load
from serving.placement import free_by_node
from serving.planner.placement_drawing import Drawing, Room, draw
from serving.planner.placement_groups import PlacementGroup, Shape, placement_group
from serving.planner.topologies import Topology
from serving.spec import EngineSpec

CPU_CORES_DRAWN = 8


@dataclass(frozen=True)
class Card:
    """One choice: its topology, how it is split in words, where it would lie, and whether it is chosen."""

    title: str
    split: str
    topology: Topology
    drawing: Drawing
    chosen: bool


@dataclass(frozen=True)
class Choices:
    """The cards and all ranked topologies behind them."""

    cards: list[Card]
    ranked: list[Topology]


KINDS: tuple[tuple[str, Callable[[Topology], bool]], ...] = (
    ("Single", lambda one: one.accelerators == 1),
    ("Tensor parallel", lambda one: one.tensor_parallel_size > 1 and one.pipeline_parallel_size == 1),
    ("Tensor × pipeline", lambda one: one.pipeline_parallel_size > 1),
)


def choices(
    engine: EngineSpec, model: RegisteredModel, load: Load, *, name: str, tp_may_span_nodes: bool = False
) -> Choices | None:
    """Cards for what the form holds; None when the model's files are not known here. Raises BadPlanInput."""
    checkpoint = checkpoint_of(model)
    if checkpoint is None:
        return None
    nodes = known_nodes()
    request = with_load(request_of(engine, checkpoint, nodes=nodes), load)
    ranked = rank_topologies(
        request, cluster_view(engine.accelerator_type, but=name), tp_may_span_nodes=tp_may_span_nodes
    )
    rooms = _rooms(engine.accelerator_type, but=name)
    usual = request.accelerator.accelerators_per_node if request.accelerator else CPU_CORES_DRAWN
    wanted = (engine.tensor_parallel_size, engine.pipeline_parallel_size)
    shown = [(title, next(filter(is_kind, ranked), None)) for title, is_kind in KINDS]
    if all(one is None or _sizes(one) != wanted for _, one in shown):
        shown.append(("Chosen", next((one for one in ranked if _sizes(one) == wanted), None)))
    cards = [
        Card(
            title=title,
            split=_split(one),
            topology=one,
            drawing=draw(_group(engine, one), rooms, usual_per_node=usual),
            chosen=_sizes(one) == wanted,
        )
        for title, one in shown
        if one is not None
    ]
    return Choices(cards, ranked)


def _rooms(accelerator_type: str | None, *, but: str) -> list[Room]:
    nodes = known_nodes()
    total, free = free_by_node(accelerator_type, nodes=nodes, claims=other_claims(but=but))
    return [
        Room(node.node_id, node.name, total[node.node_id], free[node.node_id])
        for node in nodes
        if node.node_id in total
    ]


def _group(engine: EngineSpec, one: Topology) -> PlacementGroup:
    shape = Shape(engine.accelerator_type, one.tensor_parallel_size, one.pipeline_parallel_size)
    return placement_group(shape, tp_may_span_nodes=one.spans_nodes)


def _sizes(one: Topology) -> tuple[int, int]:
    return one.tensor_parallel_size, one.pipeline_parallel_size


def _split(one: Topology) -> str:
    nodes = f"{one.nodes_at_least} nodes" if one.nodes_at_least > 1 else "one node"
    if one.accelerators == 1:
        return "TP 1"
    if one.pipeline_parallel_size == 1:
        return f"TP {one.tensor_parallel_size} · {nodes}"
    return f"TP {one.tensor_parallel_size} × PP {one.pipeline_parallel_size} · {nodes}"
