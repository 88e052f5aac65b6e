"""Rows and logged-in people for the page tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from console import actions
from console.models import ClusterStatus, Deployment, DeploymentStatus, RegisteredModel, Role, User

DEMO = Path(__file__).resolve().parents[3] / "serving" / "demo" / "model"
FACTS = {
    "architecture": "LlamaForCausalLM",
    "parameters": 5_000_000,
    "weight_bytes": 10_400_000,
    "layers": 6,
    "attention_heads": 8,
    "kv_heads": 4,
    "max_context_tokens": 2048,
    "kv_bytes_per_token": 3072,
}
NODE = {
    "node_id": "n1",
    "name": "head",
    "ip": "127.0.0.1",
    "alive": True,
    "cpus": 4,
    "memory_bytes": 16 << 30,
    "accelerators": {},
}


@pytest.fixture
def people(db: None) -> dict[str, User]:
    """One person per role."""
    return {
        role: User.objects.create_user(username=f"{role}-person", password="a long password", role=role)
        for role in (Role.VIEWER.value, Role.OPERATOR.value, Role.ADMIN.value)
    }


@pytest.fixture
def page_of(people: dict[str, User]) -> Callable[[str], Client]:
    """A client logged in with a role."""

    def client(role: str) -> Client:
        logged_in = Client()
        logged_in.force_login(people[role])
        return logged_in

    return client


@pytest.fixture
def as_operator(page_of: Callable[[str], Client]) -> Client:
    return page_of("operator")


@pytest.fixture
def as_viewer(page_of: Callable[[str], Client]) -> Client:
    return page_of("viewer")


@pytest.fixture
def cluster(db: None) -> ClusterStatus:
    """A reachable cluster of one node with four CPU cores, seen just now."""
    return ClusterStatus.objects.create(
        pk=1,
        reachable=True,
        observed_at=time.time(),
        ray_version="2.60.0",
        nodes=[NODE],
        gateway_status="RUNNING",
    )


@pytest.fixture
def model(db: None) -> RegisteredModel:
    return RegisteredModel.objects.create(
        name="tiny",
        source_kind="folder",
        source="/srv/models/tiny",
        facts=FACTS,
        config=json.loads((DEMO / "config.json").read_text()),
    )


@pytest.fixture
def deploy(
    people: dict[str, User], cluster: ClusterStatus, model: RegisteredModel
) -> Callable[..., Deployment]:
    """Creates a deployment through the action; `phase` ready, failed or asleep also writes what was seen."""

    def create(name: str, phase: str = "queued", **capacity: Any) -> Deployment:
        deployment = actions.create_deployment(
            actor=actions.Actor(people["operator"]),
            name=name,
            model=model.name,
            engine={},
            capacity={"price_per_accelerator_hour_usd": Decimal("0.05"), **capacity},
        )
        observe(deployment, phase)
        return deployment

    return create


def observe(deployment: Deployment, phase: str, at: float | None = None) -> None:
    """What the worker would have written of a deployment in this phase."""
    now = time.time() if at is None else at
    seen: dict[str, Any] = {"observed_at": now, "generation": deployment.generation, "revision": 1}
    if phase in ("ready", "asleep"):
        seen |= {
            "queued_at": now - 30,
            "placing_at": now - 29,
            "loading_at": now - 25,
            "warming_at": now - 5,
            "ready_at": now - 2,
        }
        seen |= {"replicas_running": 1, "replicas_target": 1} if phase == "ready" else {"asleep_at": now}
    elif phase == "failed":
        failure = {"code": "x", "cause": "No such file: /srv/x", "advice": "Check the path.", "raw": "line 1"}
        seen |= {"placing_at": now - 9, "loading_at": now - 5, "failed_at": now, "failure": failure}
    elif phase == "queued":
        return
    DeploymentStatus.objects.filter(deployment=deployment).update(**seen)


@pytest.fixture
def form_values(model: RegisteredModel) -> dict[str, str]:
    """What the page's form sends for a deployment that fits."""
    return {
        "model": model.name,
        "name": "chat",
        "accelerator_type": "",
        "tensor_parallel_size": "1",
        "pipeline_parallel_size": "1",
        "dtype": "auto",
        "max_model_len": "1024",
        "max_num_seqs": "8",
        "kv_cache_memory_bytes": "64 MiB",
        "engine_kwargs": "",
        "min_replicas": "1",
        "max_replicas": "2",
        "target_ongoing_requests": "4",
        "idle_before_zero_s": "",
        "price_per_accelerator_hour_usd": "0.05",
        "note": "",
    }
