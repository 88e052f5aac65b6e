"""Plans for registered models: joins what the database knows with serving/planner. Read only.

The page, the REST API, the registry's chips and the actions all plan through here, so that all say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from console.accelerators import planner_accelerator
from console.measured_latency import setup_of, with_measurements
from console.models import RegisteredModel, SourceKind
from console.placements import ClusterNow, cluster_now, known_nodes
from serving.checkpoint import inspect_folder
from serving.errors import InvalidSpec, NotPlaceable
from serving.placement import Node
from serving.planner.engine_arguments import uncounted
from serving.planner.inputs import Checkpoint, check_request
from serving.planner.placement_groups import placement_group
from serving.planner.plan import make_plan
from serving.planner.request import BadPlanInput, PlanRequest
from serving.planner.result import Plan
from serving.planner.tensors import from_json
from serving.planner.topologies import ClusterView, Corrected, Topology, nodes_taken, topologies
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
    "num_gpu_blocks_override": ("num_gpu_blocks_override", int),
    "cpu_offload_gb": ("cpu_offload_gib", (int, float)),
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
    given, live = _planned_arguments(engine), [node for node in nodes if node.alive]
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
        node_memory_bytes=max((node.memory_bytes for node in live), default=None),
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
    if accelerator is None:
        return request
    per_node = accelerator.accelerators_per_node
    return replace(request, nodes_per_replica=_nodes_per_replica(engine, live, usual_per_node=per_node))


def _nodes_per_replica(engine: EngineSpec, live: list[Node], *, usual_per_node: int) -> int:
    """As the topologies' table has it, so that both predict the same."""
    there = {node.node_id: node.accelerators.get(engine.accelerator_type or "", 0) for node in live}
    group = placement_group(engine, tp_may_span_nodes=engine.tp_may_span_nodes)
    total = {node_id: count for node_id, count in there.items() if count}
    return nodes_taken(group, total, usual_per_node=usual_per_node)


def _planned_arguments(engine: EngineSpec) -> dict[str, Any]:
    """The planner's fields from vLLM's own arguments, and the names of those it does not count."""
    left_out = uncounted(engine.engine_kwargs, planned=PLANNED_ENGINE_KWARGS)
    given: dict[str, Any] = {"uncounted": (*left_out, *(("enable_lora",) if engine.adapters else ()))}
    for name, (ours, kind) in PLANNED_ENGINE_KWARGS.items():
        value = engine.engine_kwargs.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise BadPlanInput(f"{name} has the wrong type.", field="engine_kwargs")
        given[ours] = value
    return given


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
        return with_measurements(make_plan(request), request, setup_of(engine.model_dump()))
    except BadPlanInput as error:
        return Plan("refused", (error.message,), refused_field=error.field)


def check_plan(plan: Plan | None, engine: EngineSpec) -> None:
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
            field=plan.refused_field or _too_large(plan, engine),
        )


def _too_large(plan: Plan, engine: EngineSpec) -> str:
    """The field to change where it does not fit: the cache when it was given and is most of it."""
    memory = plan.memory
    if engine.kv_cache_memory_bytes is None or memory is None:
        return "tensor_parallel_size"
    weights = max(stage.weight_bytes for stage in memory.stages)
    return "kv_cache_memory_bytes" if memory.kv_cache_bytes > weights else "tensor_parallel_size"


def cluster_view(accelerator_type: str | None, *, but: str = "") -> ClusterView:
    """What the cluster has of a type now, and what of it no deployment but `but` claims."""
    return view_of(accelerator_type, cluster_now(but=but))


def view_of(accelerator_type: str | None, now: ClusterNow) -> ClusterView:
    """The same from rows already read."""
    total, floor = now.total(accelerator_type), now.floor
    free = {node_id: count for node_id, count in floor.count(accelerator_type).items() if node_id in total}
    return ClusterView(total, free, floor.cpus(), seen=bool(now.nodes))


def rank_topologies(
    request: PlanRequest,
    cluster: ClusterView,
    *,
    tp_may_span_nodes: bool = False,
    corrected: Corrected | None = None,
) -> list[Topology]:
    """All topologies for a request, up to two usual nodes of accelerators or what the cluster has."""
    per_node = request.accelerator.accelerators_per_node if request.accelerator else 1
    return topologies(
        request,
        cluster,
        tp_may_span_nodes=tp_may_span_nodes,
        most_accelerators=max(2 * per_node, sum(cluster.total_by_node.values())),
        corrected=corrected,
    )


def with_load(request: PlanRequest, load: Load) -> PlanRequest:
    """The request at the load an operator names."""
    changed = replace(request, **asdict(load))
    check_request(changed)
    return changed
