"""The registry's pages: what they show, what they refuse, and who may change what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from console import secrets
from console.models import Deployment, Event, RegisteredModel, Revision, User
from tests.unit.conftest import make_user

pytestmark = pytest.mark.django_db

FACTS = {
    "architecture": "LlamaForCausalLM",
    "parameters": 70_553_706_496,
    "weight_bytes": 141_107_412_992,
    "layers": 80,
    "attention_heads": 64,
    "kv_heads": 8,
    "max_context_tokens": 131_072,
    "dtype": "bfloat16",
    "quantization": None,
    "kv_bytes_per_token": 327_680,
    "chat_template": True,
}


@pytest.fixture
def operator(db: None) -> User:
    return make_user("operator")


@pytest.fixture
def viewer(db: None) -> User:
    return make_user("viewer")


def text_of(response: Any) -> str:
    return str(response.content.decode()).replace("\u00a0", " ")


def make_model(name: str = "llama", **values: Any) -> RegisteredModel:
    given = {
        "source_kind": "folder",
        "source": "/models/llama",
        "facts": FACTS,
        "inspected_at": timezone.now(),
    }
    return RegisteredModel.objects.create(name=name, **{**given, **values})


def deploy(model: RegisteredModel, name: str = "chat") -> Deployment:
    deployment = Deployment.objects.create(name=name, model=model, requested_at=0)
    deployment.current_revision = Revision.objects.create(deployment=deployment, number=1, engine={})
    deployment.save()
    return deployment


@pytest.fixture
def as_viewer(client: Client, viewer: User) -> Client:
    client.force_login(viewer)
    return client


@pytest.fixture
def as_operator(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


def test_the_list_shows_the_facts_of_every_model(as_viewer: Client) -> None:
    deploy(make_model())
    text = text_of(as_viewer.get("/models/"))
    assert "LlamaForCausalLM" in text and "70.6 B params" in text and "64 / 8" in text and "128k" in text
    assert "141107412992 bytes" in text and "131.4" in text and "320" in text and "1 deployment" in text


def test_the_list_says_the_worst_problem_plainly(as_viewer: Client) -> None:
    make_model(
        problems=[
            {"level": "warn", "field": "chat_template", "message": "There is no chat template."},
            {"level": "error", "field": "weights", "message": "model-3.safetensors is missing."},
        ]
    )
    assert "model-3.safetensors is missing." in text_of(as_viewer.get("/models/"))


def test_an_empty_registry_says_what_to_do(as_operator: Client) -> None:
    assert "No model is registered yet" in text_of(as_operator.get("/models/"))


def test_the_list_filters_and_says_when_nothing_matches(as_viewer: Client) -> None:
    make_model("llama")
    make_model("qwen")
    assert "/models/llama/" not in text_of(as_viewer.get("/models/?q=QWE"))
    assert "No model matches" in text_of(as_viewer.get("/models/?q=zebra"))


def test_the_list_takes_the_same_queries_for_one_model_and_for_sixty(
    as_viewer: Client, django_assert_num_queries: Any, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        deploy(make_model(f"model-{number}"), f"deployment-{number}")
    with django_assert_max_num_queries(13):
        as_viewer.get("/models/")


@pytest.mark.parametrize("address", ["/models/", "/models/new/", "/models/llama/", "/models/llama/edit/"])
def test_nobody_sees_the_registry_without_logging_in(client: Client, address: str) -> None:
    make_model()
    response = client.get(address)
    assert (response.status_code, response.headers["Location"]) == (302, f"/login/?next={address}")


@pytest.mark.parametrize(
    "address", ["/models/new/", "/models/llama/edit/", "/models/llama/inspect/", "/models/llama/delete/"]
)
def test_a_viewer_may_not_change_the_registry(as_viewer: Client, address: str) -> None:
    make_model()
    response = as_viewer.post(address, {"typed_name": "llama"})
    assert response.status_code == 403 and RegisteredModel.objects.count() == 1


def test_a_viewer_is_not_offered_what_only_operators_may_do(as_viewer: Client) -> None:
    make_model()
    assert "Register model" not in text_of(as_viewer.get("/models/"))
    assert "/models/llama/edit/" not in text_of(as_viewer.get("/models/llama/"))


def test_a_hub_model_is_registered_with_its_token_hidden_for_good(as_operator: Client) -> None:
    token = "hf_abcdefghijklmnop"
    response = as_operator.post(
        "/models/new/",
        {"name": "qwen", "source_kind": "hub", "source": "Qwen/Qwen3-8B", "hub_token": token},
    )
    assert response.headers["Location"] == "/models/qwen/"
    model = RegisteredModel.objects.get()
    assert secrets.decrypt(model.hub_token_encrypted) == token
    for address in ("/models/qwen/", "/models/qwen/edit/", "/models/"):
        assert token not in text_of(as_operator.get(address))
    assert "a token is stored" in text_of(as_operator.get("/models/qwen/"))
    assert not Event.objects.filter(message__contains=token).exists()


def test_a_folder_is_read_at_once_and_its_problems_are_shown(as_operator: Client, tmp_path: Path) -> None:
    as_operator.post("/models/new/", {"name": "empty", "source_kind": "folder", "source": str(tmp_path)})
    text = text_of(as_operator.get("/models/empty/"))
    assert "Cannot be served as it is" in text and "config.json" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "This field is required"),
        ({"name": "Bad Name"}, "lower-case letters"),
        ({"name": "llama"}, "already is a model called llama"),
        ({"source": "relative/path"}, "full path"),
        ({"source_kind": "hub", "source": "no-slash"}, "organisation/model"),
        ({"source_kind": "object_store", "source": "ftp://x/y"}, "s3://bucket/path"),
        ({"source_kind": "floppy"}, "Select a valid choice"),
        ({"hub_revision": "main"}, "Only a hub model"),
    ],
)
def test_bad_input_is_refused_with_the_reason_and_keeps_what_was_typed(
    as_operator: Client, change: dict[str, str], words: str
) -> None:
    make_model()
    given = {"name": "new-one", "source_kind": "folder", "source": "/models/x", "note": "my note", **change}
    response = as_operator.post("/models/new/", given)
    text = text_of(response)
    assert response.status_code == 400 and words in text and "my note" in text
    assert RegisteredModel.objects.count() == 1


def test_a_token_is_kept_replaced_and_cleared(as_operator: Client) -> None:
    model = make_model("qwen", source_kind="hub", source="Qwen/Qwen3-8B", facts={})
    model.hub_token_encrypted = secrets.encrypt("hf_the_first_one")
    model.save()

    def save(**more: str) -> str:
        given = {"source_kind": "hub", "source": "Qwen/Qwen3-8B", "expected_version": str(model.version)}
        assert as_operator.post("/models/qwen/edit/", {**given, **more}).status_code == 302
        model.refresh_from_db()
        return secrets.decrypt(model.hub_token_encrypted) if model.hub_token_encrypted else ""

    assert save(note="unchanged token") == "hf_the_first_one"
    assert save(hub_token="hf_the_second_one") == "hf_the_second_one"
    assert save(clear_hub_token="on") == ""


def test_the_second_of_two_editors_is_told_and_nothing_is_lost(as_operator: Client) -> None:
    model = make_model("qwen", source_kind="hub", source="Qwen/Qwen3-8B", facts={})
    first = {"source_kind": "hub", "source": "Qwen/Qwen3-8B", "note": "first", "expected_version": "1"}
    assert as_operator.post("/models/qwen/edit/", first).status_code == 302
    response = as_operator.post("/models/qwen/edit/", {**first, "note": "second"})
    text = text_of(response)
    assert response.status_code == 409 and "operator-person changed qwen" in text
    assert "first" in text and "second" in text, "both what is stored and what was typed are on the page"
    model.refresh_from_db()
    assert model.note == "first"
    version = re.search(r'name="expected_version" value="(\d+)"', text)
    assert version is not None and version[1] == "2"
    again = {**first, "note": "second", "expected_version": version[1]}
    assert as_operator.post("/models/qwen/edit/", again).status_code == 302
    model.refresh_from_db()
    assert model.note == "second", "saving again, having seen both, goes through"


def test_chips_name_the_context_that_they_answer_for(as_operator: Client) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048}
    make_model("short", facts={}, config=config)
    assert "2k context, predicted" in text_of(as_operator.get("/models/short/"))


def test_files_are_read_again(as_operator: Client, tmp_path: Path) -> None:
    model = make_model(source=str(tmp_path), facts={}, inspected_at=None)
    assert as_operator.post("/models/llama/inspect/").status_code == 302
    model.refresh_from_db()
    assert model.inspected_at is not None and model.problems


def test_a_model_is_removed_once_its_name_is_typed(as_operator: Client) -> None:
    make_model()
    refused = as_operator.post("/models/llama/delete/", {"typed_name": "lama"})
    assert refused.status_code == 400 and "Type llama to confirm" in text_of(refused)
    assert as_operator.post("/models/llama/delete/", {"typed_name": "llama"}).status_code == 302
    assert not RegisteredModel.objects.exists()


def test_a_model_in_use_is_not_removed_and_the_reason_is_said(as_operator: Client) -> None:
    deploy(make_model(), "support-chat")
    response = as_operator.post("/models/llama/delete/", {"typed_name": "llama"})
    assert response.status_code == 409 and "support-chat" in text_of(response)
    assert RegisteredModel.objects.exists()


def test_the_page_of_a_model_names_the_deployments_that_use_it(as_viewer: Client) -> None:
    deploy(make_model(), "support-chat")
    assert "/deployments/support-chat/" in text_of(as_viewer.get("/models/llama/"))


@pytest.mark.parametrize("address", ["/models/none/", "/models/none/edit/"])
def test_an_unknown_model_is_not_found(as_operator: Client, address: str) -> None:
    assert as_operator.get(address).status_code == 404
