"""Rows and records that the collector's tests start from; no behaviour of its own."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

from console.models import ApiKey, Deployment, PriceChange, RegisteredModel, Replica, Revision

ENGINE: dict[str, Any] = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "accelerator_type": None}


def make_deployment(
    name: str = "demo", *, price: str = "1.2", engine: dict[str, Any] | None = None
) -> Deployment:
    """A running deployment with one revision and its first price, valid from the beginning."""
    model, _ = RegisteredModel.objects.get_or_create(name="toy", source_kind="folder", source="/models/toy")
    deployment = Deployment.objects.create(
        name=name, model=model, requested_at=0.0, price_per_accelerator_hour_usd=Decimal(price)
    )
    revision = Revision.objects.create(deployment=deployment, number=1, engine={**ENGINE, **(engine or {})})
    Deployment.objects.filter(pk=deployment.pk).update(current_revision=revision)
    PriceChange.objects.create(
        deployment=deployment, from_at=0.0, price_per_accelerator_hour_usd=Decimal(price)
    )
    deployment.refresh_from_db()
    return deployment


def make_replica(deployment: Deployment, replica_id: str, **values: Any) -> Replica:
    """A running replica of the deployment since second 1000."""
    given = {"state": "RUNNING", "started_at": 1000.0, "last_seen_at": 1000.0, **values}
    return Replica.objects.create(
        deployment=deployment, deployment_name=deployment.name, replica_id=replica_id, **given
    )


def make_key(name: str = "ci") -> ApiKey:
    """A caller's key."""
    return ApiKey.objects.create(name=name, digest=uuid.uuid4().hex, prefix="rd-abcdef")


def record(**values: Any) -> dict[str, Any]:
    """A usage record as the gateway writes it: a stream that ended well."""
    return {
        "id": uuid.uuid4().hex,
        "key_id": 1,
        "user": None,
        "deployment": "demo",
        "revision": 1,
        "replica": "r1",
        "path": "/v1/chat/completions",
        "stream": True,
        "started_at": 1_000_000.0,
        "prompt_tokens": 12,
        "cached_tokens": 0,
        "completion_tokens": 20,
        "gateway_s": 0.001,
        "queue_s": 0.002,
        "prefill_s": 0.03,
        "ttft_s": 0.05,
        "tpot_s": 0.01,
        "decode_s": 0.19,
        "e2e_s": 0.24,
        "status": 200,
        "outcome": "ok",
        "finish_reason": "stop",
        "error_class": None,
        "woke": False,
        **values,
    }


def text_of(**values: Any) -> str:
    """The record as it stands in the stream."""
    return json.dumps(record(**values), separators=(",", ":"))


def page_text(replica_id: str, **figures: float) -> str:
    """A metrics page with these series of one replica; figures by their names in serving.metrics."""
    from serving import metrics

    names = {figure: name for name, figure in {**metrics.GAUGES, **metrics.COUNTERS}.items()}
    lines = [
        f'{names[figure]}{{ReplicaId="{replica_id}",engine="0"}} {value}' for figure, value in figures.items()
    ]
    return "\n".join(lines) + "\n"
