"""Every way to split a model over accelerators, ranked: verdict, speed, money, and why not. Pure.

A tensor-parallel group stays on one node unless it is asked to span them; pipeline stages may lie on
different nodes. Data-parallel replicas are the capacity policy's business, not a topology's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.result import Plan

MOST_ACCELERATORS = 64
MOST_STAGES = 8
USUAL_ERROR = 0.1
"""Median error of a time per output token on models left out of the fit (serving/data/latency_fit.json)."""
MOSTLY = 2 / 3
VERDICT_ORDER = {"fits": 0, "tight": 1, "unknown": 2, "does_not_fit": 3, "refused": 4}

Mark = Literal["best_latency", "best_cost", "smallest"]
Now = Literal["free", "waits", "never", "unknown"]
"""Whether one replica can be placed on the cluster as it is: at once, when others let go, or never."""


@dataclass(frozen=True)
class ClusterView:
    """Accelerators of the wanted type by node id: what each live node has, and what nobody claims of it."""

    total_by_node: Mapping[str, int] = field(default_factory=dict)
    free_by_node: Mapping[str, int] = field(default_factory=dict)
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


def topologies(
    request: PlanRequest,
    cluster: ClusterView,
    *,
    tp_may_span_nodes: bool = False,
    most_accelerators: int = 16,
) -> list[Topology]:
    """All pairs up to `most_accelerators` per replica, the possible ones ranked first, then the impossible
    ones with their reason. `request` gives everything but the two sizes."""
    per_node = _per_node(request, cluster)
    if request.accelerator is not None:
        # Levers that name a topology follow the nodes that are there, too.
        node = replace(request.accelerator, accelerators_per_node=per_node)
        request = replace(request, accelerator=node)
    found: list[Topology] = []
    for tensor in range(1, (most_accelerators if tp_may_span_nodes else per_node) + 1):
        for pipeline in range(1, MOST_STAGES + 1):
            if tensor * pipeline > min(most_accelerators, MOST_ACCELERATORS):
                break
            topology = _one(request, cluster, tensor, pipeline, per_node)
            found.append(topology)
            if topology.plan.verdict == "refused" and topology.plan.refused_field != "pipeline_parallel_size":
                break  # more stages change nothing about it
    if not tp_may_span_nodes:
        found += _across_nodes(request, per_node, most_accelerators)
    return _ranked(found)


def _across_nodes(request: PlanRequest, per_node: int, most_accelerators: int) -> list[Topology]:
    """Tensor-parallel sizes that only several nodes hold: possible, but nobody asked for the network."""
    fabric = request.accelerator.inter_node_bytes_per_s if request.accelerator else None
    speed = f" of about {fabric / 1e9:,.0f} GB/s" if fabric else ""
    sizes = [per_node * factor for factor in (2, 4, 8) if per_node * factor <= most_accelerators]
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


def _one(request: PlanRequest, cluster: ClusterView, tensor: int, pipeline: int, per_node: int) -> Topology:
    spans = tensor > per_node
    nodes_per_stage = -(-tensor // per_node)
    nodes = nodes_per_stage * pipeline if spans else -(-pipeline // max(1, per_node // tensor))
    plan = make_plan(
        replace(
            request, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, nodes_per_replica=nodes
        )
    )
    now, reason = _placed_now(cluster, tensor, pipeline, spans=spans)
    return Topology(
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        plan=plan,
        nodes_at_least=nodes,
        spans_nodes=spans,
        now=now,
        now_reason=reason,
        impossible=_why_not(plan),
        warning=(
            f"Tensor parallel over {nodes_per_stage} nodes: every layer waits twice for the network between "
            "them. Pipeline stages over nodes, tensor parallel inside one, is nearly always faster."
            if spans
            else ""
        ),
    )


def _why_not(plan: Plan) -> str:
    if plan.verdict in ("fits", "tight", "unknown"):
        return ""
    return plan.reasons[0] if plan.reasons else plan.verdict


def _per_node(request: PlanRequest, cluster: ClusterView) -> int:
    usual = request.accelerator.accelerators_per_node if request.accelerator else 0
    return max(1, cluster.largest_node or usual)


def _placed_now(cluster: ClusterView, tensor: int, pipeline: int, *, spans: bool) -> tuple[Now, str]:
    if not cluster.seen:
        return "unknown", "The cluster has not been seen yet."
    if not cluster.total_by_node:
        return "never", "The cluster has none of these."
    if _holds(cluster.free_by_node.values(), tensor, pipeline, spans=spans):
        return "free", "Free now."
    free, total = sum(cluster.free_by_node.values()), sum(cluster.total_by_node.values())
    if _holds(cluster.total_by_node.values(), tensor, pipeline, spans=spans):
        return "waits", f"{free} of {total} are free; the others are claimed by deployments."
    if tensor > cluster.largest_node and not spans:
        return "never", f"The largest node has {cluster.largest_node}."
    return "never", f"The cluster has {total}, at most {cluster.largest_node} on one node."


def _holds(by_node: Iterable[int], tensor: int, pipeline: int, *, spans: bool) -> bool:
    """Whether `pipeline` groups of `tensor` find room, each group on one node unless it spans them."""
    if spans:
        return sum(by_node) >= tensor * pipeline
    return sum(count // tensor for count in by_node) >= pipeline


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
    """What surely fits first, then what is not unwise, then the cheapest per token, then the smallest."""
    cost = _cost(one)
    return (
        VERDICT_ORDER[one.plan.verdict],
        one.spans_nodes,
        cost is None,
        cost or Decimal(0),
        one.accelerators,
        one.pipeline_parallel_size,
    )


def _marks(possible: list[Topology]) -> dict[tuple[int, int], dict[Mark, str]]:
    """Distinctions among those that surely fit; among the tight ones where nothing fits."""
    sure = [one for one in possible if one.plan.verdict == "fits"] or [
        one for one in possible if one.plan.verdict == "tight"
    ]
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
