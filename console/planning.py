"""Plans for registered models: joins what the database knows with serving/planner. Read only.

The page, the REST API, the registry's chips and the actions all plan through here, so that all say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from console.accelerators import planner_accelerator
from console.measured_latency import with_measurements
from console.models import RegisteredModel, SourceKind
from console.placements import known_nodes, other_claims
from serving.checkpoint import inspect_folder
from serving.errors import InvalidSpec, NotPlaceable
from serving.placement import Claim, Node, free_by_node
from serving.planner.inputs import Checkpoint, check_request
from serving.planner.plan import make_plan
from serving.planner.request import BadPlanInput, PlanRequest
from serving.planner.result import Plan
from serving.planner.tensors import from_json
from serving.planner.topologies import ClusterView, Topology, topologies
from serving.spec import EngineSpec

PLANNED_ENGINE_KWARGS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "max_num_batched_tokens": ("max_num_batched_tokens", int),
    "gpu_memory_utilization": ("gpu_memory_utilization", (int, float)),
    "kv_cache_dtype": ("kv_cache_dtype", str),
    "block_size": ("block_size", int),
    "enforce_eager": ("enforce_eager", bool),
    "enable_prefix_caching": ("enable_prefix_caching", bool),
    "enable_expert_parallel": ("enable_expert_parallel", bool),
    "async_scheduling": ("async_scheduling", bool),
    "quantization": ("quantization", str),
}
"""Engine arguments that change a plan: vLLM's name -> the planner's, and its type."""


@dataclass(frozen=True)
class Load:
    """The traffic that times and prices are predicted for: requests in flight and their lengths in tokens."""

    concurrency: int = 8
    prompt_tokens: int = 1024
    output_tokens: int = 256


def checkpoint_of(model: RegisteredModel) -> Checkpoint | None:
    """The model's config and tensors; read from its folder when they were not kept; None when unknown."""
    config, tensors = model.config, from_json(model.tensors)
    if config is None and model.source_kind == SourceKind.FOLDER:
        inspection = inspect_folder(model.source)
        config, tensors = inspection.config, inspection.tensors
    if config is None:
        return None
    return Checkpoint(config, tensors, (model.facts or {}).get("weight_bytes"))


def request_of(
    engine: EngineSpec,
    checkpoint: Checkpoint,
    *,
    nodes: Iterable[Node] = (),
    usd_per_accelerator_hour: Decimal | None = None,
) -> PlanRequest:
    """The planner's question for one engine definition. Raises BadPlanInput."""
    given: dict[str, Any] = {}
    for name, (ours, kind) in PLANNED_ENGINE_KWARGS.items():
        value = engine.engine_kwargs.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BadPlanInput(f"{name} has the wrong type.", field="engine_kwargs")
        given[ours] = value
    accelerator = planner_accelerator(engine.accelerator_type) if engine.accelerator_type else None
    if engine.accelerator_type and accelerator is None:
        raise BadPlanInput(
            f"{engine.accelerator_type} is not in the catalogue; add it under Accelerators to plan for it.",
            field="accelerator_type",
        )
    request = PlanRequest(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        checkpoint_bytes=checkpoint.checkpoint_bytes,
        accelerator=accelerator,
        node_memory_bytes=max((node.memory_bytes for node in nodes if node.alive), default=None),
        tensor_parallel_size=engine.tensor_parallel_size,
        pipeline_parallel_size=engine.pipeline_parallel_size,
        dtype=engine.dtype,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        kv_cache_memory_bytes=engine.kv_cache_memory_bytes,
        usd_per_accelerator_hour=usd_per_accelerator_hour,
        **given,
    )
    check_request(request)
    return request


def question_of(
    engine: EngineSpec,
    model: RegisteredModel,
    *,
    usd_per_accelerator_hour: Decimal | None = None,
    load: Load | None = None,
) -> PlanRequest | None:
    """What the planner is asked about an engine definition; None when the model's files are not known here.
    Raises BadPlanInput."""
    checkpoint = checkpoint_of(model)
    if checkpoint is None:
        return None
    request = request_of(
        engine, checkpoint, nodes=known_nodes(), usd_per_accelerator_hour=usd_per_accelerator_hour
    )
    return request if load is None else with_load(request, load)


def plan_engine(
    engine: EngineSpec,
    model: RegisteredModel,
    *,
    usd_per_accelerator_hour: Decimal | None = None,
    load: Load | None = None,
) -> Plan | None:
    """The plan of an engine definition; None when the model's files are not known here. Never raises for
    what stands in the files: a refusal carries the words."""
    try:
        request = question_of(engine, model, usd_per_accelerator_hour=usd_per_accelerator_hour, load=load)
        if request is None:
            return None
        return with_measurements(make_plan(request), request, engine, model)
    except BadPlanInput as error:
        return Plan("refused", (error.message,), refused_field=error.field)


def check_plan(plan: Plan | None) -> None:
    """Raise what keeps an engine from starting, before it is tried: InvalidSpec or NotPlaceable.

    A plan that is not sure of the architecture refuses nothing.
    """
    if plan is None or not plan.architecture_is_known:
        return
    if plan.verdict == "refused":
        raise InvalidSpec(plan.reasons[0], field=plan.refused_field or None)
    if plan.verdict == "does_not_fit":
        advice = f" {plan.lever}" if plan.lever else ""
        raise NotPlaceable(
            f"{plan.reasons[0]}{advice}",
            arithmetic=list(plan.arithmetic),
            field=plan.refused_field or "tensor_parallel_size",
        )


def cluster_view(accelerator_type: str | None, *, but: str = "") -> ClusterView:
    """What the cluster has of a type now, and what of it no deployment but `but` claims."""
    nodes = known_nodes()
    return view_of(accelerator_type, nodes=nodes, claims=other_claims(but=but))


def view_of(accelerator_type: str | None, *, nodes: list[Node], claims: list[Claim]) -> ClusterView:
    """The same from rows already read."""
    total, free = free_by_node(accelerator_type, nodes=nodes, claims=claims)
    return ClusterView(total, free, seen=bool(nodes))


def rank_topologies(
    request: PlanRequest, cluster: ClusterView, *, tp_may_span_nodes: bool = False
) -> list[Topology]:
    """All topologies for a request, up to two nodes of accelerators or what the cluster has."""
    per_node = request.accelerator.accelerators_per_node if request.accelerator else 1
    most = max(2 * per_node, min(64, sum(cluster.total_by_node.values())))
    return topologies(
        request, cluster, tp_may_span_nodes=tp_may_span_nodes, most_accelerators=most if most < 64 else 64
    )


def with_load(request: PlanRequest, load: Load) -> PlanRequest:
    """The request at the load an operator names."""
    changed = replace(request, **asdict(load))
    check_request(changed)
    return changed
