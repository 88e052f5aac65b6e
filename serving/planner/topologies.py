"""Every way to split a model over accelerators, ranked: verdict, speed, money, and why not. Pure.

A tensor-parallel group stays on one node unless it is asked to span them; pipeline stages may lie on
different nodes. On CPU all ranks share one node. Data-parallel replicas are the capacity policy's business,
not a topology's. Where ranks find room is what serving/planner/placement_groups.py predicts of Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from serving.planner.placement_groups import (
    PlacementGroup,
    Shape,
    assign,
    placement_group,
    resources_of,
    split_reason,
    split_stages,
)
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.result import Plan

MOST_ACCELERATORS = 64
MOST_STAGES = 8
USUAL_ERROR = 0.1
"""Median error of a time per output token on models left out of the fit (serving/data/latency_fit.json)."""
MOSTLY = 2 / 3
MOST_EVERY_SIZE = 16
"""Up to here every tensor-parallel size is tried, beyond it powers of two: a plan costs milliseconds."""
SPANNING_FACTORS = (2, 4, 8)
USUAL_CPU_CORES = 8
VERDICT_ORDER = {"fits": 0, "tight": 1, "unknown": 2, "does_not_fit": 3, "refused": 4}

Mark = Literal["best_latency", "best_cost", "smallest"]
Now = Literal["free", "waits", "never", "unknown"]
"""Whether one replica can be placed on the cluster as it is: at once, when others let go, or never."""


@dataclass(frozen=True)
class ClusterView:
    """Accelerators of the wanted type by node id: what each live node has, and what nobody claims of it."""

    total_by_node: Mapping[str, int] = field(default_factory=dict)
    free_by_node: Mapping[str, int] = field(default_factory=dict)
    cpus_by_node: Mapping[str, float] = field(default_factory=dict)
    """Free CPU cores beside accelerators; a node that is not named has enough."""
    seen: bool = True
    """False when the cluster was never seen, so that nothing can be said of it."""

    @property
    def largest_node(self) -> int:
        """Accelerators of the best equipped node."""
        return max(self.total_by_node.values(), default=0)


@dataclass(frozen=True)
class Topology:
    """One (tensor, pipeline) pair. `rank` from 1, None where it is impossible; `warning` where it is unwise.

    `marks` maps a distinction to its reason in words.
    """

    tensor_parallel_size: int
    pipeline_parallel_size: int
    plan: Plan
    nodes_at_least: int
    spans_nodes: bool
    now: Now
    now_reason: str
    impossible: str = ""
    warning: str = ""
    rank: int | None = None
    marks: Mapping[Mark, str] = field(default_factory=dict)

    @property
    def accelerators(self) -> int:
        """Accelerators of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def is_possible(self) -> bool:
        """Whether it would serve, if the accelerators were there."""
        return not self.impossible


Corrected = Callable[[Plan, PlanRequest], Plan]
"""What a caller knows better of a plan's times, from measurements of that topology."""


