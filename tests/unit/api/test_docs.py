"""The documentation page: every operation, nothing from elsewhere, and examples that work."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from console.api.docs import EXAMPLES, example_name, sections
from console.models import ApiKey, ClusterStatus, Deployment, RegisteredModel, User
from tests.unit.api.conftest import Caller, make_model
from tests.unit.api.test_walk import ALL
from tests.unit.planner.configs import LLAMA_8B

pytestmark = pytest.mark.django_db


def test_the_page_shows_every_operation_with_its_role(viewer: User) -> None:
    client = Client()
    client.force_login(viewer)
    html = client.get(reverse("api-docs")).content.decode()
    operations = [operation for section in sections() for operation in section["operations"]]
    assert len(operations) == len(ALL)
    for operation in operations:
        assert f'id="{operation["id"]}"' in html
        assert operation["example"].startswith("curl ")
        assert operation["summary"] in html.replace("&#x27;", "'")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_the_page_obeys_the_content_security_policy(viewer: User) -> None:
    client = Client()
    client.force_login(viewer)
    response = client.get(reverse("api-docs"))
    html = response.content.decode()
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>", html)
    assert not re.search(r'\sstyle="|<style|\son\w+="', html)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)


def test_strangers_are_sent_to_the_login() -> None:
    response = Client().get(reverse("api-docs"))
    assert (response.status_code, response["Location"].split("?")[0]) == (302, "/login/")


@pytest.mark.parametrize("operation", sorted(EXAMPLES))
def test_each_example_is_accepted(
    operation: str, as_admin: Caller, deployment: Deployment, cluster: ClusterStatus
) -> None:
    make_model("other")
    shown: dict[str, Any] = next(
        row for section in sections() for row in section["operations"] if row["id"] == operation
    )
    body = dict(EXAMPLES[operation])
    if "/plan" in shown["path"]:
        RegisteredModel.objects.filter(name="demo").update(config=LLAMA_8B)
    if operation == "create_deployment":
        body["name"] = "another"
    if operation == "roll_back":
        as_admin.patch("deployments/chat", {"engine": {"max_num_seqs": 4}, "expected_version": 1})
    if operation == "edit_alias":
        as_admin.post("aliases", EXAMPLES["create_alias"])
    key = ApiKey.objects.create(name="bot", digest="1" * 64, prefix="rd-abc")
    path = shown["path"].format(name=example_name(shown["path"]), key_id=key.pk)
    response = as_admin.call(shown["method"], path, body)
    assert response.status_code in (200, 201), response.content
