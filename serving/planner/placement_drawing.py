"""Where one replica's ranks would lie, as accelerators in nodes, for pages to draw. Pure.

The choice of nodes is the one that serving/planner/placement_groups.py predicts for Ray; here it only gets
cells. A drawing on nodes the cluster does not have is of usual nodes of that accelerator and says so; one
that would split a tensor-parallel group says that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from serving.planner.placement_groups import (
    PlacementGroup,
    assign,
    bundles_by_rank,
    resources_of,
    split_reason,
)

CELLS_AT_MOST = 16
"""Of a larger node only so many accelerators are drawn."""

State = Literal["this", "held", "free"]


@dataclass(frozen=True)
class Room:
    """One node's accelerators of the wanted type."""

    node_id: str
    name: str
    total: int
    free: int
    cpus: float | None = None
    """Free CPU cores beside the accelerators; None: enough."""


@dataclass(frozen=True)
class Cell:
    """One accelerator: tensor-parallel `rank` and pipeline `stage`; None where it is not ours."""

    state: State
    stage: int | None = None
    rank: int | None = None


@dataclass(frozen=True)
class DrawnNode:
    """One node with its cells; `hidden` more accelerators are not drawn."""

    name: str
    cells: tuple[Cell, ...]
    hidden: int = 0

    @property
    def stages(self) -> tuple[int, ...]:
        """Pipeline stages that lie here."""
        return tuple(sorted({cell.stage for cell in self.cells if cell.stage is not None}))


@dataclass(frozen=True)
class Drawing:
    """Nodes that carry the replica. `is_real` is False when the cluster has no such room, even when empty."""

    nodes: tuple[DrawnNode, ...]
    is_real: bool
    waits: bool = False
    """Drawn on the empty cluster: there is no room now."""
    split: str = ""
    """Why the replica would refuse to start as drawn: a tensor-parallel group lies on several nodes."""


def draw(group: PlacementGroup, rooms: Iterable[Room], *, usual_per_node: int) -> Drawing:
    """The replica on free accelerators; else on the nodes as if they were empty; else on usual nodes."""
    known = [room for room in rooms if room.total]
    if chosen := _whole(group, known):
        return Drawing(_filled(group, known, chosen), is_real=True)
    emptied = [Room(room.node_id, room.name, room.total, room.total) for room in known]
    if chosen := _whole(group, emptied):
        return Drawing(_filled(group, emptied, chosen), is_real=True, waits=True)
    per_node = usual_per_node if group.tp_may_span_nodes else max(usual_per_node, group.tensor_parallel_size)
    if group.strategy == "STRICT_PACK":
        per_node = max(per_node, len(group.bundles))
    usual = [
        Room(f"{index:03}", f"node {index + 1}", per_node, per_node) for index in range(len(group.bundles))
    ]
    nodes = _assigned(group, usual)
    assert nodes is not None  # there is room for every bundle
    return Drawing(_filled(group, usual, nodes), is_real=False, split=split_reason(group, nodes))


def _whole(group: PlacementGroup, rooms: list[Room]) -> list[str] | None:
    """Node id of each bundle where every group stays whole; else None."""
    nodes = _assigned(group, rooms)
    return None if nodes is None or split_reason(group, nodes) else nodes


def _assigned(group: PlacementGroup, rooms: list[Room]) -> list[str] | None:
    """Node id of each bundle, where Ray would put it."""
    cpus = {room.node_id: room.cpus for room in rooms if room.cpus is not None}
    return assign(group, resources_of(group, {room.node_id: room.free for room in rooms}, cpus))


def _filled(group: PlacementGroup, rooms: list[Room], nodes: list[str]) -> tuple[DrawnNode, ...]:
    size = group.tensor_parallel_size
    homes = [nodes[bundle] for bundle in bundles_by_rank(nodes)]
    drawn = []
    for room in rooms:
        ours = [
            Cell("this", rank // size, rank % size) for rank, home in enumerate(homes) if home == room.node_id
        ]
        if not ours:
            continue
        held = [Cell("held")] * (room.total - room.free)
        cells = [*ours, *held, *[Cell("free")] * (room.total - len(ours) - len(held))]
        drawn.append(DrawnNode(room.name, tuple(cells[:CELLS_AT_MOST]), max(0, len(cells) - CELLS_AT_MOST)))
    return tuple(drawn)
