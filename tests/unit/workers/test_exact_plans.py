"""Exact plans: asked once, built one at a time, ended in time. The builder is a small script here; the real
one runs in tests/cluster/test_exact_plan.py."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from console import exact_plans
from console.exact_plans import capacity_for, exact_plan_for, request_exact_plan, why_not_exact
from console.models import ExactPlan
from serving.planner.request import Accelerator, PlanRequest, TensorGroup
from workers import exact_plans as worker
from workers import lease

ANSWER = {"engine_version": "0.29.0", "stages": [{"weight_bytes": 7}], "unavailable": None, "refusal": None}
H100 = Accelerator(name="H100", usable_bytes=79 << 30, compute_capability=(9, 0), vendor="NVIDIA")
REQUEST = PlanRequest(config={"model_type": "llama", "num_hidden_layers": 2}, accelerator=H100)


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the builder a script for a body; it sees the request as `asked`."""

    def use(body: str) -> Path:
        script = tmp_path / "builder.py"
        script.write_text(f"import json, os, sys, time\nasked = json.load(sys.stdin)\n{body}\n")
        monkeypatch.setattr(worker, "BUILDER", (sys.executable, str(script)))
        return tmp_path

    return use


def answering(**changes: Any) -> str:
    return f"print(json.dumps({ANSWER | changes!r}))"


def asked(now: float | None = None, request: PlanRequest = REQUEST, **options: Any) -> ExactPlan:
    row = request_exact_plan(request, now=time.time() if now is None else now, **options)
    assert row is not None
    return row


@pytest.mark.django_db(transaction=True)
def test_a_question_is_sent_once_and_answered_with_its_config(builder: Any, wakes: list[str]) -> None:
    builder("print(json.dumps({'engine_version': '0.29.0', 'unavailable': None, 'layers': "
            "asked['config']['num_hidden_layers'], 'tp': asked['tensor_parallel_size']}))")  # fmt: skip
    first, second = asked(), asked()
    assert first.digest == second.digest and first.status == "queued"
    assert sent(wakes) == 1
    assert worker.run_exact_plans() == 1
    row = exact_plan_for(REQUEST)
    assert row is not None and row.status == "done" and row.error == ""
    assert row.result == {"engine_version": "0.29.0", "unavailable": None, "layers": 2, "tp": 1}
    assert row.started_at is not None and row.finished_at is not None
    assert asked().status == "done" and sent(wakes) == 1


