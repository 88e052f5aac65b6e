"""The same Idempotency-Key creates once, also at the same moment, and never keeps a secret."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from console.idempotency import create_once
from console.models import ApiKey, ClusterStatus, Deployment, IdempotencyRecord, RegisteredModel, User
from tests.unit.api.conftest import Caller, caller_for, error_of
from tests.unit.api.test_deployments import NEW

pytestmark = pytest.mark.django_db


def test_a_repeat_gets_the_first_answer(
    as_operator: Caller, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    first = as_operator.post("deployments", NEW, Idempotency_Key="abc")
    second = as_operator.post("deployments", NEW, Idempotency_Key="abc")
    assert (first.status_code, second.status_code) == (201, 201)
    assert (first["Idempotent-Replayed"], second["Idempotent-Replayed"]) == ("false", "true")
    assert first.json() == second.json()
    assert Deployment.objects.count() == 1


def test_the_same_key_for_something_else_is_a_conflict(
    as_operator: Caller, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    as_operator.post("deployments", NEW, Idempotency_Key="abc")
    error = error_of(as_operator.post("deployments", {**NEW, "name": "b"}, Idempotency_Key="abc"), 409)
    assert (error["code"], error["field"]) == ("conflict", "Idempotency-Key")
    assert Deployment.objects.count() == 1


def test_a_refused_creation_leaves_the_key_free(
    as_operator: Caller, model: RegisteredModel, cluster: ClusterStatus
) -> None:
    error_of(as_operator.post("deployments", {**NEW, "model": "nosuch"}, Idempotency_Key="abc"), 400)
    assert IdempotencyRecord.objects.count() == 0
    assert as_operator.post("deployments", NEW, Idempotency_Key="abc").status_code == 201


def test_keys_belong_to_a_person_and_an_address(as_operator: Caller, as_admin: Caller) -> None:
    ids = {
        caller.post(path, {"name": "x"}, Idempotency_Key="abc").json()["id"]
        for caller in (as_operator, as_admin)
        for path in ("keys",)
    }
    assert len(ids) == 2
    assert as_operator.post("me/tokens", {"name": "x"}, Idempotency_Key="abc").status_code == 201


@pytest.mark.parametrize(("path", "secret"), [("keys", "key"), ("me/tokens", "token")])
def test_a_secret_is_not_kept(path: str, secret: str, as_operator: Caller) -> None:
    first = as_operator.post(path, {"name": "x"}, Idempotency_Key="abc").json()
    second = as_operator.post(path, {"name": "x"}, Idempotency_Key="abc").json()
    assert second == {**first, secret: None}
    assert first[secret] not in str(IdempotencyRecord.objects.values())


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there", "ümlaut"])
def test_a_strange_key_is_refused(key: str, as_operator: Caller) -> None:
    error = error_of(as_operator.post("keys", {"name": "x"}, Idempotency_Key=key), 400)
    assert error["field"] == "Idempotency-Key"
    assert ApiKey.objects.count() == 0


def test_answers_are_forgotten_after_a_day(as_operator: Caller) -> None:
    as_operator.post("keys", {"name": "x"}, Idempotency_Key="abc")
    IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(hours=25))
    again = as_operator.post("keys", {"name": "x"}, Idempotency_Key="abc")
    assert again["Idempotent-Replayed"] == "false"
    assert IdempotencyRecord.objects.count() == 1


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_at_the_same_moment_create_one(operator: User) -> None:
    caller = caller_for(operator)
    started, answers = threading.Barrier(6), []

    def ask() -> None:
        started.wait()
        try:
            response = Caller().client.post(
                "/api/v1/keys",
                {"name": "x"},
                content_type="application/json",
                headers={**caller.headers, "Idempotency-Key": "abc"},
            )
            answers.append((response.status_code, response.json()["id"]))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ApiKey.objects.count() == 1
    assert answers == [(201, ApiKey.objects.get().pk)] * 6


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_who_comes_between_look_and_claim_gets_the_others_answer(operator: User) -> None:
    calls = []

    def slow() -> tuple[int, dict[str, Any]]:
        calls.append(1)
        return 201, {"n": len(calls)}

    def once() -> Any:
        return create_once(user=operator, key="k", method_and_path="POST /x", request={}, create=slow)

    first = once()
    record = IdempotencyRecord.objects.get()
    # As if the other request had been committed after our look: the look finds nothing, the claim fails.
    from console import idempotency

    found = idempotency._find
    looks = iter([None])
    idempotency._find = lambda *a: next(looks, record)  # type: ignore[assignment]
    try:
        second = once()
    finally:
        idempotency._find = found
    assert (first.body, second.body, second.replayed, len(calls)) == ({"n": 1}, {"n": 1}, True, 1)
