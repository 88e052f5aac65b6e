"""Fills a copy's database for the browser tests: people, models, and a deployment in every phase.

Run inside the copy: `python -m tests.browser.fleet`. What workers observe is written as they would write it.
"""

from __future__ import annotations

import math
import os
import time
from decimal import Decimal
from typing import Any

import django

NODE = {
    "node_id": "n1",
    "name": "head",
    "ip": "127.0.0.1",
    "alive": True,
    "cpus": 64,
    "memory_bytes": 256 << 30,
    "accelerators": {},
}
LONG_NAME = "a-name-of-forty-characters-which-is-full"
LONG_ALIAS = "an-alias-of-forty-characters-and-is-full"
FLEET = {
    "serving": "ready",
    "loading": "loading",
    "broken": "failed",
    "sleeping": "asleep",
    "halted": "stopped",
    LONG_NAME: "ready",
}
PEOPLE = {"olga": "operator", "vera": "viewer", "ada": "admin"}
AHEAD_S = 3600.0
"""No worker refreshes these observations, so they are dated ahead: a test lasts less than that."""


def main() -> None:
    """Write everything once."""
    django.setup()
    from console.firstrun import DEMO_FOLDER
    from console.models import ClusterStatus, RegisteredModel, User
    from serving.checkpoint import inspect_folder
    from serving.planner.tensors import to_json

    for name, role in PEOPLE.items():
        User.objects.create_user(name, password=os.environ["RAYDECK_ADMIN_PASSWORD"], role=role)
    ClusterStatus.objects.create(
        pk=1,
        reachable=True,
        observed_at=time.time() + AHEAD_S,
        ray_version="2.60.0",
        nodes=[NODE],
        gateway_status="RUNNING",
    )
    inspection = inspect_folder(str(DEMO_FOLDER))
    assert inspection.is_servable and inspection.tensors is not None
    RegisteredModel.objects.create(
        name="tiny",
        source_kind="folder",
        source=str(DEMO_FOLDER),
        facts=inspection.facts,
        config=inspection.config,
        tensors=to_json(inspection.tensors),
    )
    for name, phase in FLEET.items():
        _deploy(name, phase)
    _route()


def _route() -> None:
    """An alias over long and short names, and an adapter with something wrong."""
    from console import actions
    from console.models import RegisteredModel

    targets = [{"deployment": LONG_NAME, "weight": 1000}, {"deployment": "serving", "weight": 1}]
    actions.create_alias(
        actor=actions.SYSTEM, name=LONG_ALIAS, targets=targets, fallback=["sleeping", "halted"]
    )
    tiny = RegisteredModel.objects.get(name="tiny")
    folder = "/srv/adapters/" + "a-long-folder-name/" * 8
    actions.register_adapter(actor=actions.SYSTEM, model=tiny, name="french", source=folder)


def _deploy(name: str, phase: str) -> None:
    from console import actions
    from console.models import User

    actor = actions.Actor(User.objects.get(username="olga"))
    price, most = (Decimal("99999.999999"), 1000) if name == LONG_NAME else (Decimal("0.05"), 2)
    deployment = actions.create_deployment(
        actor=actor,
        name=name,
        model="tiny",
        engine={"max_model_len": 1024},
        capacity={"max_replicas": most, "price_per_accelerator_hour_usd": price},
    )
    actions.edit_deployment(
        actor=actor, name=name, expected_version=1, engine={"max_num_seqs": 16}, note="Fewer at once"
    )
    if phase == "stopped":
        actions.stop_deployment(actor=actor, name=name)
    deployment.refresh_from_db()
    _observe(deployment, phase)
    if phase == "ready":
        _measure(deployment)
        _promise(deployment, is_over=name == LONG_NAME)


def _observe(deployment: Any, phase: str) -> None:
    from console.models import DeploymentStatus, Replica

    now = time.time()
    seen: dict[str, Any] = {
        "generation": deployment.generation,
        "revision": 2,
        "observed_at": now + AHEAD_S,
        "queued_at": now - 40,
        "placing_at": now - 38,
        "loading_at": now - 30,
    }
    if phase in ("ready", "asleep"):
        seen |= {"warming_at": now - 10, "ready_at": now - 4}
    if phase == "asleep":
        seen |= {"asleep_at": now - 2}
    if phase == "ready":
        seen |= {"replicas_running": 1, "replicas_target": 1}
        Replica.objects.create(
            deployment=deployment,
            deployment_name=deployment.name,
            replica_id=f"{deployment.name}-replica",
            revision=2,
            state="RUNNING",
            node_ip="127.0.0.1",
            pid=4242,
            started_at=now - 40,
            last_seen_at=now,
        )
    if phase == "failed":
        cause = "ValueError: the checkpoint has no tensor model.embed_tokens.weight"
        failure = {"code": "corrupt_weights", "cause": cause, "advice": "Copy the files again.", "raw": cause}
        seen |= {"failed_at": now, "failure": failure}
    DeploymentStatus.objects.filter(deployment=deployment).update(**seen)