def sent(wakes: list[str]) -> int:
    return wakes.count(exact_plans.TASK)


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tasks that console.exact_plans and the worker send."""
    names: list[str] = []
    for module in (exact_plans, worker):
        monkeypatch.setattr(module, "send_task", lambda name, *_, **__: bool(names.append(name)) or True)
    return names


def test_the_key_is_the_model_topology_and_options_but_not_the_memory_left() -> None:
    key = exact_plans.digest_of(REQUEST)
    same = (
        {"gpu_memory_utilization": 0.5},
        {"kv_cache_memory_bytes": 1 << 30},
        {"concurrency": 9},
        {"tensors": (TensorGroup("lm_head.weight", "BF16", (1, 1), 1, 2),)},
        {"enable_prefix_caching": True},
    )
    other = (
        {"config": {"model_type": "llama", "num_hidden_layers": 3}},
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
        {"dtype": "float16"},
        {"kv_cache_dtype": "fp8"},
        {"max_model_len": 512},
        {"block_size": 32},
        {"enable_prefix_caching": False},
        {"accelerator": None},
        {"accelerator": replace(H100, compute_capability=(8, 0))},
    )
    assert [key == exact_plans.digest_of(replace(REQUEST, **change)) for change in same] == [True] * len(same)
    digests = {exact_plans.digest_of(replace(REQUEST, **change)) for change in other}
    assert len(digests) == len(other) and key not in digests


def test_headers_reach_the_builder_only_where_quantisation_reads_them() -> None:
    tensors = (TensorGroup("model.layers.*.mlp.up_proj.qweight", "I32", (8, 8), 2, 512),)
    awq = replace(REQUEST, config={**REQUEST.config, "quantization_config": {"quant_method": "awq"}})
    assert "tensor_groups" not in exact_plans.exact_request_of(replace(REQUEST, tensors=tensors))
    groups = exact_plans.exact_request_of(replace(awq, tensors=tensors))["tensor_groups"]
    assert groups == [
        {"pattern": "model.layers.*.mlp.up_proj.qweight", "dtype": "I32", "count": 2, "indices": []}
    ]


@pytest.mark.django_db
def test_what_exact_mode_cannot_know_is_said_and_not_queued() -> None:
    amd = replace(REQUEST, accelerator=replace(H100, name="MI300X", vendor="AMD"))
    assert "AMD" in why_not_exact(amd)
    assert request_exact_plan(amd, now=1.0) is None
    large = replace(REQUEST, config={"model_type": "x" * 3_000_000})
    assert "too large" in why_not_exact(large)
    assert why_not_exact(REQUEST) == why_not_exact(replace(REQUEST, accelerator=None)) == ""


@pytest.mark.django_db(transaction=True)
def test_a_builder_that_hangs_is_ended_with_its_children(
    builder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = builder(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.path.join(os.path.dirname(__file__), 'pids'), 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)"
    )
    limits = worker.Limits(wall_s=2.0)
    monkeypatch.setattr(worker, "Limits", lambda: limits)
    row = asked()
    worker.run_exact_plans()
    row.refresh_from_db()
    assert row.status == "failed" and row.error == "The build took more than 2 s and was stopped."
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert [is_running(pid) for pid in pids] == [False, False]


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            "raise ImportError('no module named x in /opt/somewhere/deep/lib')",
            "The builder stopped with exit code 1: ImportError: no module named x in …/lib",
        ),
        ("print('not json')", "The builder stopped with exit code 0: it said nothing"),
        (answering(unavailable="exact mode is not available with vLLM 0.30.0"),
         "exact mode is not available with vLLM 0.30.0"),
        ("print(json.dumps({'error': 'dtype must be text', 'field': 'dtype'})); sys.exit(2)",
         "dtype must be text (field dtype)."),
        ("os.kill(os.getpid(), 24)",
         "The build took more than 110 s of processor time, or was ended from outside."),
    ],
)  # fmt: skip
def test_failures_are_one_plain_sentence(builder: Any, body: str, error: str) -> None:
    builder(body)
    row = asked()
    worker.run_exact_plans()
    row.refresh_from_db()
    assert (row.status, row.error, row.result) == ("failed", error, None)


@pytest.mark.django_db(transaction=True)
def test_the_builder_sees_no_secret_and_no_home_of_ours(
    builder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAYDECK_SECRET_KEY", "DATABASE_URL", "REDIS_URL", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret-value")
    builder("print(json.dumps({'unavailable': None, 'env': dict(os.environ)}))")
    row = asked()
    worker.run_exact_plans()
    row.refresh_from_db()
    assert row.result is not None and "secret-value" not in json.dumps(row.result)
    assert row.result["env"]["HOME"] != os.environ.get("HOME")


@pytest.mark.django_db(transaction=True)
def test_one_builds_at_a_time_and_the_holder_takes_what_came_meanwhile(builder: Any) -> None:
    builder(answering())
    row = asked()
    token = lease.acquire(worker.LEASE, holder="another thread", ttl_s=60, now=time.time())
    assert token is not None
    assert worker.run_exact_plans() == 0
    row.refresh_from_db()
    assert row.status == "queued"
    lease.release(worker.LEASE, token=token)
    asked(request=replace(REQUEST, tensor_parallel_size=2))
    assert worker.run_exact_plans() == 2
    assert set(ExactPlan.objects.values_list("status", flat=True)) == {"done"}


@pytest.mark.django_db(transaction=True)
def test_an_answer_to_an_older_question_of_the_same_row_is_dropped(builder: Any) -> None:
    builder(answering())
    row = asked(now=100.0)
    taken = worker._take_next(100.0)
    assert taken is not None
    asked(now=100.0 + exact_plans.STALE_RUNNING_S + 1)
    worker._build(taken, clock=lambda: 400.0)
    row.refresh_from_db()
    assert row.status == "queued" and row.result is None


@pytest.mark.django_db
def test_lost_and_failed_questions_are_asked_again_in_their_time(
    wakes: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    def ask(now: float, **options: Any) -> str:
        with django_capture_on_commit_callbacks(execute=True):
            return asked(now=now, **options).status

    ask(1000.0)
    assert ask(1030.0) == "queued" and sent(wakes) == 1
    assert ask(1000.0 + exact_plans.STALE_QUEUED_S + 1) == "queued" and sent(wakes) == 2
    ExactPlan.objects.update(status="running", started_at=2000.0)
    assert ask(2100.0) == "running" and ask(2000.0 + exact_plans.STALE_RUNNING_S + 1) == "queued"
    ExactPlan.objects.update(status="failed", finished_at=3000.0, error="broken")
    assert ask(3001.0) == "failed" and ask(3001.0, again=True) == "queued"
    ExactPlan.objects.update(status="failed", finished_at=4000.0, error="broken")
    assert ask(4000.0 + exact_plans.RETRY_FAILED_AFTER_S + 1) == "queued"
    ExactPlan.objects.update(status="done", finished_at=5000.0)
    assert ask(1e9) == "done" and ask(1e9, again=True) == "done"


@pytest.mark.django_db
def test_older_questions_give_way_and_the_newest_is_taken_first() -> None:
    rows = [asked(now=float(n), request=replace(REQUEST, max_model_len=n)) for n in range(1, 31)]
    states = list(ExactPlan.objects.order_by("requested_at").values_list("status", flat=True))
    assert states == ["failed"] * (30 - exact_plans.MOST_QUEUED) + ["queued"] * exact_plans.MOST_QUEUED
    taken = worker._take_next(50.0)
    assert taken is not None and taken.digest == rows[-1].digest and taken.status == "running"


@pytest.mark.django_db
def test_the_table_keeps_the_newest_finished_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_plans, "KEPT_ROWS", 5)
    ExactPlan.objects.bulk_create(
        ExactPlan(digest=f"{n:064d}", status="running" if n == 0 else "done", requested_at=float(n))
        for n in range(12)
    )
    assert exact_plans.forget_old_plans() == 6
    kept = set(ExactPlan.objects.values_list("requested_at", flat=True))
    assert kept == {0.0, 7.0, 8.0, 9.0, 10.0, 11.0}
    assert exact_plans.forget_old_plans() == 0


def test_capacity_follows_the_smallest_stage_and_keeps_one_block_back() -> None:
    result = {
        "geometry": {"bytes_per_block_by_stage": [360448, 360448, 327680], "blocks_per_request": 512},
        "settings": {"max_model_len": 8192},
    }
    # vLLM 0.29's get_kv_cache_configs says the same of Llama-3.1-8B, TP 2 × PP 3, 20 GiB.
    found = capacity_for(result, kv_cache_bytes=20 << 30)
    assert found == exact_plans.ExactCapacity(59578, 953248, 116.36328125, fits_one_request=True)
    just_short = capacity_for(result, kv_cache_bytes=512 * 360448)
    assert just_short is not None and not just_short.fits_one_request
    enough = capacity_for(result, kv_cache_bytes=513 * 360448)
    assert enough is not None and enough.fits_one_request
    assert capacity_for({"geometry": None}, kv_cache_bytes=1) is None
