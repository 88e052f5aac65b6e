"""How far predicted times per output token lie from measured ones, on models and accelerators left out.

Every prediction is the product's own (serving/planner/latency.py) with coefficients and bands refitted
without the group it is scored on. `--write` makes serving/data/latency_fit.json anew from all rows.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from statistics import mean, median
from typing import Any

from serving.accelerators import accelerator
from serving.planner import latency_fit
from serving.planner.architecture import Architecture
from serving.planner.architecture_reading import read_architecture
from serving.planner.latency import FIT_FILE, Coefficients, predict
from serving.planner.latency_data import (
    FOLDER,
    MeasuredRun,
    config_of,
    data_digest,
    measured_runs,
    placeable,
    request_of,
    sample_of,
)
from serving.planner.latency_fit import HeldOut, Sample
from serving.planner.plan import make_plan
from serving.planner.request import PlanRequest
from serving.planner.result import Memory

MODEL_GOAL = 0.18
COVERAGE_GOAL = 0.80
PLAN_GOAL_MS = 5.0
PLANS_TIMED = 200
OPEN_LOOP = (
    ("RTX4090_Llama-3.1-8B", "GeForce-RTX-4090", 1, 256, 41_408 * 131_072),
    ("RTXPRO6000_Qwen3-32B", "RTX-PRO-6000", 2, 128, None),
)
"""File of requests (its name ends in the model's), accelerator, tensor-parallel size, max_num_seqs, and the
KV cache's bytes where the run's tokens are known."""


def main() -> None:
    """Refit, score, print; write the fit where asked."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true", help="write serving/data/latency_fit.json")
    write = arguments.parse_args().write
    runs = measured_runs()
    samples = [sample_of(run, planned) for run in placeable(runs)]
    left = len(runs) - len(samples)
    print(
        f"{len(samples)} measured vLLM runs; {left} with data-parallel attention left out (never placed here)"
    )
    scores: dict[str, Any] = {}
    for title, group_of in (("model", latency_fit.by_model), ("accelerator", latency_fit.by_accelerator)):
        tpot, ttft = latency_fit.leave_out(samples, group_of)
        scores[f"{title}_left_out"] = {"tpot": rounded(tpot), "ttft_unloaded": rounded(ttft)}
        print_scores(f"time per output token, {title} left out", tpot, group_of)
        print_scores(f"time to first token without load, {title} left out", ttft, group_of)
    print_naive(samples)
    fitted = latency_fit.fit_with_bands(samples)
    print_coefficients(fitted)
    for row in OPEN_LOOP:
        print_open_loop(*row, fitted=fitted)
    print_plan_time(placeable(runs)[0])
    if write:
        write_fit(fitted, scores, today=datetime.now(UTC).date())


def planned(request: PlanRequest) -> tuple[PlanRequest, Architecture, Memory]:
    """The plan's own memory, and the request with the engine's defaults that the plan took."""
    plan = make_plan(request)
    assert plan.memory is not None, plan.reasons
    resolved = replace(
        request,
        max_num_seqs=int(str(plan.settings["max_num_seqs"])),
        max_num_batched_tokens=int(str(plan.settings["max_num_batched_tokens"])),
    )
    return resolved, read_architecture(request.config), plan.memory


def rounded(held_out: list[HeldOut]) -> dict[str, float]:
    """The scores as the fit file keeps them."""
    return {name: round(value, 4) for name, value in latency_fit.score(held_out).items()}


def print_scores(title: str, held_out: list[HeldOut], group_of: latency_fit.GroupOf) -> None:
    """One line per group left out and one for all."""
    print(f"\n{title}\n{'':<24}{'rows':>6}{'median':>9}{'mean':>9}{'p90':>9}{'bias':>9}{'in band':>9}")
    for group in sorted({group_of(row.sample) for row in held_out}):
        print_line(group, [row for row in held_out if group_of(row.sample) == group])
    print_line("all", held_out)


def print_line(name: str, rows: Iterable[HeldOut]) -> None:
    """One row of the table, in per cent."""
    score = latency_fit.score(rows)
    cells = "".join(f"{score[key]:>8.1%} " for key in ("median", "mean", "p90", "bias", "covered"))
    print(f"  {name:<22}{score['rows']:>6.0f}{cells}")