def _promise(deployment: Any, *, is_over: bool) -> None:
    """Objectives, how they stand, and alerts; of the one that is over, a message that was given up."""
    from console.models import Alert, Slo, SloStatus, WebhookDelivery

    now = time.time()
    Slo.objects.create(deployment=deployment, ttft_s=0.24, tpot_s=0.3, success_target=0.999)
    given = {"window_days": 30, "requests": 1_234_567, "is_over": is_over}
    rates = {"300": 21.4, "1800": 9.0, "3600": 16.2, "21600": 4.0}
    objectives = [
        {"objective": "ttft", "limit_s": 0.24, "held_limit_s": 0.2389, "target": 0.95, "bad": 50_000,
         "good_share": 0.9595, "budget_left": -0.8 if is_over else 0.62, "burn_rates": rates, **given},
        {"objective": "tpot", "limit_s": 0.3, "held_limit_s": 0.2905, "target": 0.95, "bad": 50_000,
         "good_share": 0.9595, "budget_left": 0.19, "burn_rates": rates, **given, "is_over": False},
        {"objective": "errors", "limit_s": None, "held_limit_s": None, "target": 0.999, "bad": 12,
         "good_share": 0.99999, "budget_left": 0.97, "burn_rates": rates, **given, "is_over": False},
    ]  # fmt: skip
    SloStatus.objects.create(deployment=deployment, evaluated_at=now + AHEAD_S, objectives=objectives)
    for speed, resolved_at in (("fast", None if is_over else now - 60), ("slow", now - 3600)):
        alert = Alert.objects.create(
            deployment=deployment, deployment_name=deployment.name, objective="ttft", speed=speed,
            long_window_s=3600, short_window_s=300, factor=14.4, target=0.95, limit_s=0.24, burn_rate=16.2,
            opened_at=now - 7200, resolved_at=resolved_at,
            reason="the budget burns slowly again" if resolved_at else "",
        )  # fmt: skip
        WebhookDelivery.objects.create(
            alert=alert, event="alert.opened", created_at=now, next_at=now, attempts=8, status="failed",
            last_error="It leads to an address inside the network; RAYDECK_WEBHOOK_ALLOW_PRIVATE=1 allows "
            "loopback and private ones.",
        )  # fmt: skip


def _measure(deployment: Any) -> None:
    from console.models import RequestRecord, Sample
    from serving import histogram

    now = int(time.time())
    rows = []
    for at in range(now - 600, now):
        quiet = (at // 60) % 4 == 0  # gaps, which must stay gaps
        counts: dict[int, int] = {}
        if not quiet:
            histogram.observe(counts, 0.2 + 0.05 * math.sin(at / 20))
        stored = counts
        rows.append(
            Sample(
                deployment=deployment,
                resolution_s=1,
                at=at,
                requests_running=0 if quiet else 4 + math.sin(at / 9),
                requests_waiting=0,
                kv_cache_usage=0.4,
                prompt_tokens=200,
                completion_tokens=0 if quiet else 150,
                requests_ok=0 if quiet else 1,
                requests_failed=0,
                replicas=1,
                weights_bytes=10_400_000,
                kv_cache_bytes=64 << 20,
                rest_bytes=1_400_000_000,
                cost_per_hour_usd=deployment.price_per_accelerator_hour_usd,
                ttft=stored,
                tpot=stored,
                e2e=stored,
            )
        )
    Sample.objects.bulk_create(rows, batch_size=200)
    RequestRecord.objects.create(
        id=deployment.name,
        deployment=deployment,
        deployment_name=deployment.name,
        path="/v1/chat/completions",
        started_at=now - 5,
        status=200,
        outcome="ok",
        replica="a1b2c3",
        gateway_s=0.002,
        held_s=0.0,
        queue_s=0.01,
        prefill_s=0.1,
        engine_decode_s=0.5,
        e2e_s=0.65,
    )


if __name__ == "__main__":
    main()
