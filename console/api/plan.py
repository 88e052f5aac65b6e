"""/plan: what a model needs on an accelerator, computed from its files; nothing is started or stored."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any, Literal

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field, JsonValue

from console.accelerators import planner_accelerator
from console.api.errors import invalid, not_found
from console.api.inputs import Input
from console.api.routing import operation
from console.exact_plans import request_exact_plan, why_not_exact
from console.measured_latency import UNSAID, Setup, corrections_for, setup_of, with_measurements
from console.models import Deployment, ExactPlan, RegisteredModel
from console.placements import known_nodes, update_of
from console.planning import checkpoint_of, cluster_view, rank_topologies
from serving.accelerators import unknown_message
from serving.planner.inputs import Checkpoint, as_deployed, check_request
from serving.planner.placement_groups import Shape
from serving.planner.plan import make_plan
from serving.planner.report import flat
from serving.planner.request import BadPlanInput, PlanRequest
from serving.planner.tensors import group_index, total_size
from serving.planner.topologies import Topology
from serving.planner.update_needs import UpdateNeeds

router = Router(tags=["plan"])
CPU = "cpu"
NOT_OF_THE_PLANNER = (
    "model", "config", "safetensors_index", "accelerator", "deployment", "tp_may_span_nodes",
)  # fmt: skip
ARGUMENTS = tuple(UNSAID)
"""Fields that are engine arguments of a deployment."""


class PlanInput(Input):
    """A registered model or a config.json, an accelerator, and the engine's limits; null is vLLM's choice."""

    model: str | None = Field(None, max_length=63, description="name of a registered model")
    config: dict[str, JsonValue] | None = Field(None, description="a config.json instead of a model")
    safetensors_index: dict[str, JsonValue] | None = Field(
        None, description="model.safetensors.index.json that goes with `config`"
    )
    accelerator: str = Field(max_length=60, description="Ray's name (H100, L4 …); CPU for none")
    tensor_parallel_size: int = Field(1, ge=1, le=1024)
    pipeline_parallel_size: int = Field(1, ge=1, le=1024)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = Field(None, max_length=60)
    kv_cache_dtype: str = Field("auto", max_length=40)
    max_model_len: int | None = Field(None, ge=1, le=1 << 31, description="context length in tokens")
    max_num_seqs: int | None = Field(None, ge=1, le=1 << 20)
    max_num_batched_tokens: int | None = Field(None, ge=1, le=1 << 26)
    gpu_memory_utilization: float = Field(0.92, gt=0, le=1)
    kv_cache_memory_bytes: int | None = Field(
        None, ge=1, le=1 << 50, description="per rank; skips profiling. Null on CPU: what a deployment gets"
    )
    block_size: int | None = Field(None, ge=1, le=4096)
    enforce_eager: bool = False
    enable_prefix_caching: bool = True
    enable_expert_parallel: bool = False
    regime: Literal["v1", "v2"] = Field("v2", description="rule of the activation peak")
    concurrency: int = Field(1, ge=1, le=1 << 20, description="requests in flight for TPOT and the price")
    prompt_tokens: int = Field(1024, ge=1, le=1 << 31)
    output_tokens: int = Field(256, ge=1, le=1 << 31)
    usd_per_accelerator_hour: Decimal | None = Field(
        None, ge=0, le=Decimal(100_000), max_digits=12, decimal_places=6, description="null: the catalogue's"
    )


class TopologiesInput(PlanInput):
    """The same; its two sizes are ignored, all pairs are tried."""

    deployment: str | None = Field(
        None,
        max_length=40,
        description="a deployment that would be changed: what it holds counts as free",
    )
    tp_may_span_nodes: bool = Field(False, description="also tensor parallel over nodes, with a warning")


class Seconds(Schema):
    """An estimate with its band, seconds."""

    low: float
    expected: float
    high: float


class Bytes(Schema):
    """Lower and upper estimate, bytes."""

    low: int
    high: int


class PlanOut(Schema):
    """A plan. What could not be planned is null; every figure is predicted. Lists are per pipeline stage."""

    verdict: Literal["fits", "tight", "does_not_fit", "refused", "unknown"]
    reasons: list[str]
    lever: str | None = Field(description="what would help most where it is tight or does not fit")
    weight_bytes_per_rank: list[int] | None
    weights_are_exact: bool | None = Field(
        description="false where they are the upper end of a band from the checkpoint's bytes"
    )
    weight_parts_per_rank: list[dict[str, int]] | None
    kv_bytes_per_token_per_rank: list[int] | None
    kv_cache_bytes_per_rank: int | None
    kv_cache_tokens: int | None
    kv_cache_blocks: int | None
    max_concurrency_at_max_model_len: float | None
    activation_bytes: Bytes | None
    cuda_graph_bytes: Bytes | None
    runtime_bytes: Bytes | None
    usable_bytes: int | None
    requested_bytes: int | None
    ttft_unloaded_s: float | None = Field(description="prefill of prompt_tokens without a queue")
    ttft_unloaded_range_s: Seconds | None
    tpot_s: Seconds | None = Field(description="at `concurrency`")
    latency_basis: str | None
    no_times_because: str | None = Field(description="why times and prices per token are null")
    usd_per_hour: float | None
    usd_per_million_output_tokens: float | None
    usd_per_million_output_tokens_full_load: float | None
    full_load_concurrency: int | None
    architecture: str | None
    architecture_is_known: bool
    settings: dict[str, Any]
    arithmetic: list[str]
    basis: Literal["predicted"]


class ExactOut(Schema):
    """What vLLM's own classes say: `result` is null until `status` is done; it may hold a refusal."""

    digest: str
    status: Literal["queued", "running", "done", "failed"]
    error: str | None
    engine_version: str
    result: dict[str, Any] | None


