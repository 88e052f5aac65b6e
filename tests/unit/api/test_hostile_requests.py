"""Requests made from the OpenAPI document, valid and not: never a 5xx, always our error form, and answers
that are what the document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.test import override_settings
from hypothesis import HealthCheck, settings

from console import auth
from console.models import ExactPlan, RequestRecord, User
from tests.unit.api.conftest import make_deployment, make_model

schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", get_wsgi_application())

EXACT_DIGEST = "e" * 64
KNOWN = {
    "name": "chat",
    "adapter": "french",
    "number": 1,
    "key_id": 1,
    "token_id": 1,
    "digest": EXACT_DIGEST,
    "request_id": "a" * 32,
}
# The one part that asks another server: it is away in this test, and says so.
OUTAGE = {502, 503}


@pytest.fixture(autouse=True)
def _connection_stays_open() -> Iterator[None]:
    """Requests run in the test's own transaction, whose connection the server would close after each."""
    request_started.disconnect(close_old_connections)
    request_finished.disconnect(close_old_connections)
    yield
    request_started.connect(close_old_connections)
    request_finished.connect(close_old_connections)


@pytest.fixture
def token(admin: User) -> str:
    make_deployment("chat", make_model("demo"))
    ExactPlan.objects.create(digest=EXACT_DIGEST, requested_at=1.0)
    RequestRecord.objects.create(
        id=KNOWN["request_id"], deployment_name="chat", path="/", started_at=1.0, status=200, outcome="ok"
    )
    return auth.create_token(user=admin, name="hostile", role="admin")[1]


@pytest.mark.django_db
@schema.parametrize()
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_breaks_the_api(case: Any, token: str) -> None:
    with override_settings(RAY_DASHBOARD_URL="http://127.0.0.1:9"):
        send(case, token)
        if case.path_parameters:
            case.path_parameters = {name: KNOWN[name] for name in case.path_parameters}
            send(case, token)


def send(case: Any, token: str) -> None:
    response = case.call(headers={"Authorization": f"Bearer {token}"})
    assert response.status_code < 500 or response.status_code in OUTAGE, response.text
    if response.status_code >= 400:
        body = response.json()
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message", "field", "details"}
    elif response.status_code != 204:
        case.operation.validate_response(response)
