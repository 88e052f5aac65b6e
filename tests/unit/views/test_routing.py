"""The Routing page: aliases with their shares, the form, races, deleting."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from console import actions
from console.models import GatewayAlias, User
from tests.unit.api.conftest import make_deployment, make_model

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fleet(db: None) -> None:
    model = make_model("demo")
    for name in ("large", "small", "spare-1.5"):
        make_deployment(name, model)


@pytest.fixture
def page(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


def make_alias(name: str = "best") -> GatewayAlias:
    targets = [{"deployment": "large", "weight": 3}, {"deployment": "small", "weight": 1}]
    return actions.create_alias(actor=actions.SYSTEM, name=name, targets=targets, fallback=["spare-1.5"])


def test_shows_shares_and_fallback(page: Client) -> None:
    assert "No alias yet" in page.get("/routing/").content.decode()
    make_alias()
    shown = page.get("/routing/").content.decode()
    for text in ("best", "75", "25", "spare-1.5"):
        assert text in shown


def test_the_list_takes_as_many_queries_for_one_alias_as_for_four(page: Client) -> None:
    counts = []
    for names in (["a"], ["b", "c", "d"]):
        for name in names:
            make_alias(name)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            page.get("/routing/")
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_an_alias_is_created_and_changed_by_form(page: Client) -> None:
    body = {"name": "best", "weight_large": "3", "fallback_spare-1.5": "2", "fallback_small": "1"}
    assert page.post("/routing/new/", body).status_code == 302
    alias = GatewayAlias.objects.get()
    rows = [(row.deployment.name, row.weight) for row in alias.targets.all()]
    assert rows == [("large", 3), ("small", None), ("spare-1.5", None)]
    assert 'value="3"' in page.get("/routing/best/edit/").content.decode()
    changed = page.post("/routing/best/edit/", {"weight_small": "1", "expected_version": "1"})
    assert changed.status_code == 302
    assert [row.deployment.name for row in alias.targets.all()] == ["small"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "large", "weight_large": "1"}, "already is a deployment"),
        ({"name": "best"}, "at least one deployment"),
        ({"name": "best", "weight_large": "1", "fallback_large": "1"}, "not both"),
        ({"name": "best", "weight_large": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_refusal_stands_in_the_form(page: Client, body: dict[str, str], words: str) -> None:
    answer = page.post("/routing/new/", body)
    assert answer.status_code == 400 and words in answer.content.decode()


def test_who_was_slower_is_told_and_may_save_again(page: Client) -> None:
    make_alias()
    actions.edit_alias(actor=actions.SYSTEM, name="best", expected_version=1, fallback=[])
    body = {"weight_small": "1", "expected_version": "1"}
    answer = page.post("/routing/best/edit/", body)
    assert answer.status_code == 409 and "stored now" in answer.content.decode()
    assert 'name="expected_version" value="2"' in answer.content.decode()


def test_deleting_wants_the_name_typed(page: Client) -> None:
    make_alias()
    assert page.get("/routing/best/delete/").status_code == 200
    assert page.post("/routing/best/delete/", {"typed_name": "other"}).status_code == 400
    assert page.post("/routing/best/delete/", {"typed_name": "best"}).status_code == 302
    assert not GatewayAlias.objects.exists()
