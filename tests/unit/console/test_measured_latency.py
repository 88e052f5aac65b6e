"""What was measured corrects what is predicted, on the panel, the cards, the table and in the API alike."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from console import measured_latency
from console.models import Deployment, RegisteredModel, RequestRecord, Revision
from console.planning import Load, plan_engine
from console.topology_cards import choices
from serving.spec import EngineSpec
from tests.unit.planner.configs import LLAMA_8B

pytestmark = pytest.mark.django_db
LOAD = Load(concurrency=8)
SLOW_TPOT_S = 0.5
"""Far from any prediction for an H100."""
UNCORRECTED_AT_MOST_S = 0.015


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    measured_latency._kept.clear()
    yield
    measured_latency._kept.clear()


@pytest.fixture
def model(db: None) -> RegisteredModel:
    return RegisteredModel.objects.create(
        name="llama", source_kind="hub", source="meta/llama", config=LLAMA_8B, facts={}
    )


def engine_of(model: RegisteredModel, **changes: Any) -> EngineSpec:
    values: dict[str, Any] = {
        "model": model.name,
        "model_source": model.source,
        "accelerator_type": "H100",
        "max_model_len": 8192,
        "max_num_seqs": 64,
    }
    return EngineSpec(**{**values, **changes})


def serve(
    model: RegisteredModel, engine: EngineSpec, *, tpot_s: float = SLOW_TPOT_S, count: int = 60
) -> None:
    """A deployment of this engine that has answered `count` requests, eight at a time."""
    deployment = Deployment.objects.create(name="served", model=model, requested_at=1.0)
    Revision.objects.create(deployment=deployment, number=1, engine=engine.model_dump(mode="json"))
    begin = time.time() // 300 * 300 - 3600  # all in one window
    RequestRecord.objects.bulk_create(
        RequestRecord(
            id=f"r{index}", deployment=deployment, deployment_name="served", revision=1, replica="a",
            path="/v1/chat/completions", stream=True, started_at=begin + (index // 8) * 30.0,
            prompt_tokens=1024, completion_tokens=50, ttft_s=0.1, tpot_s=tpot_s, decode_s=49 * tpot_s,
            status=200, outcome="ok",
        )
        for index in range(60)
    )  # fmt: skip


def tpot(engine: EngineSpec, model: RegisteredModel) -> float:
    plan = plan_engine(engine, model, load=LOAD)
    assert plan is not None
    assert plan.latency is not None
    return plan.latency.tpot_s.expected


def test_traffic_of_the_same_setup_corrects_the_panel(model: RegisteredModel) -> None:
    engine = engine_of(model)
    before = tpot(engine, model)
    serve(model, engine)
    measured_latency._kept.clear()
    assert before < UNCORRECTED_AT_MOST_S
    assert tpot(engine, model) > 2 * before


def test_panel_card_table_and_api_say_the_same(model: RegisteredModel, operator: Any) -> None:
    engine = engine_of(model)
    serve(model, engine)
    on_panel = tpot(engine, model)
    found = choices(engine, model, LOAD, name="")
    assert found is not None
    by_sizes = {(one.tensor_parallel_size, one.pipeline_parallel_size): one for one in found.ranked}
    on_card = next(card.topology for card in found.cards if card.title == "Single")
    assert on_card.plan.latency is not None
    assert on_card.plan.latency.tpot_s.expected == pytest.approx(on_panel)
    assert by_sizes[(1, 1)].plan == on_card.plan
    other = by_sizes[(2, 1)].plan.latency
    assert other is not None
    assert other.basis == "roofline"  # nobody measured that one

    body = {
        "model": "llama",
        "accelerator": "H100",
        "max_model_len": 8192,
        "max_num_seqs": 64,
        "concurrency": 8,
    }
    caller = Client()
    caller.force_login(operator)
    answer = _post(caller, "plan", body)
    assert answer["tpot_s"]["expected"] == pytest.approx(on_panel, rel=1e-4)
    assert answer["latency_basis"] != "roofline"
    items = _post(caller, "plan/topologies", body)["items"]
    single = next(one for one in items if one["accelerators"] == 1)
    assert single["plan"]["tpot_s"]["expected"] == pytest.approx(on_panel, rel=1e-4)


@pytest.mark.parametrize(
    "served",
    [
        {"model_source": "meta/another"},
        {"hub_revision": "v2"},
        {"accelerator_type": "H200"},
        {"dtype": "float16"},
        {"tensor_parallel_size": 2},
        {"engine_kwargs": {"quantization": "fp8"}},
        {"engine_kwargs": {"kv_cache_dtype": "fp8"}},
        {"engine_kwargs": {"speculative_config": {"method": "ngram"}}},
    ],
)
def test_another_setups_speed_corrects_nothing(model: RegisteredModel, served: dict[str, Any]) -> None:
    engine = engine_of(model)
    before = tpot(engine, model)
    serve(model, engine_of(model, **served))
    measured_latency._kept.clear()
    assert tpot(engine, model) == before


@pytest.mark.parametrize(
    "served",
    [
        {"max_model_len": 4096},
        {"max_num_seqs": 32},
        {"engine_kwargs": {"kv_cache_dtype": "auto", "enable_prefix_caching": True}},
    ],
)
def test_what_changes_no_speed_makes_no_other_setup(model: RegisteredModel, served: dict[str, Any]) -> None:
    serve(model, engine_of(model, **served))
    assert tpot(engine_of(model), model) > 2 * UNCORRECTED_AT_MOST_S


def test_old_failed_and_waking_requests_do_not_count(model: RegisteredModel) -> None:
    engine = engine_of(model)
    serve(model, engine)
    RequestRecord.objects.update(started_at=time.time() - 8 * 86_400)
    before = tpot(engine, model)
    assert before < UNCORRECTED_AT_MOST_S
    RequestRecord.objects.update(started_at=time.time() - 60, outcome="failed")
    measured_latency._kept.clear()
    assert tpot(engine, model) == before
    RequestRecord.objects.update(outcome="ok", woke=True)
    measured_latency._kept.clear()
    assert tpot(engine, model) == before


def test_on_cpu_the_measurement_stands_where_nothing_is_predicted(model: RegisteredModel) -> None:
    engine = engine_of(model, accelerator_type=None, kv_cache_memory_bytes=2 << 30)
    plan = plan_engine(engine, model, load=LOAD)
    assert plan is not None
    assert plan.latency is None
    serve(model, engine, tpot_s=0.25)
    measured_latency._kept.clear()
    plan = plan_engine(engine, model, load=LOAD)
    assert plan is not None
    assert plan.latency is not None
    assert plan.latency.tpot_s.expected == pytest.approx(0.25)
    assert plan.latency.basis == "measured"


def _post(caller: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = caller.post(f"/api/v1/{path}", json.dumps(body), content_type="application/json")
    assert answer.status_code == 200, answer.content
    return dict(answer.json())