def print_naive(samples: list[Sample]) -> None:
    """The roofline without the fitted terms, and what was asked for."""
    errors = [abs(latency_fit.naive_tpot_s(sample) / sample.tpot_s - 1) for sample in samples]
    print(f"\nnaive roofline (80 % of bandwidth or half the peak): median {median(errors):.1%}, on all rows")
    print(
        f"goals: median with a model left out at most {MODEL_GOAL:.0%}, in band at least {COVERAGE_GOAL:.0%}"
    )


def print_coefficients(fitted: Coefficients) -> None:
    """The terms, from all rows."""
    for title, terms in (("step", fitted.decode), ("prefill", fitted.prefill)):
        print(f"{title:<8}" + "  ".join(f"{name} {value:.3g}" for name, value in terms.items()))
    print(
        "bands   " + "  ".join(f"{name} {low:.2f}-{high:.2f}" for name, (low, high) in fitted.bands.items())
    )


def print_open_loop(
    file: str, card: str, ranks: int, max_num_seqs: int, kv_cache_bytes: int | None, *, fitted: Coefficients
) -> None:
    """Mean time per token of a run with arrivals, beside the prediction at its mean concurrency.

    Plausibility only: neither accelerator is in the fit, and arrivals are no closed loop.
    """
    lines = (FOLDER / f"{file}.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines]
    spans = [one["last_token_ts"] - one["first_token_ts"] for one in requests]
    outputs = [one["output_toks"] for one in requests]
    start = min(one["first_token_ts"] for one in requests)
    duration_s = max(one["last_token_ts"] for one in requests) - start
    measured_s = mean(span / (count - 1) for span, count in zip(spans, outputs, strict=True) if count > 1)
    request = PlanRequest(
        config=config_of(file.partition("_")[2], "bf16"),
        accelerator=accelerator(card),
        tensor_parallel_size=ranks,
        max_model_len=8192,
        kv_cache_memory_bytes=kv_cache_bytes,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        concurrency=max(1, round(sum(spans) / duration_s)),
        prompt_tokens=round(mean(one["input_toks"] for one in requests)),
        output_tokens=round(mean(outputs)),
    )
    latency = predict(*planned(request), fitted)
    assert latency is not None
    tpot = latency.tpot_s
    print(
        f"{file}: {request.concurrency} in flight on average: measured {measured_s * 1000:.1f} ms per token, "
        f"predicted {tpot.expected * 1000:.1f} ({tpot.low * 1000:.1f} to {tpot.high * 1000:.1f}), "
        f"{tpot.expected / measured_s - 1:+.0%}; open loop, not in the fit"
    )


def print_plan_time(run: MeasuredRun) -> None:
    """Milliseconds of one whole closed-form plan, latency and money included."""
    request = request_of(run)
    make_plan(request)
    times_ms = []
    for _ in range(PLANS_TIMED):
        started = time.perf_counter()
        make_plan(request)
        times_ms.append((time.perf_counter() - started) * 1000)
    times_ms.sort()
    print(
        f"one closed-form plan ({run.model}): median {median(times_ms):.2f} ms, "
        f"p95 {times_ms[int(0.95 * PLANS_TIMED)]:.2f} ms; goal {PLAN_GOAL_MS:.0f}"
    )


def write_fit(fitted: Coefficients, scores: dict[str, Any], *, today: date) -> None:
    """The file every plan reads its coefficients from."""
    content = {
        "about": "Made by `python -m tests.bench.bench_planner --write`; see serving/planner/latency_fit.py.",
        "fitted": today.isoformat(),
        "data": "serving/data/measured/vllm_closed_loop.csv",
        "data_sha256": data_digest(),
        "rows": fitted.rows,
        "decode": significant(fitted.decode),
        "prefill": significant(fitted.prefill),
        "bands": {name: [round(low, 4), round(high, 4)] for name, (low, high) in fitted.bands.items()},
        "scores": scores,
    }
    FIT_FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {FIT_FILE.name}")


def significant(terms: Any) -> dict[str, float]:
    """Six significant digits."""
    return {name: float(f"{value:.6g}") for name, value in terms.items()}


if __name__ == "__main__":
    main()
