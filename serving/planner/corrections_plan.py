"""Applies a deployment's own measurements to a whole plan: its times and its prices. Pure.

The one call for pages and tasks; the statistics are `corrections`'s. It must not read the measurements: the
caller gives the windows of this model, topology and accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serving.planner.architecture import Architecture
from serving.planner.architecture_reading import read_architecture
from serving.planner.corrections import Correction, Observation, PredictAt, corrected, correction_of
from serving.planner.latency import predict
from serving.planner.money import price
from serving.planner.plan import resolve
from serving.planner.request import PlanRequest
from serving.planner.result import Latency, Memory, Plan


def corrected_plan(
    plan: Plan, request: PlanRequest, observations: Sequence[Observation]
) -> tuple[Plan, Correction | None]:
    """The plan with corrected times and prices, and the correction that did it; the plan itself without one.

    `plan` must be what `make_plan(request)` gave. The request's own config must be readable (BadPlanInput).
    """
    if plan.memory is None or plan.latency is None:
        return plan, None
    architecture = read_architecture(request.config, dtype=request.dtype)
    resolved = resolve(request, architecture)
    correction = correction_of(observations, predictions(resolved, architecture, plan.memory))
    if correction is None:
        return plan, None
    latency = corrected(plan.latency, correction)
    money = price(resolved, architecture, plan.memory, latency, correction)
    return replace(plan, latency=latency, money=money), correction


def predictions(request: PlanRequest, architecture: Architecture, memory: Memory) -> PredictAt:
    """The uncorrected prediction at an observation's own load. `request` with the engine's defaults."""

    def predict_at(observation: Observation) -> Latency | None:
        asked = replace(
            request,
            concurrency=max(1, round(observation.concurrency)),
            prompt_tokens=max(1, observation.prompt_tokens),
            output_tokens=max(1, observation.output_tokens),
        )
        return predict(asked, architecture, memory)

    return predict_at
