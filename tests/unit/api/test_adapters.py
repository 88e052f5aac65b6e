"""LoRA adapters over API and page: registered with a model, loaded by a deployment, guarded while in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from console import actions
from console.desired import desired_document
from console.models import ClusterStatus, Deployment, Event, ModelAdapter, RegisteredModel, User
from tests.unit.api.conftest import Caller, error_of
from tests.unit.serving.adapter_folders import write_adapter

pytestmark = pytest.mark.django_db


@pytest.fixture
def based(tmp_path: Path, cluster: ClusterStatus) -> RegisteredModel:
    """A model whose facts an adapter of adapter_folders goes with."""
    facts = {
        "attention_heads": 2, "kv_heads": 2, "layers": 2, "hidden_size": 16, "max_context_tokens": 2048,
    }  # fmt: skip
    return RegisteredModel.objects.create(
        name="based", source_kind="folder", source=str(tmp_path / "none"), facts=facts
    )


def add(caller: Caller, folder: Path, name: str = "fr") -> Any:
    return caller.post("models/based/adapters", {"name": name, "source": str(folder)})


def deployed(caller: Caller, **engine: Any) -> Any:
    return caller.post("deployments", {"name": "chat", "model": "based", "engine": engine})


def gateway_and_model() -> tuple[dict[str, Any], dict[str, Any]]:
    gateway, model = desired_document().document["applications"]
    return gateway["deployments"][0]["user_config"]["models"]["chat"], model["args"]["engine_kwargs"]


def test_a_deployment_loads_all_adapters_of_its_model(
    as_operator: Caller, based: RegisteredModel, tmp_path: Path
) -> None:
    made = add(as_operator, write_adapter(tmp_path / "fr"))
    assert made.status_code == 201 and made.json()["facts"]["rank"] == 4 and not made.json()["problems"]
    assert Event.objects.get(kind="adapter.registered").subject_name == "based"
    assert as_operator.get("models/based/adapters").json()["total"] == 1
    assert deployed(as_operator, load_adapters=True).status_code in (201, 202)
    entry, kwargs = gateway_and_model()
    assert entry["adapters"] == ["fr"]
    assert kwargs["enable_lora"] is True and kwargs["max_lora_rank"] == 8
    assert kwargs["lora_modules"] == [{"name": "chat:fr", "path": str(tmp_path / "fr")}]

    refused = error_of(as_operator.delete("models/based/adapters/fr"), 409)
    assert refused["code"] == "in_use" and "chat" in refused["message"]
    changed = as_operator.patch(
        "deployments/chat", {"engine": {"load_adapters": False}, "expected_version": 1}
    )
    assert changed.status_code in (200, 202)
    entry, kwargs = gateway_and_model()
    assert "adapters" not in entry and "enable_lora" not in kwargs
    assert as_operator.delete("models/based/adapters/fr").status_code == 204
    assert not ModelAdapter.objects.exists()


def test_without_the_choice_nothing_is_loaded_and_a_later_edit_keeps_what_was(
    as_operator: Caller, based: RegisteredModel, tmp_path: Path
) -> None:
    add(as_operator, write_adapter(tmp_path / "fr"))
    deployed(as_operator)
    assert "enable_lora" not in gateway_and_model()[1]
    actions.edit_deployment(
        actor=actions.SYSTEM, name="chat", expected_version=1, engine={"load_adapters": True}
    )
    add(as_operator, write_adapter(tmp_path / "de"), "de")
    actions.edit_deployment(actor=actions.SYSTEM, name="chat", expected_version=2, engine={"max_num_seqs": 5})
    assert gateway_and_model()[0]["adapters"] == ["fr"]


def test_what_cannot_be_served_is_not_loaded(
    as_operator: Caller, based: RegisteredModel, tmp_path: Path
) -> None:
    assert error_of(deployed(as_operator, load_adapters=True), 400)["field"].endswith("load_adapters")
    made = add(as_operator, write_adapter(tmp_path / "fr", layers=9))
    assert made.status_code == 201 and made.json()["problems"]
    refused = error_of(deployed(as_operator, load_adapters=True), 400)
    assert "fr" in refused["message"]
    assert not Deployment.objects.exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "A b", "source": "/x"}, "name"),
        ({"name": "fr", "source": "relative"}, "source"),
        ({"name": "fr", "source": "/x", "rank": 3}, "rank"),
    ],
)
def test_refusals_name_the_field(
    as_operator: Caller, based: RegisteredModel, body: dict[str, Any], field: str
) -> None:
    assert error_of(as_operator.post("models/based/adapters", body), 400)["field"] == field


def test_the_models_page_adds_and_removes(
    client: Client, operator: User, based: RegisteredModel, tmp_path: Path
) -> None:
    client.force_login(operator)
    bad = client.post("/models/based/adapters/", {"name": "fr", "source": "x"})
    assert bad.status_code == 400 and "full path" in bad.content.decode()
    folder = write_adapter(tmp_path / "fr", layers=7)
    assert client.post("/models/based/adapters/", {"name": "fr", "source": str(folder)}).status_code == 302
    shown = client.get("/models/based/").content.decode()
    assert "rank 4" in shown and "adapts layer 6" in shown
    assert client.post("/models/based/adapters/fr/delete/").status_code == 302
    assert not ModelAdapter.objects.exists()
