"""The chat socket against a real HTTP server that speaks the gateway's stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from console import secrets
from console.models import ChatMessage, Conversation, Deployment, RegisteredModel, Revision, User
from serving import keys
from tests.unit.console.chat_gateway_stand_in import GatewayStandIn
from tests.unit.console.chat_page import ChatPage

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def gateway(settings: Any) -> AsyncIterator[GatewayStandIn]:
    stand_in = GatewayStandIn()
    await stand_in.start()
    settings.GATEWAY_URL = stand_in.url
    yield stand_in
    await stand_in.stop()


@pytest.fixture
async def page(gateway: GatewayStandIn, viewer: User) -> AsyncIterator[ChatPage]:
    opened = ChatPage(viewer)
    assert await opened.connect()
    yield opened
    await opened.close()


@sync_to_async
def stored() -> list[tuple[str, str, str]]:
    return list(ChatMessage.objects.order_by("id").values_list("role", "content", "state"))


@sync_to_async
def make_deployment() -> None:
    model = RegisteredModel.objects.create(name="demo", source_kind="folder", source="/models/demo")
    deployment = Deployment.objects.create(
        name="demo", model=model, requested_at=0, price_per_accelerator_hour_usd=Decimal("3.60")
    )
    deployment.current_revision = Revision.objects.create(
        deployment=deployment, number=1, engine={"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    )
    deployment.save()


async def test_anonymous_people_may_not_chat(gateway: GatewayStandIn) -> None:
    assert not await ChatPage(None).connect()


async def test_a_page_of_another_site_may_not_chat(gateway: GatewayStandIn, admin: User) -> None:
    assert not await ChatPage(admin, origin="https://elsewhere.example").connect()
    assert not await ChatPage(admin, origin="http://testserver:9999").connect()
    assert not await ChatPage(admin, origin="").connect()


async def test_tokens_stream_as_they_come_and_the_answer_carries_its_figures(
    page: ChatPage, gateway: GatewayStandIn
) -> None:
    await make_deployment()
    await page.ask("wait")
    started = await page.frame()
    assert started["t"] == "started" and started["kept"] and started["title"] == "wait"
    words = [(await page.frame())["text"] for _ in range(3)]
    assert words == ["Hel", "lo", " \u2028there"], "pieces must arrive before the reply is complete, unmerged"
    gateway.go_on.set()
    done = await page.frame()
    assert (done["t"], done["state"]) == ("done", "complete")
    stats = done["stats"]
    assert (stats["prompt_tokens"], stats["completion_tokens"], stats["tokens_counted"]) == (21, 7, False)
    assert 0 < stats["ttft_s"] <= stats["e2e_s"]
    assert stats["tpot_s"] is not None and stats["tokens_per_s"] == pytest.approx(
        7 / stats["e2e_s"], rel=0.01
    )
    expected = Decimal(str(stats["e2e_s"])) / 3600 * Decimal("3.60") * 4
    assert Decimal(stats["cost_usd"]) == pytest.approx(expected, rel=Decimal("0.001"))
    assert (stats["accelerators"], stats["request_id"]) == (4, "request-1")


async def test_the_gateway_gets_the_request_the_key_and_the_user(
    page: ChatPage, gateway: GatewayStandIn
) -> None:
    await page.ask("hello", system="Be brief.", temperature=0.2, top_p=0.9, max_tokens=64, seed=7)
    await page.until("done")
    sent, headers = gateway.requests[0], gateway.headers[0]
    assert sent["model"] == "demo" and sent["stream"] and sent["stream_options"] == {"include_usage": True}
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.2, 0.9, 64, 7)
    own_key = keys.internal_key(pepper=secrets.key_pepper(), purpose="playground")
    assert headers["authorization"] == f"Bearer {own_key}"
    assert headers["x-raydeck-user"] == "viewer-person"


async def test_more_output_than_the_context_leaves_is_lowered_to_what_it_leaves(
    page: ChatPage, gateway: GatewayStandIn
) -> None:
    await page.ask("fill the context", max_tokens=512)
    done = (await page.until("done"))[-1]
    assert done["state"] == "complete"
    assert [sent.get("max_tokens") for sent in gateway.requests] == [512, None]


async def test_a_chat_that_is_too_long_is_said_in_words_for_people(
    page: ChatPage, gateway: GatewayStandIn
) -> None:
    await make_deployment()
    await page.ask("too long", max_tokens=64)
    error = (await page.until("error"))[-1]
    assert error["message"] == "This chat is longer than the context of 512 tokens."
    assert (error["stats"]["completion_tokens"], error["stats"]["cost_usd"]) == (0, None)


async def test_settings_left_empty_are_left_to_the_engine(page: ChatPage, gateway: GatewayStandIn) -> None:
    await page.ask("hello")
    await page.until("done")
    assert not {"temperature", "top_p", "max_tokens", "seed"} & set(gateway.requests[0])


async def test_stop_ends_the_request_upstream_and_keeps_what_had_come(
    page: ChatPage, gateway: GatewayStandIn
) -> None:
    await page.ask("endless")
    await page.until("token")
    await page.send({"stop": True})
    done = (await page.until("done"))[-1]
    await asyncio.wait_for(gateway.aborted.wait(), 5)
    assert done["state"] == "stopped" and done["stats"]["tokens_counted"]
    assert done["stats"]["completion_tokens"] >= 1
    assert (await stored())[-1][0::2] == ("assistant", "stopped")
    assert (await stored())[-1][1].startswith("Hel")


async def test_a_stop_sent_at_once_is_not_lost(page: ChatPage, gateway: GatewayStandIn) -> None:
    await page.ask("endless")
    await page.send({"stop": True})
    assert (await page.until("done"))[-1]["state"] == "stopped"


async def test_a_closed_tab_ends_the_request_upstream_and_keeps_what_had_come(
    gateway: GatewayStandIn, viewer: User
) -> None:
    page = ChatPage(viewer)
    await page.connect()
    await page.ask("endless")
    await page.until("token")
    await page.close()
    await asyncio.wait_for(gateway.aborted.wait(), 5)
    assert (await stored())[-1][2] == "stopped"


async def test_after_a_stop_the_next_question_is_answered(page: ChatPage, gateway: GatewayStandIn) -> None:
    await page.ask("endless")
    await page.until("token")
    await page.send({"stop": True})
    await page.until("done")
    await page.ask("hello")
    assert (await page.until("done"))[-1]["state"] == "complete"


@pytest.mark.parametrize(
    ("question", "code", "words", "status", "retry_after_s"),
    [
        ("busy", "overloaded", "too many requests waiting", 429, 2.0),
        ("starting", "unavailable", "is starting", 503, 14.0),
        ("stopped", "unavailable", "is stopped", 503, None),
        ("too long", "context_overflow", "512 tokens", 400, None),
        ("bad field", "bad_request", "top_k must be positive", 400, None),
        ("bad key", "unauthorised", "API key", 401, None),
        ("unknown", "not_found", "does not exist", 404, None),
        ("engine dies", "engine_error", "engine stopped", None, None),
        ("cut", "broken_stream", "broke", None, None),
        ("ends early", "broken_stream", "broke off", None, None),
    ],
)
async def test_what_goes_wrong_is_said(
    page: ChatPage, question: str, code: str, words: str, status: int | None, retry_after_s: float | None
) -> None:
    await page.ask(question)
    error = (await page.until("error", "done"))[-1]
    assert (error["t"], error["code"]) == ("error", code)
    assert words in error["message"]
    assert (error["status"], error["retry_after_s"]) == (status, retry_after_s)
    role, _, state = (await stored())[-1]
    assert (role, state) == ("assistant", "error")


async def test_an_error_chunk_is_a_failure_though_done_follows_and_the_part_is_kept(page: ChatPage) -> None:
    await page.ask("engine dies")
    frames = await page.until("error", "done")
    assert frames[-1]["t"] == "error"
    assert (await stored())[-1][1] == "Hello \u2028there"


async def test_a_gateway_that_is_down_is_said(page: ChatPage, gateway: GatewayStandIn, settings: Any) -> None:
    settings.GATEWAY_URL = "http://127.0.0.1:9"
    await page.ask("hello")
    error = (await page.until("error"))[-1]
    assert error["code"] == "gateway_down" and "127.0.0.1:9" in error["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": "abc"}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ({"deployment": ""}, "deployment"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_bad_settings_are_refused_with_the_field_and_nothing_is_sent(
    page: ChatPage, gateway: GatewayStandIn, change: dict[str, Any], field: str
) -> None:
    await page.ask("hello", **change)
    error = await page.frame()
    assert (error["t"], error["code"], error["field"]) == ("error", "bad_request", field)
    assert gateway.requests == [] and await stored() == []


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"send": 5}', '{"send": {}}'])
async def test_what_is_not_understood_is_refused_and_the_socket_lives(page: ChatPage, text: str) -> None:
    await page.send(text)
    assert (await page.frame())["code"] == "bad_request"
    await page.ask("hello")
    assert (await page.until("done"))[-1]["state"] == "complete"


async def test_a_second_question_while_one_is_answered_is_refused(page: ChatPage) -> None:
    await page.ask("endless")
    await page.until("token")
    await page.ask("hello")
    assert (await page.until("error"))[-1]["code"] == "busy"
    await page.send({"stop": True})
    await page.until("done")


async def test_a_conversation_is_named_kept_and_continued(page: ChatPage, viewer: User) -> None:
    await page.ask("hello", system="Be kind.", seed=3)
    first = await page.until("done")
    number = first[0]["conversation_id"]
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "and now?"},
    ]
    await page.send({"send": {"deployment": "demo", "messages": turns, "conversation_id": number}})
    await page.until("done")
    await page.send(
        {"send": {"deployment": "demo", "messages": turns, "conversation_id": number, "regenerate": True}}
    )
    await page.until("done")
    roles = [role for role, _, _ in await stored()]
    assert roles == ["user", "assistant", "user", "assistant", "assistant"]
    kept = await Conversation.objects.aget()
    assert (kept.title, kept.user_id, kept.pk) == ("hello", viewer.pk, number)


async def test_with_history_off_nothing_is_stored(gateway: GatewayStandIn, viewer: User) -> None:
    await User.objects.filter(pk=viewer.pk).aupdate(keep_chat_history=False)
    page = ChatPage(viewer)
    await page.connect()
    await page.ask("hello")
    frames = await page.until("done")
    assert (frames[0]["kept"], frames[0]["conversation_id"]) == (False, None)
    assert await stored() == []
    await page.close()


async def test_an_installation_without_history_stores_nothing(page: ChatPage, settings: Any) -> None:
    settings.CHAT_HISTORY = False
    await page.ask("hello")
    await page.until("done")
    assert await stored() == []


async def test_another_persons_conversation_is_not_continued(
    page: ChatPage, viewer: User, operator: User
) -> None:
    theirs = await Conversation.objects.acreate(user=operator, title="private", deployment_name="demo")
    await page.ask("hello", conversation_id=theirs.pk)
    frames = await page.until("done")
    assert frames[0]["conversation_id"] != theirs.pk
    assert not await theirs.messages.aexists()


async def test_an_account_switched_off_can_no_longer_ask(
    page: ChatPage, gateway: GatewayStandIn, viewer: User
) -> None:
    await User.objects.filter(pk=viewer.pk).aupdate(is_active=False)
    await page.ask("hello")
    assert (await page.frame())["code"] == "unauthorised"
    assert gateway.requests == []


async def test_nothing_that_was_said_reaches_the_log(
    page: ChatPage, gateway: GatewayStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await page.ask("engine dies", system="a very private prompt")
    await page.until("error")
    own_key = keys.internal_key(pepper=secrets.key_pepper(), purpose="playground")
    for record in caplog.records:
        words = record.getMessage()
        assert "private" not in words and "there" not in words and own_key not in words


async def refused_and_closed(page: ChatPage, gateway: GatewayStandIn) -> None:
    """The next question is refused, the socket closes and the gateway hears nothing of it."""
    asked = len(gateway.requests)
    await page.ask("hello")
    assert (await page.frame())["code"] == "unauthorised"
    assert (await page.socket.receive_output(5))["code"] == 4401
    assert len(gateway.requests) == asked


async def test_after_logging_out_an_open_chat_answers_no_more(
    page: ChatPage, gateway: GatewayStandIn
) -> None:
    await page.ask("hello")
    await page.until("done")
    await sync_to_async(page.scope["session"].__class__(page.scope["session"].session_key).flush)()
    await refused_and_closed(page, gateway)


async def test_after_a_new_password_a_chat_opened_before_answers_no_more(
    page: ChatPage, gateway: GatewayStandIn, viewer: User
) -> None:
    viewer.set_password("another long one")
    await viewer.asave()
    await refused_and_closed(page, gateway)
