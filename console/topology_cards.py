"""The choices of a topology beside the deployment form: three kinds, each with its best split. Read only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from console.measured_latency import corrections_for, setup_of
from console.models import Deployment, RegisteredModel
from console.placements import cluster_now, update_of
from console.planning import Load, checkpoint_of, rank_topologies, request_of, view_of, with_load
from serving.placement import Node
from serving.planner.placement_drawing import Drawing, Room, draw
from serving.planner.placement_groups import PlacementGroup, Shape, placement_group
from serving.planner.topologies import ClusterView, Topology
from serving.planner.update_needs import UpdateNeeds
from serving.spec import EngineSpec

CPU_CORES_DRAWN = 8


@dataclass(frozen=True)
class Card:
    """One choice: its topology, how it is split in words, where it would lie, whether it is chosen, and what
    changing to it holds while it is under way (where a deployment is edited)."""

    title: str
    split: str
    topology: Topology
    drawing: Drawing
    chosen: bool
    update: UpdateNeeds | None = None


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


def choices(engine: EngineSpec, model: RegisteredModel, load: Load, *, name: str) -> Choices | None:
    """Cards for what the form holds; None when the model's files are not known here. Raises BadPlanInput.

    `name` is the deployment's own when it is edited: what it holds makes room for its successors.
    """
    checkpoint = checkpoint_of(model)
    if checkpoint is None:
        return None
    now = cluster_now(but=name)
    request = with_load(request_of(engine, checkpoint, nodes=now.nodes), load)
    view = view_of(engine.accelerator_type, now)
    spans = engine.tp_may_span_nodes
    ranked = rank_topologies(
        request, view, tp_may_span_nodes=spans, corrected=corrections_for(setup_of(engine.model_dump()))
    )
    rooms = [
        Room(node.node_id, node.name, total, view.free_by_node[node.node_id], cpus=_cpus(engine, view, node))
        for node in now.nodes
        if (total := view.total_by_node.get(node.node_id))
    ]
    present = _present(name)
    usual = request.accelerator.accelerators_per_node if request.accelerator else CPU_CORES_DRAWN
    wanted = (engine.tensor_parallel_size, engine.pipeline_parallel_size)
    cards = [
        Card(
            title=title,
            split=_split(one),
            topology=one,
            drawing=draw(_group(engine, one), rooms, usual_per_node=usual),
            chosen=_sizes(one) == wanted,
            update=None if present is None else update_of(present, _shape(engine, one), present.min_replicas),
        )
        for title, one in _shown(ranked, wanted)
    ]
    return Choices(cards, ranked)


def _shown(ranked: list[Topology], wanted: tuple[int, int]) -> list[tuple[str, Topology]]:
    """The best of each kind, and what is chosen where it is none of these."""
    shown = [(title, next(filter(is_kind, ranked), None)) for title, is_kind in KINDS]
    if all(one is None or _sizes(one) != wanted for _, one in shown):
        shown.append(("Chosen", next((one for one in ranked if _sizes(one) == wanted), None)))
    return [(title, one) for title, one in shown if one is not None]


def _present(name: str) -> Deployment | None:
    return Deployment.objects.select_related("current_revision").filter(name=name).first() if name else None


def _cpus(engine: EngineSpec, view: ClusterView, node: Node) -> float | None:
    return None if engine.accelerator_type is None else view.cpus_by_node.get(node.node_id)


def _shape(engine: EngineSpec, one: Topology) -> Shape:
    return Shape(engine.accelerator_type, one.tensor_parallel_size, one.pipeline_parallel_size)


def _group(engine: EngineSpec, one: Topology) -> PlacementGroup:
    spans = engine.tp_may_span_nodes or one.spans_nodes
    return placement_group(_shape(engine, one), tp_may_span_nodes=spans)


def _sizes(one: Topology) -> tuple[int, int]:
    return one.tensor_parallel_size, one.pipeline_parallel_size


def _split(one: Topology) -> str:
    nodes = f"{one.nodes_at_least} nodes" if one.nodes_at_least > 1 else "one node"
    if one.accelerators == 1:
        return "TP 1"
    if one.pipeline_parallel_size == 1:
        return f"TP {one.tensor_parallel_size} · {nodes}"
    return f"TP {one.tensor_parallel_size} × PP {one.pipeline_parallel_size} · {nodes}"
