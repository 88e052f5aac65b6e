"""What holds for every operation: a role, 401 for strangers, 403 below the role, our error form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from console.api import api
from console.api.inputs import CapacityInput, DeploymentLimitsInput, EngineInput, KeyLimitsInput
from console.auth import RANK
from console.models import User
from serving.limits import DeploymentLimits, KeyLimits
from serving.spec import CapacitySpec, EngineSpec
from tests.unit.api.conftest import Caller, caller_for, error_of

FILLED = {
    "name": "chat",
    "number": "1",
    "adapter": "chat",
    "key_id": "1",
    "token_id": "987654",
    "digest": "0" * 64,
    "request_id": "f" * 32,
}


def operations() -> Iterator[tuple[str, str, str]]:
    """(method, path with its parameters filled in, role)."""
    schema = api.get_openapi_schema(path_prefix="/api/v1/")
    for path, methods in schema["paths"].items():
        for method, details in methods.items():
            yield method.upper(), path.format(**FILLED), details["x-role"]


ALL = sorted(operations())
VIEWER_MAY = {
    ("POST", "/api/v1/plan"),
    ("POST", "/api/v1/plan/topologies"),
    ("POST", "/api/v1/me/tokens"),
    ("DELETE", "/api/v1/me/tokens/987654"),
}


def test_every_noun_and_verb_is_there() -> None:
    paths = {(method, path) for method, path, _ in ALL}
    for verb in ("start", "stop", "retry", "rollback"):
        assert ("POST", f"/api/v1/deployments/chat/{verb}") in paths
    for part in ("revisions", "events", "logs", "metrics", "cost"):
        assert ("GET", f"/api/v1/deployments/chat/{part}") in paths
    for noun in (
        "models",
        "deployments",
        "accelerators",
        "aliases",
        "keys",
        "cluster",
        "cost",
        "me",
        "me/tokens",
        "events",
        "requests",
    ):
        assert ("GET", f"/api/v1/{noun}") in paths


@pytest.mark.parametrize(("method", "path", "role"), ALL)
def test_an_operation_names_its_role_and_refuses_strangers(
    method: str, path: str, role: str, anonymous: Caller
) -> None:
    assert role in RANK
    response = anonymous.call(method, path, {} if method in ("POST", "PATCH") else None)
    assert error_of(response, 401)["code"] == "unauthenticated"
    assert response["WWW-Authenticate"].startswith("Bearer")
    wrong = Caller("rdt-not-a-token").call(method, path)
    assert error_of(wrong, 401)["code"] == "unauthenticated"


@pytest.mark.parametrize(("method", "path", "role"), [row for row in ALL if row[0] != "GET"])
def test_only_what_is_listed_here_is_written_or_computed_for_a_viewer(
    method: str, path: str, role: str, as_viewer: Caller
) -> None:
    """Whatever role the document names."""
    answer = as_viewer.call(method, path, {} if method in ("POST", "PATCH", "PUT") else None)
    assert (answer.status_code == 403) == ((method, path) not in VIEWER_MAY)


@pytest.mark.parametrize(("method", "path", "role"), ALL)
def test_the_role_that_an_operation_names_gets_in(method: str, path: str, role: str, db: None) -> None:
    user = User.objects.create_user("one", password="x", role=role)
    answer = caller_for(user).call(method, path, {} if method in ("POST", "PATCH", "PUT") else None)
    assert answer.status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path", "role"), [row for row in ALL if row[2] != "viewer"])
def test_a_lower_role_is_refused_before_anything_is_read(
    method: str, path: str, role: str, as_viewer: Caller, as_operator: Caller
) -> None:
    lower = [as_viewer] if role == "operator" else [as_viewer, as_operator]
    for caller in lower:
        error = error_of(caller.call(method, path, {} if method in ("POST", "PATCH") else None), 403)
        assert error["code"] == "forbidden"
        assert role in error["message"]


@pytest.mark.parametrize(
    ("method", "path"), sorted({(m, p) for m, p, _ in ALL if p.endswith(("/1", "/987654")) or "chat" in p})
)
def test_an_unknown_thing_is_404_or_a_named_400(method: str, path: str, as_admin: Caller) -> None:
    error = error_of(
        as_admin.call(method, path, {} if method in ("POST", "PATCH") else None), _expect(method, path)
    )
    assert error["code"] in ("not_found", "invalid")


def _expect(method: str, path: str) -> int:
    # These have a body or version to complain about first.
    has_body = path.endswith(("rollback", "reset", "prices", "adapters")) and method == "POST"
    return 400 if method == "PATCH" or has_body else 404


@pytest.mark.parametrize("path", ["", "nothing", "models/", "deployments/a/b/c", "docs", "keys/x/y"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_address_that_is_none_answers_404_in_our_form(method: str, path: str, anonymous: Caller) -> None:
    assert error_of(anonymous.call(method, f"/api/v1/{path}"), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "models"), ("DELETE", "deployments"), ("POST", "cluster")]
)
def test_a_wrong_method_answers_405_and_says_which_are_right(
    method: str, path: str, as_viewer: Caller
) -> None:
    response = as_viewer.call(method, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response["Allow"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "required"),
        (b"{", "not valid JSON"),
        (b"[]", "a list where"),
        (b"\xff", "UTF-8"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": "a\\u0000b"}', "NUL"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"a":' * 1500 + b"1" + b"}" * 1500, "nested"),
        (b'{"name": "' + b"x" * 1_100_000 + b'"}', "larger than"),
        (b'{"name": "' + b"x" * 3_000_000 + b'"}', "larger than"),
    ],
    ids=["empty", "cut", "list", "bytes", "nan", "nul", "surrogate", "nested", "1MB", "3MB"],
)
@pytest.mark.parametrize("path", ["models", "deployments", "keys", "me/tokens"])
def test_a_body_that_is_no_json_object_is_refused_plainly(
    path: str, body: bytes, words: str, as_admin: Caller
) -> None:
    response = as_admin.client.post(
        f"/api/v1/{path}", data=body, content_type="application/json", headers=as_admin.headers
    )
    assert words in error_of(response, 413 if len(body) > 2_500_000 else 400)["message"]


def test_what_fails_unforeseen_is_a_plain_500(as_admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(now: float) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("console.states.deployment_states", broken)
    error = error_of(as_admin.get("deployments"), 500)
    assert error["code"] == "internal"
    assert "/secret/path" not in str(error)


def test_the_document_lists_the_roles_and_needs_no_login(anonymous: Caller) -> None:
    document = anonymous.get("openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert document["paths"]["/api/v1/deployments"]["post"]["x-role"] == "operator"
    assert "BearerToken" in document["components"]["securitySchemes"]


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        (EngineInput, EngineSpec),
        (CapacityInput, CapacitySpec),
        (DeploymentLimitsInput, DeploymentLimits),
        (KeyLimitsInput, KeyLimits),
    ],
)
def test_bounds_in_the_document_are_those_of_the_rules(given: Any, rules: Any) -> None:
    for name, field in given.model_fields.items():
        if name == "load_adapters":  # a choice, of which the rules keep what it led to
            continue
        assert sorted(map(repr, field.metadata)) == sorted(map(repr, rules.model_fields[name].metadata)), name


def test_a_session_needs_its_csrf_token_to_write(client: Client, operator: Any) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert strict.get("/api/v1/me").json()["via"] == "session"
    body = {"name": "ci"}
    refused = strict.post("/api/v1/keys", body, content_type="application/json")
    assert error_of(refused, 403)["code"] == "csrf"