class TopologyOut(Schema):
    """One (tensor, pipeline) pair; `rank` is null and `impossible` says why where it cannot serve."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    accelerators: int
    accelerators_during_update: int = Field(
        description="of this type, held for a while where there is room: with `deployment` of all its"
        " replicas, old ones that still drain included; else of one replica"
    )
    during_update: str = Field(description="the same in words, with what callers notice")
    nodes_at_least: int
    rank: int | None
    marks: dict[str, str] = Field(description="best_latency, best_cost, smallest -> the reason")
    now: Literal["free", "waits", "never", "unknown"]
    now_reason: str
    impossible: str | None
    warning: str | None
    plan: PlanOut


class TopologiesOut(Schema):
    """All pairs: the possible ones by rank, then the impossible ones."""

    items: list[TopologyOut]


@operation(router, "POST", "", role="viewer", answer=PlanOut)
def make_plan_of(request: HttpRequest, body: PlanInput) -> dict[str, Any]:
    """Plan one topology.

    The verdict is `fits` only where it fits at the upper estimate of everything that cannot be computed
    exactly. Nothing is started and nothing is stored. A registered model's times are corrected by what its
    deployments were measured at in this topology.
    """
    try:
        question = _request(body)
        setup = _setup(body)
        plan = make_plan(question)
        return flat(plan if setup is None else with_measurements(plan, question, setup))
    except BadPlanInput as error:
        raise invalid(error.message, field=error.field) from None


@operation(router, "POST", "/exact", role="operator", answer=ExactOut)
def ask_for_exact_plan(request: HttpRequest, body: PlanInput) -> dict[str, Any]:
    """Have vLLM's own classes built for this plan.

    They are built without weights by a worker, about ten seconds per pipeline stage; ask again with the
    digest. Equal questions share one answer.
    """
    try:
        question = _request(body)
        if reason := why_not_exact(question):
            raise invalid(reason, field="accelerator")
        row = request_exact_plan(question, now=time.time())
    except BadPlanInput as error:
        raise invalid(error.message, field=error.field) from None
    assert row is not None
    return exact_out(row)


@operation(router, "GET", "/exact/{digest}", role="viewer", answer=ExactOut)
def get_exact_plan(request: HttpRequest, digest: str) -> dict[str, Any]:
    """An exact plan by its digest."""
    row = ExactPlan.objects.filter(digest=digest).first()
    if row is None:
        raise not_found("Nobody asked for this exact plan, or it was forgotten; ask again.")
    return exact_out(row)


def exact_out(row: ExactPlan) -> dict[str, Any]:
    """An exact plan as the API gives it."""
    return {
        "digest": row.digest,
        "status": row.status,
        "error": row.error or None,
        "engine_version": row.engine_version,
        "result": row.result,
    }


@operation(router, "POST", "/topologies", role="viewer", answer=TopologiesOut)
def rank_topologies_of(request: HttpRequest, body: TopologiesInput) -> dict[str, Any]:
    """Rank all ways to split a model.

    Tensor parallel stays on one node unless `tp_may_span_nodes`. `now` says whether one replica finds room
    on the cluster as last seen, with what other deployments claim taken off.
    """
    try:
        question = _request(body)
        accelerator_type = None if body.accelerator.lower() == CPU else body.accelerator
        if question.accelerator is not None:
            accelerator_type = question.accelerator.name
        setup = _setup(body)
        ranked = rank_topologies(
            question,
            cluster_view(accelerator_type, but=body.deployment or ""),
            tp_may_span_nodes=body.tp_may_span_nodes,
            corrected=None if setup is None else corrections_for(setup),
        )
    except BadPlanInput as error:
        raise invalid(error.message, field=error.field) from None
    present = _deployment(body.deployment)
    least = present.min_replicas if present is not None else 1
    return {
        "items": [
            topology_out(one, update_of(present, _shape(accelerator_type, one), least)) for one in ranked
        ]
    }


def topology_out(one: Topology, update: UpdateNeeds) -> dict[str, Any]:
    """A topology as the API gives it."""
    return {
        "tensor_parallel_size": one.tensor_parallel_size,
        "pipeline_parallel_size": one.pipeline_parallel_size,
        "accelerators": one.accelerators,
        "accelerators_during_update": update.most,
        "during_update": update.words,
        "nodes_at_least": one.nodes_at_least,
        "rank": one.rank,
        "marks": dict(one.marks),
        "now": one.now,
        "now_reason": one.now_reason,
        "impossible": one.impossible or None,
        "warning": one.warning or None,
        "plan": flat(one.plan),
    }


def _shape(accelerator_type: str | None, one: Topology) -> Shape:
    return Shape(accelerator_type, one.tensor_parallel_size, one.pipeline_parallel_size)


def _deployment(name: str | None) -> Deployment | None:
    if name is None:
        return None
    found = Deployment.objects.select_related("current_revision").filter(name=name).first()
    if found is None:
        raise not_found(f"There is no deployment called {name}.")
    return found


def _setup(body: PlanInput) -> Setup | None:
    """What a registered model's measurements are found by; None for a config that nobody deployed."""
    model = RegisteredModel.objects.filter(name=body.model).first() if body.model else None
    if model is None:
        return None
    on_cpu = body.accelerator.lower() == CPU
    accelerator = None if on_cpu else planner_accelerator(body.accelerator)
    return setup_of(
        {
            "model": model.name,
            "model_source": model.source,
            "hub_revision": model.hub_revision or None,
            "accelerator_type": accelerator.name if accelerator else None,
            "tensor_parallel_size": body.tensor_parallel_size,
            "pipeline_parallel_size": body.pipeline_parallel_size,
            "dtype": body.dtype,
            "tp_may_span_nodes": getattr(body, "tp_may_span_nodes", False),
            "engine_kwargs": {name: getattr(body, name) for name in ARGUMENTS if hasattr(body, name)},
        }
    )


