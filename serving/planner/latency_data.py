"""The measured vLLM runs that the latency is fitted to, as requests the planner understands.

Reads serving/data/measured (see its README for the source). Needed by the fit and by `make bench-planner`,
never by a plan. It must not decide what a run teaches: that is `latency_fit`'s.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from serving.accelerators import accelerator
from serving.planner.architecture import Architecture
from serving.planner.latency import load_of
from serving.planner.latency_fit import Sample
from serving.planner.latency_work import work_of
from serving.planner.request import PlanRequest
from serving.planner.result import Memory

FOLDER = Path(__file__).parent.parent / "data" / "measured"
RUNS_FILE = FOLDER / "vllm_closed_loop.csv"
CONFIGS = FOLDER / "configs"

SYSTEMS = {"h100_sxm": "H100", "h200_sxm": "H200", "b200_sxm": "B200", "b300_sxm": "B300"}
MEMORY_UTILIZATION = 0.90
"""The default of the vLLM versions that were measured (0.15 to 0.19)."""
PLANNED_AS = {"MiniMaxM2ForCausalLM": "MixtralForCausalLM"}
"""Measured classes without a closed form -> one whose layers have the same matrices (the norms differ)."""
SPARE_TOKENS = 256
"""Context beyond prompt and output that the runs' max_model_len is taken to have."""

Planned = Callable[[PlanRequest], tuple[PlanRequest, Architecture, Memory]]
"""The request with the engine's defaults filled in, the model, and where its memory goes."""


@dataclass(frozen=True)
class MeasuredRun:
    """One row: a closed loop of `concurrency` requests of equal lengths. Times in seconds."""

    model: str
    system: str
    precision: str
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    attention_data_parallel_size: int
    expert_parallel_size: int
    ttft_s: float
    tpot_s: float


def measured_runs() -> list[MeasuredRun]:
    """All rows of the file."""
    with RUNS_FILE.open(newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def placeable(runs: list[MeasuredRun]) -> list[MeasuredRun]:
    """Those of a topology this product places: no data-parallel attention inside one engine.

    Such rows are also ambiguous: they repeat other rows' times with the concurrency divided by the ranks.
    """
    return [run for run in runs if run.attention_data_parallel_size == 1]


def data_digest() -> str:
    """SHA-256 of the runs' file: which data a fit belongs to."""
    return hashlib.sha256(RUNS_FILE.read_bytes()).hexdigest()


def request_of(run: MeasuredRun) -> PlanRequest:
    """What the run would be asked of the planner as."""
    card = accelerator(SYSTEMS[run.system])
    assert card is not None, run.system
    return PlanRequest(
        config=config_of(run.model, run.precision),
        accelerator=card,
        tensor_parallel_size=run.tensor_parallel_size,
        pipeline_parallel_size=run.pipeline_parallel_size,
        enable_expert_parallel=run.expert_parallel_size > 1,
        max_model_len=run.prompt_tokens + run.output_tokens + SPARE_TOKENS,
        gpu_memory_utilization=MEMORY_UTILIZATION,
        concurrency=run.concurrency,
        prompt_tokens=run.prompt_tokens,
        output_tokens=run.output_tokens,
    )


def sample_of(run: MeasuredRun, planned: Planned) -> Sample:
    """The run as the fit needs it, through the same functions as a plan's prediction."""
    request, architecture, memory = planned(request_of(run))
    return Sample(
        model=run.model.partition("/")[2] or run.model,
        accelerator=SYSTEMS[run.system],
        work=work_of(request, architecture, memory),
        load=load_of(request, memory),
        ttft_s=run.ttft_s,
        tpot_s=run.tpot_s,
    )


@cache
def config_of(model: str, precision: str) -> dict[str, Any]:
    """The model's config.json in the precision that was measured."""
    name = model.partition("/")[2] or model
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.{precision}.json").read_text())
    classes = [PLANNED_AS.get(each, each) for each in config["architectures"]]
    return config | {"architectures": classes}


def _run(row: dict[str, str]) -> MeasuredRun:
    return MeasuredRun(
        model=row["model_path"],
        system=row["system"],
        precision=row["precision"],
        prompt_tokens=int(row["isl"]),
        output_tokens=int(row["osl"]),
        concurrency=int(row["batch_size"]),
        tensor_parallel_size=int(row["tp_size"]),
        pipeline_parallel_size=int(row["pp_size"]),
        attention_data_parallel_size=int(row["attention_dp_size"]),
        expert_parallel_size=int(row["moe_ep_size"]),
        ttft_s=float(row["silicon_ttft_ms"]) / 1000,
        tpot_s=float(row["silicon_tpot_ms"]) / 1000,
    )
