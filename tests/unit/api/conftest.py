"""Callers of the API: a client per role with a bearer token, one without anything, and things to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from console import auth
from console.models import (
    ClusterStatus,
    Deployment,
    DeploymentStatus,
    PriceChange,
    RegisteredModel,
    Revision,
    User,
)
from serving.spec import EngineSpec
from tests.unit.serving.checkpoint_folders import write_checkpoint

NODE = {
    "node_id": "n1",
    "name": "head",
    "alive": True,
    "cpus": 2,
    "memory_bytes": 24 << 30,
    "accelerators": {},
}


class Caller:
    """Sends JSON and reads JSON."""

    def __init__(self, token: str | None = None) -> None:
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=True)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return self.client.generic(
            method,
            path if path.startswith("/") else f"/api/v1/{path}",
            data=b"" if body is None else json.dumps(body).encode(),
            content_type="application/json",
            headers={**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}},
        )

    def get(self, path: str, **headers: str) -> Any:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: str) -> Any:
        return self.call("PATCH", path, body, **headers)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)


def caller_for(user: User, role: str | None = None) -> Caller:
    """A client that sends a token of this user."""
    return Caller(auth.create_token(user=user, name="test", role=role or user.role)[1])


@pytest.fixture
def as_viewer(viewer: User) -> Caller:
    return caller_for(viewer)


@pytest.fixture
def as_operator(operator: User) -> Caller:
    return caller_for(operator)


@pytest.fixture
def as_admin(admin: User) -> Caller:
    return caller_for(admin)


@pytest.fixture
def anonymous(db: None) -> Caller:
    return Caller()


@pytest.fixture
def cluster(db: None) -> ClusterStatus:
    return ClusterStatus.objects.create(pk=1, reachable=True, nodes=[NODE])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def model(db: None) -> RegisteredModel:
    return make_model("demo")


@pytest.fixture
def deployment(model: RegisteredModel) -> Deployment:
    return make_deployment("chat", model)


def make_model(name: str) -> RegisteredModel:
    facts = {"attention_heads": 8, "kv_heads": 4, "layers": 6, "max_context_tokens": 2048}
    return RegisteredModel.objects.create(
        name=name, source_kind="folder", source="/srv/models/demo", facts=facts
    )


def make_deployment(name: str, model: RegisteredModel) -> Deployment:
    engine = EngineSpec(model=model.name, model_source=model.source, max_model_len=1024)
    deployment = Deployment.objects.create(
        name=name, model=model, requested_at=1.0, price_per_accelerator_hour_usd="1.5"
    )
    revision = Revision.objects.create(
        deployment=deployment, number=1, engine=engine.model_dump(mode="json"), author_name="ann"
    )
    Deployment.objects.filter(pk=deployment.pk).update(current_revision=revision)
    DeploymentStatus.objects.create(deployment=deployment)
    PriceChange.objects.create(deployment=deployment, from_at=1.0, price_per_accelerator_hour_usd="1.5")
    deployment.refresh_from_db()
    return deployment


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error body, after checking status and form."""
    assert response.status_code == status, response.content[:500]
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field", "details"}
    assert body["error"]["message"]
    return dict(body["error"])