def _request(body: PlanInput) -> PlanRequest:
    checkpoint = _checkpoint(body)
    on_cpu = body.accelerator.lower() == CPU
    accelerator = None if on_cpu else planner_accelerator(body.accelerator)
    if accelerator is None and not on_cpu:
        raise BadPlanInput(unknown_message(body.accelerator), field="accelerator")
    nodes = known_nodes() if on_cpu else []
    question = PlanRequest(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        checkpoint_bytes=checkpoint.checkpoint_bytes,
        accelerator=accelerator,
        node_memory_bytes=max((node.memory_bytes for node in nodes if node.alive), default=None),
        **body.model_dump(exclude=set(NOT_OF_THE_PLANNER)),
    )
    check_request(question)
    return as_deployed(question)


def _checkpoint(body: PlanInput) -> Checkpoint:
    if (body.model is None) == (body.config is None):
        raise invalid("Give either the name of a registered model or a config.", field="model")
    if body.config is not None:
        index = body.safetensors_index
        if index is None:
            return Checkpoint(body.config)
        return Checkpoint(body.config, group_index(index), total_size(index))
    model = RegisteredModel.objects.filter(name=body.model).first()
    if model is None:
        raise not_found(f"There is no model called {body.model}.")
    checkpoint = checkpoint_of(model)
    if checkpoint is None:
        raise invalid(
            f"The files of {model.name} are not known here; give its config.json as `config`.", field="model"
        )
    return checkpoint
