"""The gateway as callers see it: limits before the engine, allowed deployments, expiry, headers."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.cluster import completions
from serving.cluster.limits import Limiter
from tests.unit.serving.gateway_app import App


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 1)
    yield App(tmp_path)


def limited(**limits: Any) -> dict[str, Any]:
    return {"limits": limits}


async def test_over_the_limit_is_429_in_openais_form_and_the_engine_is_not_touched(app: App) -> None:
    app.configure(keys={"rd-one": limited(requests_per_minute=2)}, models={"demo": {}})
    assert [(await app.ask()).status for _ in range(3)] == [200, 200, 429]
    answer = await app.ask()
    assert answer.error["code"] == "rate_limit_exceeded" and answer.error["type"] == "requests"
    assert 55 <= int(answer.headers["retry-after"]) <= 60
    assert app.engine.asked == 2
    last = app.records[-1]
    assert (last["outcome"], last["status"], last["error_class"]) == ("refused", 429, "rate_limit_exceeded")
    assert (last["deployment"], last["revision"], last["key_id"]) == ("demo", 2, 1)


async def test_a_deployments_limit_holds_for_all_keys_and_the_playground_but_not_for_the_smoke_test(
    app: App,
) -> None:
    internal = {"kind": "internal", "limits": {"requests_per_minute": 1, "deployments": ["other"]}}
    app.configure(
        keys={
            "rd-one": {},
            "rd-play": {**internal, "name": "playground"},
            "rd-smoke": {**internal, "name": "smoke"},
        },
        models={"demo": limited(requests_per_minute=2), "other": {}},
    )
    assert (await app.ask()).status == 200
    assert [(await app.ask(key="rd-play")).status for _ in range(2)] == [200, 429]
    assert "the model `demo`" in (await app.ask()).error["message"]
    assert [(await app.ask(key="rd-smoke")).status for _ in range(4)] == [200] * 4
    assert (await app.ask({"model": "other"})).status == 200


async def test_a_deployment_a_key_may_not_ask_is_as_unknown_as_any_other(app: App) -> None:
    app.configure(keys={"rd-one": limited(deployments=["demo"])}, models={"demo": {}, "other": {}})
    assert (await app.ask()).status == 200
    refused, unknown = await app.ask({"model": "other"}), await app.ask({"model": "third"})
    assert (refused.status, unknown.status) == (404, 404)
    assert refused.error["message"].replace("other", "third") == unknown.error["message"]
    listed = await app.ask(path="/v1/models", method="GET")
    assert b"demo" in listed.body and b"other" not in listed.body
    assert (await app.ask(path="/v1/models/other", method="GET")).status == 404


async def test_an_expired_key_is_401_everywhere(app: App) -> None:
    app.configure(
        keys={"rd-one": limited(expires_at=time.time() - 1), "rd-two": limited(expires_at=time.time() + 60)},
        models={"demo": {}},
    )
    for path, method in (("/v1/chat/completions", "POST"), ("/v1/models", "GET")):
        answer = await app.ask(path=path, method=method)
        assert answer.status == 401 and "expired" in answer.error["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await app.ask(key="rd-two")).status == 200


async def test_a_key_whose_limits_cannot_be_read_does_not_pass(app: App) -> None:
    app.configure(keys={"rd-one": limited(requests_per_minute="many")}, models={"demo": {}})
    assert app.app.table.unreadable == 1
    assert (await app.ask()).status == 401


async def test_in_flight_is_given_back_before_the_caller_has_its_answer(app: App) -> None:
    app.configure(keys={"rd-one": limited(requests_in_flight=1)}, models={"demo": {}})
    app.engine.release = asyncio.Event()
    first = asyncio.create_task(app.ask())
    async with asyncio.timeout(10):
        while not app.engine.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert (await app.ask()).error["code"] == "rate_limit_exceeded"
    app.engine.release.set()
    assert (await first).status == 200
    assert (await app.ask()).status == 200
    assert (await app.ask({"model": "demo", "stream": True})).status == 200
    assert (await app.ask()).status == 200


async def test_a_caller_who_leaves_gives_its_place_back_and_its_tokens_count(app: App) -> None:
    app.configure(keys={"rd-one": limited(requests_in_flight=1, tokens_per_minute=10)}, models={"demo": {}})
    app.engine.release = asyncio.Event()
    gone = asyncio.create_task(app.ask())
    async with asyncio.timeout(10):
        while not app.engine.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
    # What Serve's response object does on cancel() is the engine's business.
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await app.app._completions.finish()
    app.engine.release.set()
    assert (await app.ask()).error["type"] == "tokens"


async def test_a_surprise_gives_the_place_back_too(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.configure(keys={"rd-one": limited(requests_in_flight=1)}, models={"demo": {}})
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 1 / 0)
    assert (await app.ask()).status == 500
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 1)
    assert (await app.ask()).status == 200


async def test_a_stopped_deployment_consumes_nothing(app: App) -> None:
    app.configure(keys={"rd-one": limited(requests_per_minute=1)}, models={"demo": {"state": "stopped"}})
    assert [(await app.ask()).status for _ in range(2)] == [503, 503]


async def test_who_has_no_limits_is_not_looked_up(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.configure(keys={"rd-one": {}}, models={"demo": {}})
    monkeypatch.setattr(Limiter, "admit", None)
    monkeypatch.setattr(Limiter, "finish", None)
    assert (await app.ask()).status == 200


async def test_answers_carry_what_is_known_of_their_times(app: App) -> None:
    app.configure(keys={"rd-one": {}}, models={"demo": {}})
    whole = (await app.ask()).headers
    assert whole["x-raydeck-deployment"] == "demo" and whole["x-raydeck-revision"] == "2"
    assert whole["x-raydeck-replica"] == "replica-1"
    assert [whole[f"x-raydeck-{name}-ms"] for name in ("queue", "prefill", "decode")] == [
        "1.000",
        "2.000",
        "3.000",
    ]
    assert float(whole["x-raydeck-total-ms"]) >= float(whole["x-raydeck-gateway-ms"]) >= 0
    assert whole["x-raydeck-held-ms"] == "0.000" and whole["x-raydeck-cached-tokens"] == "2"
    assert whole["x-raydeck-request-id"] == app.records[0]["id"]
    stream = (await app.ask({"model": "demo", "stream": True})).headers
    assert float(stream["x-raydeck-first-token-ms"]) > 0 and "x-raydeck-replica" not in stream
    unknown = (await app.ask({"model": "no\r\nx-evil: 1"})).headers
    assert "x-raydeck-deployment" not in unknown and "x-raydeck-request-id" in unknown


async def test_health_says_whether_limits_are_shared(app: App) -> None:
    answer = await app.ask(path="/healthz", method="GET", key=None)
    assert b'"limits": {"redis": "off", "hold": "per replica"' in answer.body


@pytest.mark.parametrize(
    ("raised", "outcome", "status"),
    [(RuntimeError("surprise"), "error", 500), (asyncio.CancelledError(), "aborted", 499)],
)
async def test_a_request_that_ends_before_the_engine_is_asked_is_recorded_once(
    app: App, monkeypatch: pytest.MonkeyPatch, raised: BaseException, outcome: str, status: int
) -> None:
    async def admit(*_: Any) -> None:
        raise raised

    app.configure(keys={"rd-one": limited(requests_in_flight=1)}, models={"demo": {}})
    monkeypatch.setattr(app.limiter, "admit", admit)
    try:
        assert (await app.ask()).error["code"] == "internal_error"
    except asyncio.CancelledError:
        assert outcome == "aborted"
    (record,) = app.records
    assert (record["outcome"], record["status"]) == (outcome, status)
