"""The plan beside the form, the topology cards, and the registry's chips."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from console.deployment_plan import make_plan
from console.forms import DeploymentForm
from console.models import AcceleratorPrice, ClusterStatus, Deployment, RegisteredModel, Replica
from tests.unit.planner.configs import LLAMA_8B, LLAMA_70B, QWEN_7B
from tests.unit.views.conftest import NODE

Form = dict[str, str]


def words(response: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.fixture
def gpus(cluster: ClusterStatus) -> ClusterStatus:
    """Two nodes with four H100 each."""
    cluster.nodes = [
        {**NODE, "node_id": f"n{index}", "name": f"node-{index}", "accelerators": {"H100": 4}}
        for index in (1, 2)
    ]
    cluster.save()
    return cluster


@pytest.fixture
def llama(model: RegisteredModel) -> RegisteredModel:
    model.config = LLAMA_8B
    model.facts = {"attention_heads": 32, "kv_heads": 8, "layers": 32, "max_context_tokens": 131072}
    model.save()
    return model


@pytest.fixture
def on_gpus(form_values: Form) -> Form:
    return {
        **form_values, "accelerator_type": "H100", "kv_cache_memory_bytes": "", "max_model_len": "16384",
        "max_num_seqs": "64", "price_per_accelerator_hour_usd": "",
    }  # fmt: skip


def test_the_panel_shows_memory_times_and_money(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    page = words(as_operator.post("/deployments/new/check/", on_gpus))
    for part in (
        "Fits",
        "Weights",
        "15.0",
        "KV cache holds",
        "TTFT without a queue",
        "TPOT",
        "per 1M output",
    ):
        assert part in page
    assert "there is room" in page
    assert "Predicted" in page


def test_what_does_not_fit_says_so_and_is_refused(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    RegisteredModel.objects.filter(pk=llama.pk).update(config=LLAMA_70B)
    assert "Does not fit" in words(as_operator.post("/deployments/new/check/", on_gpus))
    refused = as_operator.post("/deployments/new/", on_gpus)
    assert refused.status_code == 409
    assert "GiB" in words(refused)
    assert not Deployment.objects.exists()


def test_the_engines_own_refusal_comes_before_the_launch(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    phi = {**LLAMA_8B, "num_attention_heads": 40, "num_key_value_heads": 10, "hidden_size": 5120}
    RegisteredModel.objects.filter(pk=llama.pk).update(config=phi, facts={})
    refused = as_operator.post("/deployments/new/", {**on_gpus, "tensor_parallel_size": "4"})
    assert refused.status_code == 400
    assert not Deployment.objects.exists()


def test_a_revision_keeps_its_plan_and_the_catalogues_price(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    AcceleratorPrice.objects.create(
        accelerator_type="H100", usd_per_hour="1.25", from_date="2026-01-01", source="contract"
    )
    assert as_operator.post("/deployments/new/", on_gpus).status_code == 302
    deployment = Deployment.objects.get()
    assert str(deployment.price_per_accelerator_hour_usd) == "1.250000"
    plan = deployment.current_revision.plan  # type: ignore[union-attr]
    assert plan["verdict"] == "fits"
    assert plan["memory"]["stages"][0]["weight_bytes"] == 16094077440


def test_cards_draw_the_splits_and_name_the_impossible(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    response = as_operator.post("/deployments/new/topologies/", on_gpus)
    page = words(response)
    for part in ("Single", "Tensor parallel", "Tensor × pipeline", "Best for latency", "Best for cost"):
        assert part in page
    assert "node-1" in page
    assert response.content.decode().count('aria-pressed="true"') == 1
    RegisteredModel.objects.filter(pk=llama.pk).update(config=QWEN_7B, facts={})
    assert "28" in words(as_operator.post("/deployments/new/topologies/", on_gpus))


def test_claims_of_others_leave_less_room(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    both = {**on_gpus, "tensor_parallel_size": "4", "min_replicas": "2", "max_replicas": "2"}
    assert as_operator.post("/deployments/new/", {**both, "name": "other"}).status_code == 302
    assert "no room" in words(as_operator.post("/deployments/new/check/", on_gpus))
    assert "0 of 8 are free" in words(as_operator.post("/deployments/new/topologies/", on_gpus))


def test_a_small_cluster_still_shows_what_could_be(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    gpus.nodes = [{**NODE, "accelerators": {"H100": 1}}]
    gpus.save()
    page = words(as_operator.post("/deployments/new/topologies/", on_gpus))
    assert "The largest node has 1." in page
    assert "would span 2 nodes of 1" not in page


def test_a_group_may_span_nodes_with_a_warning(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    assert 'name="tp_may_span_nodes"' in as_operator.get("/deployments/new/").content.decode()
    wide = {**on_gpus, "tensor_parallel_size": "8"}
    assert "no room" in words(as_operator.post("/deployments/new/check/", wide))
    asked = {**wide, "tp_may_span_nodes": "on"}
    panel = words(as_operator.post("/deployments/new/check/", asked))
    assert "there is room" in panel
    assert "waits twice for the network" in panel
    assert "Tensor parallel over 2 nodes" in words(as_operator.post("/deployments/new/topologies/", asked))
    assert as_operator.post("/deployments/new/", asked).status_code == 302
    revision = Deployment.objects.get().current_revision
    assert revision is not None
    assert revision.engine["tp_may_span_nodes"] is True
    assert "checked" in as_operator.get("/deployments/chat/edit/").content.decode()


def test_an_edit_shows_what_the_update_holds_and_the_new_price(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    for kind, usd in (("H100", "2.5"), ("L40S", "0.75")):
        AcceleratorPrice.objects.create(
            accelerator_type=kind, usd_per_hour=usd, from_date="2026-01-01", source="contract"
        )
    assert as_operator.post("/deployments/new/", on_gpus).status_code == 302
    chat = Deployment.objects.get()
    Replica.objects.create(
        deployment=chat, deployment_name="chat", replica_id="r0", node_id="n1", revision=1,
        state="RUNNING", started_at=1.0, last_seen_at=1.0,
    )  # fmt: skip
    edit = {
        **on_gpus, "tensor_parallel_size": "2", "editing": "chat", "expected_version": str(chat.version),
        "price_per_accelerator_hour_usd": "2.5",
    }  # fmt: skip
    panel = words(as_operator.post("/deployments/new/check/", edit))
    assert "During this update 2 to 3 × H100" in panel
    assert "Callers wait" in panel
    assert "during this update 2 to 3" in words(as_operator.post("/deployments/new/topologies/", edit))
    gpus.nodes = [{**NODE, "accelerators": {"L40S": 4}}]
    gpus.save()
    other = {**edit, "accelerator_type": "L40S"}
    assert "$1.50/h" in words(as_operator.post("/deployments/new/check/", other))
    assert as_operator.post("/deployments/chat/edit/", other).status_code == 302
    chat.refresh_from_db()
    assert str(chat.price_per_accelerator_hour_usd) == "0.750000"


def test_what_nobody_counted_keeps_the_panel_from_saying_fits(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    asked = {**on_gpus, "engine_kwargs": '{"speculative_config": {"method": "ngram"}}'}
    panel = words(as_operator.post("/deployments/new/check/", asked))
    assert "Tight" in panel
    assert "Not counted: speculative_config" in panel


def test_an_unknown_architecture_is_not_shown_as_one_that_does_not_fit(
    as_viewer: Client, gpus: ClusterStatus, llama: RegisteredModel
) -> None:
    RegisteredModel.objects.filter(pk=llama.pk).update(
        config={**LLAMA_8B, "model_type": "nobody-knows", "architectures": ["NobodyKnowsForCausalLM"]}
    )
    page = as_viewer.get("/models/").content.decode()
    assert re.search(r'class="fit u">.*?H100 unknown</summary>', page, re.S)
    assert 'class="fit b"' not in page


def test_without_a_model_or_its_files_the_fragments_say_what_is_missing(
    as_operator: Client, gpus: ClusterStatus, form_values: Form
) -> None:
    for address in ("check", "topologies"):
        assert "Choose a model" in words(
            as_operator.post(f"/deployments/new/{address}/", {**form_values, "model": ""})
        )
    RegisteredModel.objects.create(name="far", source_kind="hub", source="a/b")
    assert "not known here" in words(
        as_operator.post("/deployments/new/topologies/", {**form_values, "model": "far"})
    )


def test_the_bar_adds_up_to_the_limit_and_marks_it(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    form = DeploymentForm(on_gpus)
    plan = make_plan(form, name=None)
    assert plan.memory is not None and plan.memory.requested_bytes is not None
    assert sum(part.size for part in plan.bar if part.kind != "f") == plan.memory.requested_bytes
    assert plan.limit_share == pytest.approx(0.92)
    assert sum(part.share for part in plan.bar) == pytest.approx(1)
    page = as_operator.post("/deployments/new/check/", on_gpus).content.decode()
    assert 'class="lim"' in page and "the utilisation limit is at 92%" in page
    assert "Activations, at most" not in page


def test_an_architecture_that_nobody_knows_is_unknown_everywhere(
    as_operator: Client, gpus: ClusterStatus, llama: RegisteredModel, on_gpus: Form
) -> None:
    RegisteredModel.objects.filter(pk=llama.pk).update(
        config={**LLAMA_8B, "architectures": ["FrobForCausalLM"]},
        facts={**llama.facts, "weight_bytes": 16 << 30},
        problems=[{"level": "error", "field": "architectures", "message": "vLLM does not support it."}],
    )
    panel = words(as_operator.post("/deployments/new/check/", on_gpus))
    assert "Unknown" in panel and "Files are faulty" not in panel
    assert "14.40 GiB to 18.40 GiB of weights" in panel
    assert "structure is not known" in panel and "kind of machine" not in panel
    cards = words(as_operator.post("/deployments/new/topologies/", on_gpus))
    assert "14.40 GiB to 18.40 GiB of weights" in cards
    assert not re.search(r"\d KV tokens", cards)


def test_a_viewer_plans_nothing_here(as_viewer: Client, form_values: Form) -> None:
    assert as_viewer.post("/deployments/new/topologies/", form_values).status_code == 403


def test_chips_show_where_a_model_fits_with_the_sum(
    as_viewer: Client, gpus: ClusterStatus, llama: RegisteredModel
) -> None:
    RegisteredModel.objects.create(name="huge", source_kind="folder", source="/x", config=LLAMA_70B)
    page = as_viewer.get("/models/").content.decode()
    assert re.search(r'class="fit y">.*?H100</summary>', page, re.S)
    assert re.search(r'class="fit y">.*?[24] × H100</summary>', page, re.S)
    assert "KV tokens" in page
    assert "H100" in as_viewer.get("/models/huge/").content.decode()


def test_chips_go_on_to_pipeline_stages_and_say_when_nothing_is_free(
    as_viewer: Client, gpus: ClusterStatus
) -> None:
    giant = {**LLAMA_70B, "num_hidden_layers": 126, "hidden_size": 16384, "intermediate_size": 53248}
    giant |= {"num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": 128}
    RegisteredModel.objects.create(name="giant", source_kind="folder", source="/x", config=giant)
    page = as_viewer.get("/models/").content.decode()
    assert re.search(r"fits, none free: </span>16 × H100</summary>", page)
    assert "TP 8 × PP 2: " in page
