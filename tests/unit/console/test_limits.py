"""Limits of keys and deployments: written with an event, told to the gateway, their use read back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.test import TestCase, override_settings

from console import actions, budgets, desired, limit_use, spending
from console.events import Actor
from console.models import (
    ApiKey,
    ClusterStatus,
    CostEntry,
    Deployment,
    Event,
    PriceChange,
    RegisteredModel,
    Replica,
    User,
)
from serving import limit_store as store
from serving.cluster.table import read_table
from serving.cost import UNITS_PER_USD
from serving.errors import Conflict, InvalidSpec, NotFound
from serving.render import ClusterOptions, GatewayTable, render
from tests.services import redis_server
from workers import limits as worker

pytestmark = pytest.mark.django_db
DAY_S = 86_400.0


@pytest.fixture
def actor(operator: User) -> Actor:
    return Actor(operator, "page")


@pytest.fixture
def deployment(actor: Actor) -> Deployment:
    ClusterStatus.objects.create(pk=1, reachable=True, nodes=[])
    facts = {"attention_heads": 8, "kv_heads": 4, "layers": 6, "max_context_tokens": 2048}
    RegisteredModel.objects.create(name="demo", source_kind="folder", source="/m", facts=facts)
    return actions.create_deployment(
        actor=actor,
        name="chat",
        model="demo",
        engine={"max_model_len": 1024},
        capacity={"price_per_accelerator_hour_usd": "3.6"},
    )


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    limit_use._client.cache_clear()
    with override_settings(REDIS_URL=redis_url), redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client
    limit_use._client.cache_clear()


def test_a_keys_limits_are_stored_with_one_event_and_one_wake(
    actor: Actor, deployment: Deployment, wakes: list[str]
) -> None:
    key, _ = actions.create_key(actor=actor, name="ci", limits={"requests_per_minute": 60})
    with TestCase.captureOnCommitCallbacks(execute=True):
        changed = actions.edit_key(
            actor=actor,
            key_id=key.pk,
            expected_version=1,
            name="ci 2",
            limits={
                "requests_per_minute": None,
                "budget_usd_per_day": "1.50",
                "deployments": ["chat", "chat"],
            },
        )
    assert (changed.name, changed.version) == ("ci 2", 2)
    assert changed.limits == {"budget_usd_per_day": "1.50", "deployments": ["chat"]}
    event = Event.objects.get(kind="key.edited")
    assert event.before == {"name": "ci", "limits": {"requests_per_minute": 60}}
    assert event.after == {"name": "ci 2", "limits": changed.limits}
    assert "Requests per minute 60 → –" in event.message and "Budget per day – → $1.50" in event.message
    assert wakes == ["workers.reconcile"]


def test_saving_a_key_without_a_change_does_nothing(actor: Actor) -> None:
    key, _ = actions.create_key(actor=actor, name="ci", limits={"requests_per_minute": 60})
    actions.edit_key(actor=actor, key_id=key.pk, expected_version=1, limits={"requests_per_minute": 60})
    assert not Event.objects.filter(kind="key.edited").exists()


def test_the_second_of_two_operators_is_told_and_nothing_is_lost(actor: Actor) -> None:
    key, _ = actions.create_key(actor=actor, name="ci")
    actions.edit_key(actor=actor, key_id=key.pk, expected_version=1, limits={"requests_in_flight": 4})
    with pytest.raises(Conflict) as caught:
        actions.edit_key(actor=actor, key_id=key.pk, expected_version=1, limits={"requests_in_flight": 9})
    assert caught.value.current["values"] == {"name": "ci", "requests_in_flight": 4}
    key.refresh_from_db()
    assert key.limits == {"requests_in_flight": 4}


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -5}, "tokens_per_minute"),
        ({"requests_in_flight": 1.5}, "requests_in_flight"),
        ({"budget_usd_per_day": "-1"}, "budget_usd_per_day"),
        ({"budget_usd_per_day": 9, "budget_usd_per_month": 5}, "budget_usd_per_day"),
        ({"deployments": []}, "deployments"),
        ({"deployments": ["nothing"]}, "deployments"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"requests_per_hour": 5}, "requests_per_hour"),
    ],
)
def test_a_bad_limit_names_its_field_and_changes_nothing(
    actor: Actor, limits: dict[str, Any], field: str
) -> None:
    key, _ = actions.create_key(actor=actor, name="ci")
    with pytest.raises(InvalidSpec) as caught:
        actions.edit_key(actor=actor, key_id=key.pk, expected_version=1, limits=limits)
    assert caught.value.field == field
    key.refresh_from_db()
    assert (key.limits, key.version) == ({}, 1)


def test_revoked_and_internal_keys_are_not_edited(actor: Actor) -> None:
    internal = ApiKey.objects.create(name="smoke", digest="0" * 64, prefix="internal", kind="internal")
    with pytest.raises(NotFound):
        actions.edit_key(actor=actor, key_id=internal.pk, expected_version=1, name="x")


def test_a_name_a_key_holds_stays_after_its_deployment_is_gone(actor: Actor, deployment: Deployment) -> None:
    key, _ = actions.create_key(actor=actor, name="ci", limits={"deployments": ["chat"]})
    actions.delete_deployment(actor=actor, name="chat")
    changed = actions.edit_key(
        actor=actor, key_id=key.pk, expected_version=1, limits={"requests_in_flight": 2}
    )
    assert changed.limits == {"deployments": ["chat"], "requests_in_flight": 2}


def test_a_deployments_limits_change_in_place(actor: Actor, deployment: Deployment) -> None:
    changed = actions.edit_deployment(
        actor=actor, name="chat", expected_version=1, limits={"tokens_per_minute": 5000}, note="trial"
    )
    assert (changed.limits, changed.version, changed.generation) == ({"tokens_per_minute": 5000}, 2, 1)
    event = Event.objects.get(kind="deployment.limits")
    assert (event.before, event.after) == ({}, {"tokens_per_minute": 5000})
    assert event.message == "Tokens per minute – → 5,000: trial"
    assert changed.revisions.count() == 1


def test_the_gateway_reads_what_the_actions_wrote(actor: Actor, deployment: Deployment) -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    key, plaintext = actions.create_key(
        actor=actor,
        name="ci",
        limits={"requests_per_minute": 60, "expires_at": expires, "deployments": ["chat"]},
    )
    actions.edit_deployment(
        actor=actor, name="chat", expected_version=1, limits={"budget_usd_per_month": "12.5"}
    )
    specs, unreadable = desired.desired_deployments()
    assert not unreadable
    document = render(
        specs,
        table=GatewayTable(keys=desired.gateway_keys(), hold_s=5),
        options=ClusterOptions(gateway_host="127.0.0.1", gateway_port=1, pythonpath="", installation="i"),
    )
    table = read_table(document["applications"][0]["deployments"][0]["user_config"])
    entry = table.keys[key.digest]
    assert entry.limits is not None and entry.limits.requests_per_minute == 60
    assert (entry.expires_at, entry.deployments) == (expires.timestamp(), frozenset({"chat"}))
    model = table.models["chat"].limits
    assert model is not None and model.budget_usd_per_month == Decimal("12.5")


def test_without_limits_the_document_is_what_it_was(actor: Actor, deployment: Deployment) -> None:
    actions.create_key(actor=actor, name="ci")
    specs, _ = desired.desired_deployments()
    assert [set(entry) for entry in desired.gateway_keys().values()] == [{"id", "name", "kind"}]
    assert specs[0].limits == {}


def test_a_key_with_limits_nobody_can_read_is_left_out(actor: Actor) -> None:
    key, _ = actions.create_key(actor=actor, name="ci")
    ApiKey.objects.filter(pk=key.pk).update(limits={"requests_per_minute": "many"})
    assert desired.gateway_keys() == {}


def test_a_key_pays_for_its_requests_and_a_deployment_for_its_replicas(
    actor: Actor, deployment: Deployment
) -> None:
    key, _ = actions.create_key(actor=actor, name="ci", limits={"budget_usd_per_day": 1})
    other, _ = actions.create_key(actor=actor, name="other")
    actions.edit_deployment(actor=actor, name="chat", expected_version=1, limits={"budget_usd_per_month": 5})
    now = spending.day_start(time.time()) + 3600.0
    PriceChange.objects.update(from_at=0.0)
    Replica.objects.create(
        deployment=deployment, deployment_name="chat", replica_id="r", state="RUNNING",
        started_at=now - 1000, last_seen_at=now,
    )  # fmt: skip
    for one, usd in ((key, "0.03"), (other, "0.01")):
        CostEntry.objects.create(
            deployment_id=deployment.pk, deployment_name="chat", at=int(now) // 3600 * 3600 - 3600,
            kind="request", key_id=one.pk, rest_units=int(Decimal(usd) * UNITS_PER_USD),
        )  # fmt: skip
    fields = budgets.spent_fields(now)
    assert fields[f"k:{key.pk}:day"] == "0.030000" and f"k:{other.pk}:day" not in fields
    # A thousand seconds at 0.001 $/s are not shared out yet, on top of what is.
    assert fields["d:chat:month"] == "1.040000"


def test_what_was_spent_reaches_redis_and_the_page(
    actor: Actor, deployment: Deployment, server: redis.Redis
) -> None:
    key, _ = actions.create_key(
        actor=actor, name="ci", limits={"budget_usd_per_day": 1, "requests_per_minute": 5}
    )
    assert worker.publish_spent(time.time())
    now_us = time.time() * 1e6
    server.zadd(store.keys_of(f"k:{key.pk}")[0], {"a": now_us, "b": now_us - 61e6})
    use = limit_use.of_key(key)
    assert (use.requests_last_minute, use.spent_usd_today) == (1, Decimal("0"))
    assert use.requests_in_flight is None and use.spent_usd_this_month is None


def test_what_the_gateway_says_of_its_limits_is_written_down(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: Any = {"limits": {"redis": "away"}}
    monkeypatch.setattr(worker.httpx, "get", lambda *_, **__: SimpleNamespace(json=lambda: said))
    worker.note_gateway(100.0)
    assert ClusterStatus.objects.get().gateway_limits == {"redis": "away", "at": 100.0}
    said["limits"] = "nothing"
    worker.note_gateway(200.0)
    assert ClusterStatus.objects.get().gateway_limits["at"] == 100.0


def test_use_is_not_known_while_redis_is_away(actor: Actor) -> None:
    key, _ = actions.create_key(actor=actor, name="ci", limits={"requests_per_minute": 5})
    limit_use._client.cache_clear()
    with override_settings(REDIS_URL="redis://127.0.0.1:1/0"):
        assert limit_use.of_key(key) == limit_use.Use()
        assert not worker.publish_spent(time.time())
    limit_use._client.cache_clear()


@pytest.mark.parametrize(
    ("said", "troubled"),
    [({}, False), ({"redis": "ok", "at": 100.0}, False), ({"redis": "away", "at": 100.0}, True),
     ({"redis": "away", "at": 20.0}, False)],
)  # fmt: skip
def test_the_console_says_when_limits_are_not_shared(said: dict[str, Any], troubled: bool) -> None:
    ClusterStatus.objects.create(pk=1, gateway_limits=said)
    assert bool(limit_use.gateway_trouble(105.0)) is troubled
