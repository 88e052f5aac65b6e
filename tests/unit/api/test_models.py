"""/models over the API: register, read, edit, delete, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from console.models import Deployment, Event, RegisteredModel
from tests.unit.api.conftest import Caller, error_of, make_model
from tests.unit.planner.configs import LLAMA_8B

pytestmark = pytest.mark.django_db


def test_a_folder_is_registered_with_its_facts(as_operator: Caller, folder: Path) -> None:
    body = {"name": "tiny", "source_kind": "folder", "source": str(folder), "note": "for tests"}
    response = as_operator.post("models", body)
    assert response.status_code == 201
    made = response.json()
    assert made["facts"]["parameters"] == 6464
    assert (made["problems"], made["version"], made["has_hub_token"]) == ([], 1, False)
    event = Event.objects.get(kind="model.registered")
    assert (event.source, event.actor) == ("api", "operator-person")

    read = as_operator.get("models/tiny")
    assert read.json() == made
    assert read["ETag"] == '"1"'
    assert as_operator.get("models").json() == {"items": [made], "total": 1, "limit": 50, "offset": 0}


def test_a_hub_token_goes_in_and_never_out(as_operator: Caller) -> None:
    secret = "hf_abcdefghijklmnop"
    body = {"name": "hub", "source_kind": "hub", "source": "org/model", "hub_token": secret}
    made = as_operator.post("models", body)
    assert made.json()["has_hub_token"] is True
    row = RegisteredModel.objects.get()
    assert secret not in row.hub_token_encrypted
    for answer in (made, as_operator.get("models"), as_operator.get("models/hub"), as_operator.get("events")):
        assert secret not in answer.content.decode()
    changed = as_operator.patch("models/hub", {"hub_token": "", "expected_version": 1})
    assert changed.json()["has_hub_token"] is False


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x", "source_kind": "ftp", "source": "/m"}, "source_kind"),
        ({"name": "Not Good", "source_kind": "folder", "source": "/m"}, "name"),
        ({"name": "x", "source_kind": "folder", "source": "relative"}, "source"),
        ({"name": "x", "source_kind": "hub", "source": "/m"}, "source"),
        ({"name": "x", "source_kind": "object_store", "source": "http://a/b"}, "source"),
        ({"name": "x", "source_kind": "folder", "source": "/m", "hub_token": "hf_12345678"}, "hub_token"),
        ({"name": "x", "source_kind": "folder", "source": "/m", "unknown": 1}, "unknown"),
        ({"name": ["x"], "source_kind": "folder", "source": "/m"}, "name"),
        ({"name": "x" * 64, "source_kind": "folder", "source": "/m"}, "name"),
    ],
)
def test_a_bad_model_names_its_field_and_changes_nothing(
    body: dict[str, Any], field: str, as_operator: Caller
) -> None:
    assert error_of(as_operator.post("models", body), 400)["field"] == field
    assert RegisteredModel.objects.count() == 0
    assert Event.objects.count() == 0


def test_all_problems_of_a_body_are_listed(as_operator: Caller) -> None:
    details = error_of(as_operator.post("models", {"note": 3}), 400)["details"]
    assert {row["field"] for row in details["problems"]} == {"name", "source_kind", "source", "note"}


def test_a_model_is_edited_with_the_version_that_was_read(
    as_operator: Caller, model: RegisteredModel
) -> None:
    assert error_of(as_operator.patch("models/demo", {"note": "a"}), 400)["field"] == "expected_version"
    changed = as_operator.patch("models/demo", {"note": "a"}, If_Match='"1"')
    assert (changed.json()["note"], changed.json()["version"], changed["ETag"]) == ("a", 2, '"2"')
    stale = error_of(as_operator.patch("models/demo", {"note": "b", "expected_version": 1}), 409)
    assert stale["code"] == "conflict"
    assert stale["details"]["current"]["version"] == 2
    model.refresh_from_db()
    assert model.note == "a"


@pytest.mark.parametrize("header", ["*", "abc", '"1", "2"', "-1", '"99999999999999"'])
def test_a_strange_if_match_is_refused(header: str, as_operator: Caller, model: RegisteredModel) -> None:
    assert (
        error_of(as_operator.patch("models/demo", {"note": "a"}, If_Match=header), 400)["field"] == "If-Match"
    )


def test_a_model_in_use_is_not_deleted(as_operator: Caller, deployment: Deployment) -> None:
    error = error_of(as_operator.delete("models/demo"), 409)
    assert error["code"] == "in_use"
    assert "chat" in error["message"]
    make_model("unused")
    assert as_operator.delete("models/unused").status_code == 204
    assert [row.name for row in RegisteredModel.objects.all()] == ["demo"]


def test_a_folder_is_read_again(as_operator: Caller, folder: Path) -> None:
    as_operator.post("models", {"name": "tiny", "source_kind": "folder", "source": str(folder)})
    (folder / "tokenizer.json").unlink()
    problems = as_operator.post("models/tiny/inspect").json()["problems"]
    assert [problem["field"] for problem in problems] == ["tokenizer"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "offset=-1", "offset=99999999999999999999"]
)
def test_pages_have_bounds(query: str, as_viewer: Caller) -> None:
    assert error_of(as_viewer.get(f"models?{query}"), 400)["field"] == query.split("=")[0]


def test_pages_are_cut_and_cost_the_same_however_many_there_are(as_viewer: Caller) -> None:
    make_model("m-0")
    as_viewer.get("models")  # the token's last use is noted to the minute
    with CaptureQueriesContext(
        connection,
    ) as few:
        as_viewer.get("models")
    for number in range(1, 30):
        make_model(f"m-{number:02}")
    with CaptureQueriesContext(connection) as many:
        body = as_viewer.get("models?limit=10&offset=25").json()
    assert len(many) == len(few)
    assert (len(body["items"]), body["total"]) == (5, 30)


def test_a_hub_models_config_lets_it_be_planned_before_it_is_fetched(as_operator: Caller) -> None:
    hub = {"name": "far", "source_kind": "hub", "source": "a/b", "config": LLAMA_8B}
    made = as_operator.post("models", hub).json()
    assert made["facts"]["layers"] == 32
    assert as_operator.post("plan", {"model": "far", "accelerator": "H100"}).json()["verdict"] == "fits"
    edited = as_operator.patch("models/far", {"note": "x", "expected_version": 1}).json()
    assert edited["facts"]["layers"] == 32
    moved = as_operator.patch("models/far", {"source": "c/d", "expected_version": 2}).json()
    assert moved["facts"] == {}
    error_of(as_operator.post("plan", {"model": "far", "accelerator": "H100"}), 400)


def test_a_config_is_forgotten_by_an_empty_one_and_no_folder_takes_one(
    as_operator: Caller, folder: Path
) -> None:
    as_operator.post("models", {"name": "far", "source_kind": "hub", "source": "a/b", "config": LLAMA_8B})
    assert as_operator.patch("models/far", {"config": {}, "expected_version": 1}).json()["facts"] == {}
    error = error_of(
        as_operator.post(
            "models", {"name": "near", "source_kind": "folder", "source": str(folder), "config": LLAMA_8B}
        ),
        400,
    )
    assert error["field"] == "config"
