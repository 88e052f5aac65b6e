"""Messages to the webhook: sent once, tried again with growing pauses, given up in the end; all noted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from console import actions
from console.models import AlertWebhook, Event, WebhookDelivery
from serving.errors import Conflict, InvalidSpec
from serving.webhook import Outcome
from workers import webhooks

pytestmark = [pytest.mark.django_db, pytest.mark.database]
GIVEN = {"url": "https://hooks.example/x", "secret": "sixteen characters", "enabled": True}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was sent; `answers` decides the outcome of each attempt, then all are delivered."""
    calls: list[dict[str, Any]] = []

    def deliver(**call: Any) -> Outcome:
        calls.append(call)
        return ANSWERS.pop(0) if ANSWERS else Outcome(200)

    ANSWERS.clear()
    # The test's own transaction must survive the end of a task.
    monkeypatch.setattr(webhooks, "close_old_connections", lambda: None)
    monkeypatch.setattr(webhooks, "deliver", deliver)
    return calls


ANSWERS: list[Outcome] = []


def set_up() -> None:
    actions.edit_webhook(actor=actions.SYSTEM, expected_version=1, changes=GIVEN)


def queue(event: str = "alert.opened") -> WebhookDelivery:
    now = time.time()
    return WebhookDelivery.objects.create(event=event, body={"event": event}, created_at=now, next_at=now)


def test_a_message_is_sent_once_with_its_id(sent: list[dict[str, Any]]) -> None:
    set_up()
    row = queue()
    for _ in range(2):
        webhooks.deliver_in_turn()
    (call,) = sent
    assert (call["url"], call["secret"], call["allow_private"]) == (GIVEN["url"], GIVEN["secret"], False)
    assert call["headers"] == {"X-Raydeck-Delivery": str(row.pk), "X-Raydeck-Event": "alert.opened"}
    body = json.loads(call["body"])
    assert (body["id"], body["event"]) == (str(row.pk), "alert.opened")
    row.refresh_from_db()
    assert (row.status, row.attempts, row.last_status, row.last_error) == ("delivered", 1, 200, "")


def test_a_failed_one_is_tried_again_later_and_given_up_in_the_end(sent: list[dict[str, Any]]) -> None:
    set_up()
    row = queue()
    ANSWERS.extend([Outcome(500, "It answered 500.")] * 20)
    pauses = []
    for _ in range(20):
        now = time.time()
        if not webhooks.deliver_due(now + 10**6):
            break
        row.refresh_from_db()
        pauses.append(round(row.next_at - now))
    assert row.status == "failed" and row.attempts == len(webhooks.BACK_OFF_S) + 1
    assert pauses[:-1] == list(webhooks.BACK_OFF_S)
    assert (row.last_status, row.last_error) == (500, "It answered 500.")
    assert row.finished_at is not None


def test_one_that_is_not_due_waits(sent: list[dict[str, Any]]) -> None:
    set_up()
    row = queue()
    WebhookDelivery.objects.update(next_at=time.time() + 60)
    webhooks.deliver_in_turn()
    assert sent == []
    row.refresh_from_db()
    assert row.attempts == 0


def test_a_test_says_at_once_how_it_ended(sent: list[dict[str, Any]]) -> None:
    set_up()
    row = actions.send_test(actor=actions.SYSTEM)
    ANSWERS.append(Outcome(None, "The name is not known."))
    webhooks.deliver_in_turn()
    row.refresh_from_db()
    assert (row.status, row.last_error) == ("failed", "The name is not known.")


def test_a_webhook_that_was_switched_off_gets_tests_only(sent: list[dict[str, Any]]) -> None:
    set_up()
    actions.edit_webhook(actor=actions.SYSTEM, expected_version=2, changes={"enabled": False})
    queue()
    actions.send_test(actor=actions.SYSTEM)
    webhooks.deliver_in_turn()
    assert [call["headers"]["X-Raydeck-Event"] for call in sent] == ["test"]


def test_the_secret_is_encrypted_and_in_no_event() -> None:
    set_up()
    stored = AlertWebhook.objects.get()
    assert GIVEN["secret"] not in stored.secret_encrypted
    (event,) = Event.objects.filter(kind="webhook.changed")
    assert str(GIVEN["secret"]) not in json.dumps([event.message, event.before, event.after])
    assert "new secret" in event.message
    kept = {"secret": "", "sends_slow": False}
    actions.edit_webhook(actor=actions.SYSTEM, expected_version=2, changes=kept)
    assert AlertWebhook.objects.get().secret_encrypted == stored.secret_encrypted


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"enabled": True}, "url"),
        ({"enabled": True, "url": "https://a.example"}, "secret"),
        ({"secret": "short"}, "secret"),
        ({"url": "ftp://a.example"}, "url"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        actions.edit_webhook(actor=actions.SYSTEM, expected_version=1, changes=changes)
    assert refused.value.field == field
    assert not AlertWebhook.objects.exists()


def test_of_two_who_change_it_one_is_told() -> None:
    set_up()
    with pytest.raises(Conflict):
        actions.edit_webhook(actor=actions.SYSTEM, expected_version=1, changes={"enabled": False})


def test_a_test_needs_an_address() -> None:
    with pytest.raises(InvalidSpec):
        actions.send_test(actor=actions.SYSTEM)
