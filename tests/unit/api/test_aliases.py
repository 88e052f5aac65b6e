"""/aliases over the API: create, read, change, delete, and what is refused; names shared with deployments."""

from __future__ import annotations

from typing import Any

import pytest

from console import actions
from console.desired import desired_document
from console.models import Deployment, Event, GatewayAlias
from serving.errors import InUse
from tests.unit.api.conftest import Caller, error_of, make_deployment, make_model

pytestmark = pytest.mark.django_db
BODY = {
    "name": "best",
    "targets": [{"deployment": "large", "weight": 3}, {"deployment": "small", "weight": 1}],
    "fallback": ["spare"],
}


@pytest.fixture(autouse=True)
def fleet(db: None) -> None:
    model = make_model("demo")
    for name in ("large", "small", "spare"):
        make_deployment(name, model)


def test_an_alias_reaches_the_gateways_table(
    as_operator: Caller, wakes: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        made = as_operator.post("aliases", BODY)
    assert made.status_code == 201
    assert {key: made.json()[key] for key in BODY} == BODY
    assert wakes
    gateway = desired_document().document["applications"][0]
    known = gateway["deployments"][0]["user_config"]["aliases"]["best"]
    assert {key: known[key] for key in ("targets", "fallback")} == {
        key: BODY[key] for key in ("targets", "fallback")
    }
    event = Event.objects.get(kind="alias.created")
    assert (event.subject_name, event.actor, event.after["fallback"]) == (
        "best",
        "operator-person",
        ["spare"],
    )
    assert as_operator.get("aliases").json()["total"] == 1


def test_a_change_names_the_version_it_is_based_on(as_operator: Caller) -> None:
    as_operator.post("aliases", BODY)
    changed = as_operator.patch("aliases/best", {"fallback": [], "expected_version": 1})
    assert (changed.json()["fallback"], changed.json()["version"]) == ([], 2)
    assert changed.json()["targets"] == BODY["targets"]
    late = error_of(as_operator.patch("aliases/best", {"fallback": ["spare"], "expected_version": 1}), 409)
    assert late["details"]["current"]["values"]["fallback"] == []
    same = as_operator.patch("aliases/best", {"fallback": [], "expected_version": 2})
    assert same.json()["version"] == 2
    assert Event.objects.filter(kind="alias.edited").count() == 1


def test_a_deleted_alias_is_gone_and_its_deployments_are_not(as_operator: Caller) -> None:
    as_operator.post("aliases", BODY)
    assert as_operator.delete("aliases/best").status_code == 204
    assert as_operator.get("aliases/best").status_code == 404
    assert Deployment.objects.count() == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "large"}, "name"),
        ({"name": "Not Good"}, "name"),
        ({"name": "new"}, "name"),
        ({"name": "a:b"}, "name"),
        ({"targets": []}, "targets"),
        ({"targets": [{"deployment": "nobody", "weight": 1}]}, "targets"),
        ({"targets": [{"deployment": "large", "weight": 0}]}, "targets.0.weight"),
        ({"targets": [{"deployment": "large"}, {"deployment": "large"}]}, "targets"),
        ({"fallback": ["nobody"]}, "fallback"),
        ({"fallback": ["large"]}, "fallback"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_refused(as_operator: Caller, change: dict[str, Any], field: str) -> None:
    assert error_of(as_operator.post("aliases", {**BODY, **change}), 400)["field"] == field
    assert not GatewayAlias.objects.exists()


def test_a_name_is_given_once_to_aliases_and_deployments_together(as_operator: Caller) -> None:
    as_operator.post("aliases", BODY)
    assert error_of(as_operator.post("aliases", BODY), 400)["field"] == "name"
    refused = error_of(as_operator.post("deployments", {"name": "best", "model": "demo"}), 400)
    assert refused["field"] == "name" and "alias" in refused["message"]


def test_a_deployment_behind_an_alias_is_not_deleted(as_operator: Caller) -> None:
    as_operator.post("aliases", BODY)
    refused = error_of(as_operator.delete("deployments/spare"), 409)
    assert refused["code"] == "in_use" and "best" in refused["message"]
    with pytest.raises(InUse, match="alias best"):
        actions.delete_deployment(actor=actions.SYSTEM, name="large")
    as_operator.patch("aliases/best", {"fallback": [], "expected_version": 1})
    assert as_operator.delete("deployments/spare").status_code in (202, 204)


def test_viewers_read_and_do_not_write(as_viewer: Caller) -> None:
    assert as_viewer.get("aliases").status_code == 200
    assert as_viewer.post("aliases", BODY).status_code == 403