def topologies(
    request: PlanRequest,
    cluster: ClusterView,
    *,
    tp_may_span_nodes: bool = False,
    most_accelerators: int = 16,
    corrected: Corrected | None = None,
) -> list[Topology]:
    """All pairs up to `most_accelerators` per replica, the possible ones ranked first, then the impossible
    ones with their reason. `request` gives everything but the two sizes.

    Sizes go up to the largest node there is or the accelerator's usual one, whichever has more: what the
    cluster cannot hold is planned all the same and `now` says so.
    """
    span = tp_may_span_nodes and request.accelerator is not None
    most = min(most_accelerators, MOST_ACCELERATORS)
    rooms = _Rooms(cluster, _usual(request), span)
    found: list[Topology] = []
    for tensor in _tensor_sizes(rooms, most):
        for pipeline in range(1, min(MOST_STAGES, most // tensor) + 1):
            topology = _one(request, rooms, tensor, pipeline, corrected)
            found.append(topology)
            if topology.plan.verdict == "refused" and topology.plan.refused_field != "pipeline_parallel_size":
                break  # more stages change nothing about it
    if not span and request.accelerator is not None:
        found += _across_nodes(request, rooms.per_node, most)
    return _ranked(found)


@dataclass(frozen=True)
class _Rooms:
    """The nodes that sizes are tried on: the cluster's, and usual ones of this kind."""

    cluster: ClusterView
    usual: int
    may_span: bool

    @property
    def per_node(self) -> int:
        """Accelerators (or cores) that a tensor-parallel group may have on one node, at most."""
        return max(1, self.cluster.largest_node, self.usual)

    @property
    def whole(self) -> int:
        """The same where groups may span nodes: what is more spans the nodes there are."""
        return max(1, self.cluster.largest_node or self.usual) if self.may_span else self.per_node


def _usual(request: PlanRequest) -> int:
    return request.accelerator.accelerators_per_node if request.accelerator else USUAL_CPU_CORES


def _tensor_sizes(rooms: _Rooms, most: int) -> list[int]:
    sizes = set(range(1, min(rooms.per_node, MOST_EVERY_SIZE, most) + 1))
    sizes |= {size for size in (32, 64) if size <= min(rooms.per_node, most)}
    if rooms.may_span:
        sizes |= {rooms.whole * factor for factor in SPANNING_FACTORS if rooms.whole * factor <= most}
    return sorted(sizes)


def _across_nodes(request: PlanRequest, per_node: int, most_accelerators: int) -> list[Topology]:
    """Tensor-parallel sizes that only several nodes hold: possible, but nobody asked for the network."""
    fabric = request.accelerator.inter_node_bytes_per_s if request.accelerator else None
    speed = f" of about {fabric / 1e9:,.0f} GB/s" if fabric else ""
    sizes = [per_node * factor for factor in SPANNING_FACTORS if per_node * factor <= most_accelerators]
    return [
        Topology(
            tensor_parallel_size=size,
            pipeline_parallel_size=1,
            plan=Plan("refused", (reason,), refused_field="tensor_parallel_size"),
            nodes_at_least=size // per_node,
            spans_nodes=True,
            now="never",
            now_reason="Not asked for.",
            impossible=reason,
        )
        for size in sizes
        for reason in [
            f"A group of {size} would span {size // per_node} nodes of {per_node}: every layer would wait "
            f"twice for the network{speed} between them. Pipeline stages can lie on different nodes."
        ]
    ]


def _one(
    request: PlanRequest, rooms: _Rooms, tensor: int, pipeline: int, corrected: Corrected | None
) -> Topology:
    spans = rooms.may_span and tensor > rooms.whole
    kind = request.accelerator.name if request.accelerator else None
    group = placement_group(Shape(kind, tensor, pipeline), tp_may_span_nodes=rooms.may_span)
    nodes = nodes_taken(group, rooms.cluster.total_by_node, usual_per_node=rooms.usual)
    asked = replace(
        request, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, nodes_per_replica=nodes
    )
    plan = make_plan(asked)
    if corrected is not None:
        plan = corrected(plan, asked)
    now, reason, split_now = _placed_now(rooms.cluster, group)
    return Topology(
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        plan=plan,
        nodes_at_least=nodes,
        spans_nodes=spans,
        now=now,
        now_reason=reason,
        impossible=_why_not(plan) or (_never_whole(group, rooms) if now in ("never", "unknown") else ""),
        warning=span_warning(-(-tensor // rooms.whole)) if spans else SPLIT_NOW if split_now else "",
    )


def nodes_taken(group: PlacementGroup, total_by_node: Mapping[str, int], *, usual_per_node: int) -> int:
    """Nodes that one replica takes: of those there are, where they can hold it when empty; else as few usual
    ones (or as large as the largest there is) as it needs. One on CPU."""
    if group.accelerator_type is None:
        return 1
    placed = assign(group, resources_of(group, total_by_node, {}))
    if placed is not None and not split_reason(group, placed):
        return len(set(placed))
    tensor, count = group.tensor_parallel_size, len(group.bundles)
    per_node = max(1, usual_per_node, *total_by_node.values())
    if tensor > per_node:
        return -(-count // per_node)
    return -(-(count // tensor) // (per_node // tensor))


SPLIT_NOW = "With what is free now a group would lie on several nodes and talk over the network."


def span_warning(nodes: int) -> str:
    """What a tensor-parallel group over several nodes costs."""
    return (
        f"Tensor parallel over {nodes} nodes: every layer waits twice for the network between "
        "them. Pipeline stages over nodes, tensor parallel inside one, is nearly always faster."
    )


def _never_whole(group: PlacementGroup, rooms: _Rooms) -> str:
    """Why usual nodes, as many as needed, cannot hold the groups whole either; "" where they can."""
    if group.accelerator_type is None:
        return ""
    usual = {f"{index:03}": rooms.per_node for index in range(len(group.bundles))}
    nodes = assign(group, resources_of(group, usual, {}))
    return "" if nodes is None else split_reason(group, nodes)


def _why_not(plan: Plan) -> str:
    if plan.verdict in ("fits", "tight", "unknown"):
        return ""
    return plan.reasons[0] if plan.reasons else plan.verdict


def _placed_now(cluster: ClusterView, group: PlacementGroup) -> tuple[Now, str, bool]:
    """(whether there is room, why, whether a group that may span nodes would)."""
    if not cluster.seen:
        return "unknown", "The cluster has not been seen yet.", False
    if not cluster.total_by_node:
        return "never", "The cluster has none of these.", False
    nodes = assign(group, resources_of(group, cluster.free_by_node, cluster.cpus_by_node))
    split = split_reason(group, nodes) if nodes else ""
    if nodes is not None and not split:
        return "free", "Free now.", bool(split_stages(group, nodes))
    emptied = assign(group, resources_of(group, cluster.total_by_node, {}))
    if emptied is None:
        return "never", _too_large(cluster, group), False
    if reason := split_reason(group, emptied):
        return "never", reason, False
    free, total = sum(cluster.free_by_node.values()), sum(cluster.total_by_node.values())
    return (
        "waits",
        split or f"{free} of {total} are free; the others are claimed by deployments.",
        False,
    )


def _too_large(cluster: ClusterView, group: PlacementGroup) -> str:
    total, largest = sum(cluster.total_by_node.values()), cluster.largest_node
    if group.accelerator_type is None:
        return f"All ranks of a replica share one node on CPU; the largest has {largest} cores."
    if group.strategy == "STRICT_PACK" or group.tensor_parallel_size > largest:
        return f"The largest node has {largest}."
    return f"The cluster has {total}, at most {largest} on one node."


def _ranked(found: list[Topology]) -> list[Topology]:
    possible = sorted((one for one in found if one.is_possible), key=_order)
    marks = _marks(possible)
    ranked = [
        replace(one, rank=index, marks=marks.get((one.tensor_parallel_size, one.pipeline_parallel_size), {}))
        for index, one in enumerate(possible, start=1)
    ]
    others = sorted(
        (one for one in found if not one.is_possible),
        key=lambda one: (one.tensor_parallel_size, one.pipeline_parallel_size),
    )
    return ranked + others


def _order(one: Topology) -> tuple[object, ...]:
    """What surely fits first, then what is not unwise, then what the cluster can hold at all, then the
    cheapest per token, then the smallest."""
    cost = _cost(one)
    return (
        VERDICT_ORDER[one.plan.verdict],
        one.spans_nodes,
        one.now == "never",
        cost is None,
        cost or Decimal(0),
        one.accelerators,
        one.pipeline_parallel_size,
    )


def _marks(possible: list[Topology]) -> dict[tuple[int, int], dict[Mark, str]]:
    """Distinctions among those that surely fit; among the tight ones where nothing fits. What the cluster
    can never hold counts only where that holds of all of them."""
    sure = [one for one in possible if one.plan.verdict == "fits"] or [
        one for one in possible if one.plan.verdict == "tight"
    ]
    sure = [one for one in sure if one.now != "never"] or sure
    marks: dict[tuple[int, int], dict[Mark, str]] = {}
    smallest = min(sure, key=lambda one: (one.accelerators, one.pipeline_parallel_size), default=None)
    if smallest is not None:
        _mark(marks, smallest, "smallest", f"Fewest accelerators that hold it: {smallest.accelerators}.")
    fast = [one for one in sure if one.plan.latency is not None and not one.spans_nodes]
    fastest = min(fast, key=_tpot, default=None)
    if fastest is not None:
        _mark(marks, *_best_latency(fastest, fast))
    priced = [(cost, one) for one in sure if (cost := _cost(one))]
    cheapest = min(priced, key=lambda pair: (pair[0], pair[1].accelerators), default=None)
    if cheapest is not None:
        _mark(
            marks,
            cheapest[1],
            "best_cost",
            f"Lowest predicted price at this load: ${cheapest[0]:.2f} per million output tokens.",
        )
    return marks


def _best_latency(fastest: Topology, fast: list[Topology]) -> tuple[Topology, Mark, str]:
    """The fastest, or the cheapest that the prediction cannot tell from it, with the words that say so."""
    alike = [one for one in fast if _hourly(one) is not None and _cannot_tell(fastest, one)]
    best = min(alike, key=lambda one: (_hourly(one), _tpot(one)), default=fastest)
    if _hourly(fastest) is None or best is fastest or _hourly(best) == _hourly(fastest):
        return (
            fastest,
            "best_latency",
            f"Lowest predicted time per output token: {_tpot(fastest) * 1000:.1f} ms.",
        )
    return (
        best,
        "best_latency",
        f"{_tpot(best) * 1000:.1f} ms per output token predicted at ${_hourly(best):.2f} per hour; "
        f"TP {fastest.tensor_parallel_size} × PP {fastest.pipeline_parallel_size} costs "
        f"${_hourly(fastest):.2f} for {_tpot(fastest) * 1000:.1f} ms, a difference within the error of the "
        "prediction.",
    )


def _cannot_tell(fastest: Topology, other: Topology) -> bool:
    """Whether two times differ by less than the usual error and their bands lie mostly on each other."""
    assert fastest.plan.latency is not None and other.plan.latency is not None
    first, second = fastest.plan.latency.tpot_s, other.plan.latency.tpot_s
    common = min(first.high, second.high) - max(first.low, second.low)
    narrower = min(first.high - first.low, second.high - second.low)
    return second.expected <= first.expected * (1 + USUAL_ERROR) and common >= narrower * MOSTLY


def _hourly(one: Topology) -> Decimal | None:
    return one.plan.money.usd_per_hour if one.plan.money else None


def _mark(marks: dict[tuple[int, int], dict[Mark, str]], one: Topology, mark: Mark, reason: str) -> None:
    marks.setdefault((one.tensor_parallel_size, one.pipeline_parallel_size), {})[mark] = reason


def _tpot(one: Topology) -> float:
    assert one.plan.latency is not None
    return one.plan.latency.tpot_s.expected


def _cost(one: Topology) -> Decimal | None:
    return one.plan.money.usd_per_million_output_tokens if one.plan.money else None
