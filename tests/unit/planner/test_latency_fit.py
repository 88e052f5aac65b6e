"""The fit finds known coefficients again, never goes below zero, and the shipped file belongs to its data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.planner.architecture import Architecture
from serving.planner.architecture_reading import read_architecture
from serving.planner.latency import (
    Coefficients,
    load_of,
    predict,
    prefill_s,
    shipped_coefficients,
    shipped_fit,
    tpot_parts,
)
from serving.planner.latency_data import data_digest, measured_runs, placeable, request_of, sample_of
from serving.planner.latency_fit import (
    BEFORE_MEASURING_DECODE,
    BEFORE_MEASURING_PREFILL,
    Sample,
    by_model,
    fit_with_bands,
    leave_out,
    naive_tpot_s,
    non_negative_fit,
    quantiles,
    score,
)
from serving.planner.latency_work import work_of
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.result import Memory
from tests.unit.planner.latency_cases import ask, case

MODELS = (("Llama-3.1-8B", "bf16", 2.0), ("Qwen3-32B", "bf16", 2.0), ("gpt-oss-120b", "fp4", 0.53))


def made_runs(truth: Coefficients) -> list[Sample]:
    """Runs of three models that take exactly what the coefficients say."""
    samples = []
    for model, precision, size in MODELS:
        for ranks in (1, 2, 4, 8):
            for concurrency in (1, 4, 32, 128):
                for prompt in (256, 4096):
                    request = ask(
                        model=model, precision=precision, tensor_parallel_size=ranks,
                        concurrency=concurrency, prompt_tokens=prompt, output_tokens=512,
                    )  # fmt: skip
                    request, architecture, memory = case(request, num_blocks=1_000_000, weight_bytes=size)
                    work, load = work_of(request, architecture, memory), load_of(request, memory)
                    ttft_s = prefill_s(work, prompt, truth)
                    tpot_s = sum(tpot_parts(work, load, truth).values())
                    samples.append(Sample(model, "H100", work, load, ttft_s, tpot_s))
    return samples


def test_times_made_by_known_coefficients_are_predicted_again_on_a_model_left_out() -> None:
    truth = Coefficients(
        decode={name: value * 1.4 for name, value in BEFORE_MEASURING_DECODE.items()},
        prefill={name: value * 0.8 for name, value in BEFORE_MEASURING_PREFILL.items()},
        bands={},
    )
    tpot, ttft = leave_out(made_runs(truth), by_model)
    assert len(tpot) == 96 and score(tpot)["median"] < 0.06
    assert len(ttft) == 48 and score(ttft)["median"] < 0.15


def test_a_band_is_as_wide_as_the_errors_on_models_left_out() -> None:
    truth = shipped_coefficients()
    runs = [
        replace(run, tpot_s=run.tpot_s * (1.3 if index % 2 else 0.8))
        for index, run in enumerate(made_runs(truth))
    ]
    low, high = fit_with_bands(runs).bands["tpot_quiet"]
    assert low < 0.95 and high > 1.1
    held_out, _ = leave_out(runs, by_model)
    assert score(held_out)["covered"] > 0.75


def test_coefficients_are_never_negative() -> None:
    rows = [({"a": 1.0, "b": float(x)}, 10.0 / x) for x in range(1, 20)]
    found = non_negative_fit(rows, before={"a": 1.0, "b": 1.0})
    assert found["b"] >= 0 and found["a"] > 0


def test_one_absurd_row_does_not_move_the_fit() -> None:
    rows = [({"a": float(x)}, 2.0 * x) for x in range(1, 60)]
    clean = non_negative_fit(rows, before={"a": 1.0})["a"]
    dirty = non_negative_fit([*rows, ({"a": 60.0}, 0.5)], before={"a": 1.0})["a"]
    assert clean == pytest.approx(2.0, rel=0.05) and dirty == pytest.approx(clean, rel=0.05)


def test_quantiles_lie_between_the_values() -> None:
    assert quantiles([1.0, 2.0, 3.0, 4.0, 5.0], (0.0, 1.0)) == (1.0, 5.0)
    assert quantiles([5.0, 1.0], (0.5, 0.25)) == (3.0, 2.0)
    assert quantiles([7.0], (0.05, 0.95)) == (7.0, 7.0)


def test_the_shipped_coefficients_belong_to_the_data_that_lies_beside_them() -> None:
    fit = shipped_fit()
    assert fit["data_sha256"] == data_digest()
    assert fit["rows"] == len(placeable(measured_runs()))
    assert fit["scores"]["model_left_out"]["tpot"]["median"] <= 0.18
    assert fit["scores"]["model_left_out"]["tpot"]["covered"] >= 0.80


def test_measured_runs_of_a_model_left_out_are_predicted_by_the_code_as_it_is() -> None:
    """Every third run, fitted and scored anew: the file's scores could be those of older code."""
    samples = [sample_of(run, planned) for run in placeable(measured_runs())[::3]]
    tpot, _ = leave_out(samples, by_model)
    found = score(tpot)
    assert found["rows"] == len(samples)
    assert found["median"] <= 0.18 and found["covered"] >= 0.80


def planned(request: PlanRequest) -> tuple[PlanRequest, Architecture, Memory]:
    plan = make_plan(request)
    assert plan.memory is not None, plan.reasons
    settings = {name: plan.settings[name] for name in ("max_num_seqs", "max_num_batched_tokens")}
    return replace(request, **settings), read_architecture(request.config), plan.memory  # type: ignore[arg-type]


def test_measured_runs_are_read_as_plans_in_seconds() -> None:
    runs = measured_runs()
    assert len(runs) == 973 and len(placeable(runs)) == 901
    assert all(0.001 < run.tpot_s < 1 and run.ttft_s > 0.005 for run in runs)
    request = request_of(runs[0])
    assert request.accelerator is not None and request.accelerator.name == "B300"
    assert (request.tensor_parallel_size, request.concurrency) == (4, 128)


def test_the_score_is_of_the_very_prediction_a_plan_shows() -> None:
    request, architecture, memory = case(ask(concurrency=16))
    latency = predict(request, architecture, memory)
    assert latency is not None
    work, load = work_of(request, architecture, memory), load_of(request, memory)
    assert sum(tpot_parts(work, load, shipped_coefficients()).values()) == latency.tpot_s.expected
    assert prefill_s(work, load.prompt_tokens, shipped_coefficients()) == latency.ttft_unloaded_s.expected
    naive = naive_tpot_s(Sample("m", "H100", work, load, ttft_s=1.0, tpot_s=1.0))
    assert 0 < naive < latency.tpot_s.expected
