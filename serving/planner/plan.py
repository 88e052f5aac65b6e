"""The planner's one entry, `make_plan`: architecture, weights, cache, bands, refusals and prices together.

Pure; a plan takes a few milliseconds. The verdict is "fits" only where one request of full length fits at the
upper estimate of everything that cannot be computed exactly.
"""

from __future__ import annotations

from dataclasses import replace

from serving.planner.activation import defaults_for_card
from serving.planner.architecture import Architecture
from serving.planner.architecture_fields import Fields
from serving.planner.architecture_reading import read_architecture
from serving.planner.engine_arguments import less_sure
from serving.planner.latency import predict
from serving.planner.money import price
from serving.planner.plan_accounting import Account, account_of
from serving.planner.plan_checkpoint import doubt, unchecked, with_tensors
from serving.planner.plan_levers import best_lever
from serving.planner.plan_limits import beyond_cuda, is_cuda, no_times_because
from serving.planner.plan_unknown import plan_unknown
from serving.planner.plan_words import arithmetic, gib, words_for
from serving.planner.quantization_reading import Quantization, read_quantization
from serving.planner.refusals import refusals
from serving.planner.request import PlanRequest
from serving.planner.result import Plan


def make_plan(request: PlanRequest) -> Plan:
    """What this model needs in this topology, and whether it serves.

    Raises BadPlanInput (with the field) for senseless values; an engine's refusal is a verdict, not an error.
    """
    architecture = read_architecture(request.config, dtype=request.dtype)
    fields = Fields(request.config)
    quantization = with_tensors(read_quantization(fields, request.quantization), request.tensors, fields)
    resolved = resolve(request, architecture)
    settings = _settings(resolved, architecture, quantization)
    refused = refusals(resolved, architecture, quantization)
    doubted = doubt(request, architecture, quantization)
    if refused:
        known = None if doubted else _despite(refused, resolved, architecture, quantization)
        return _refused(refused, resolved, architecture, settings, known)
    if doubted or not architecture.is_known or not quantization.is_known:
        return plan_unknown(resolved, architecture, quantization, settings, doubt=doubted)
    account = account_of(resolved, architecture, quantization)
    if account.problems:
        return _refused(account.problems, resolved, architecture, settings)
    return _judged(resolved, architecture, quantization, account, settings)


def resolve(request: PlanRequest, architecture: Architecture) -> PlanRequest:
    """The request with vLLM's defaults for what it leaves out."""
    batch, sequences = defaults_for_card(request)
    length = request.max_model_len or architecture.default_context_tokens
    max_num_seqs = request.max_num_seqs or sequences
    max_num_batched_tokens = request.max_num_batched_tokens or min(batch, max_num_seqs * length)
    if request.max_num_seqs is None:
        max_num_seqs = min(max_num_seqs, max_num_batched_tokens)
    return replace(
        request,
        max_model_len=length,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
    )


def _judged(
    request: PlanRequest,
    architecture: Architecture,
    quantization: Quantization,
    account: Account,
    settings: dict[str, object],
) -> Plan:
    verdict, reasons, refused_field = words_for(request, account)
    reasons += tuple(filter(None, (quantization.note, unchecked(request))))
    lever = ""
    if verdict in ("tight", "does_not_fit") and is_cuda(request.accelerator):
        lever = best_lever(request, architecture, quantization, verdict)
    memory = account.memory
    # By what is counted: that something else may save memory makes no times known.
    no_times = no_times_because(request, architecture, memory, verdict)
    verdict, reasons = less_sure(verdict, reasons, request.uncounted)
    verdict, reasons = beyond_cuda(request, verdict, reasons)
    latency = predict(request, architecture, memory) if memory and not no_times else None
    return Plan(
        verdict=verdict,
        reasons=reasons,
        lever=lever,
        refused_field=refused_field,
        memory=memory,
        latency=latency,
        money=price(request, architecture, memory, latency) if memory else None,
        arithmetic=arithmetic(request, account),
        architecture=architecture.name,
        no_times_because=no_times,
        settings=settings | {"block_size": account.block_tokens},
    )


def _despite(
    found: list[tuple[str, str]], request: PlanRequest, architecture: Architecture, quantization: Quantization
) -> Account | None:
    """What is known of a model that the engine refuses for its options: its weights and cache all the same.
    None where the refusal is of the very sizes that they follow from."""
    is_split = any(field in ("tensor_parallel_size", "pipeline_parallel_size") for field, _ in found)
    is_sized = architecture.is_known and quantization.is_known
    if is_split or not is_sized or (quantization.refusal and not quantization.targets):
        return None
    account = account_of(request, architecture, quantization)
    return None if account.problems else account


def _refused(
    found: list[tuple[str, str]],
    request: PlanRequest,
    architecture: Architecture,
    settings: dict[str, object],
    account: Account | None = None,
) -> Plan:
    return Plan(
        "refused",
        tuple(message for _, message in found),
        refused_field=found[0][0],
        memory=account.memory if account else None,
        arithmetic=arithmetic(request, account) if account else (),
        architecture=architecture.name,
        architecture_is_known=architecture.is_known,
        no_times_because="The engine would not start.",
        settings=settings,
    )


def _settings(
    request: PlanRequest, architecture: Architecture, quantization: Quantization
) -> dict[str, object]:
    """What the plan took where the request said nothing."""
    return {
        "dtype": architecture.dtype,
        "quantization": quantization.method,
        "weight_format": quantization.scheme.name if quantization.targets else architecture.dtype,
        "kv_cache_dtype": request.kv_cache_dtype
        if request.kv_cache_dtype != "auto"
        else (quantization.kv_cache_dtype or "auto"),
        "max_model_len": request.max_model_len,
        "max_num_seqs": request.max_num_seqs,
        "max_num_batched_tokens": request.max_num_batched_tokens,
        "gpu_memory_utilization": request.gpu_memory_utilization,
        "regime": request.regime,
        "memory": gib(request.accelerator.usable_bytes) if request.accelerator else None,
    }
