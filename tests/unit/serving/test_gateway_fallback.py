"""An alias goes on to its next deployment while no byte has gone out, and never after; one record is made."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.exceptions import BackPressureError

from serving.cluster import completions, openai_errors, wire
from serving.cluster.completions import Completions
from serving.cluster.limit_values import Limits
from serving.cluster.limits import Limiter
from serving.cluster.routes import Route
from serving.cluster.spool import Spool
from serving.cluster.table import KeyEntry, ModelEntry
from serving.cluster.timeline import Timeline
from serving.cluster.usage import UsageRecorder

EVENT = b'data: {"model":"b","choices":[]}\n\n'
OK = wire.pack({"status": 200, "completion_tokens": 2, "replica": "of-b"}, b'{"model":"alias"}')
STREAM_OK = [EVENT, wire.closing({"status": 200, "completion_tokens": 2}), wire.DONE]
ERROR_EVENT = openai_errors.error_event(openai_errors.ENGINE_STOPPED, code="engine_failed")


def failed(status: int) -> bytes:
    return wire.pack({"status": status, "error_class": "engine_failed"}, b'{"error":{}}')


class Engine:
    """A handle whose answer is given: a frame, a stream's items, or an exception."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []
        self.cancelled = False
        self.unary = self.stream = SimpleNamespace(remote=self.remote)

    def remote(self, *given: Any) -> "Engine":
        self.asked.append(given)
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._one().__await__()

    async def _one(self) -> Any:
        await asyncio.sleep(0)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for item in self.answer if isinstance(self.answer, list) else []:
            yield item
        if isinstance(self.answer, BaseException):
            raise self.answer


class Served:
    """One request for the alias over two deployments."""

    def __init__(self, first: Engine, second: Engine, folder: Path) -> None:
        self.engines = {"a": first, "b": second}
        self.recorder = UsageRecorder(redis_url=None, spool=Spool(folder, writer="w"))
        self.states = {"a": "serve", "b": "serve"}
        self.holds: list[float] = []
        self.sent: list[Any] = []
        handles: Any = SimpleNamespace(
            of=lambda entry: self.engines[entry.name],
            wait_for_replica=self._never_up,
            retry_after_s=lambda entry: 3,
            note_answer=lambda entry: None,
            note_death=lambda entry: None,
            may_have_slept=lambda entry: True,
        )
        self.limiter = Limiter(redis_url=None)
        self.key = KeyEntry(1, "ci", is_internal=False)
        self.limits: dict[str, Limits] = {}
        self.completions = Completions(handles=handles, recorder=self.recorder, limiter=self.limiter)

    async def _never_up(self, entry: ModelEntry, *, timeout_s: float) -> bool:
        self.holds.append(timeout_s)
        await asyncio.sleep(min(timeout_s, 0.05))
        return False

    async def serve(self, *, stream: bool = False) -> None:
        line = Timeline(request_id="r", path="/v1/completions", started_at=1.0, started=1.0, stream=stream)
        entries = tuple(
            ModelEntry(
                name,
                f"model-{name}",
                "engine",
                number,
                self.states[name],
                "",
                0.05,
                1,
                limits=self.limits.get(name),
            )  # fmt: skip
            for number, name in enumerate(("a", "b"), start=1)
        )
        await self.completions.serve(Route(entries, alias="alias"), self.key, line, b"{}", self._send)

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def record(self) -> dict[str, Any]:
        (text,) = self.recorder._queue
        found: dict[str, Any] = json.loads(text)
        return found

    def in_flight(self, limits: Limits) -> int:
        window = self.limiter._memory.windows.get(limits.scope)
        return 0 if window is None else len(window.running)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Served]:
    monkeypatch.setattr(completions, "replicas_known", lambda handle: getattr(handle, "replicas", 1))
    return lambda first, second: Served(Engine(first), Engine(second), tmp_path)


@pytest.mark.parametrize(
    "first", [failed(500), failed(503), failed(429), BackPressureError(1, 1), RuntimeError("gone")]
)
async def test_a_unary_answer_comes_from_the_next(served: Callable[..., Served], first: Any) -> None:
    request = served(first, OK)
    await request.serve()
    assert (request.status, request.text) == (200, '{"model":"alias"}')
    # The engine's own name goes beside the caller's bytes.
    assert request.engines["b"].asked == [("/v1/completions", "r", b"{}", "b")]
    assert request.record["deployment"] == "b" and request.record["alias"] == "alias"
    assert (request.record["outcome"], request.record["revision"]) == ("ok", 2)


@pytest.mark.parametrize(
    "first",
    [[wire.refusal(*wire.unpack(failed(500)))], [ERROR_EVENT], RuntimeError("gone"), BackPressureError(1, 1)],
)
async def test_a_stream_comes_from_the_next(served: Callable[..., Served], first: Any) -> None:
    request = served(first, list(STREAM_OK))
    await request.serve(stream=True)
    assert request.status == 200
    assert request.text == EVENT.decode() + wire.DONE.decode()
    assert (request.record["deployment"], request.record["outcome"]) == ("b", "ok")


@pytest.mark.parametrize("then", [[ERROR_EVENT], [wire.refusal(*wire.unpack(failed(500)))]])
async def test_after_the_first_byte_nothing_is_tried_again(
    served: Callable[..., Served], then: Sequence[bytes]
) -> None:
    request = served([EVENT, *then], list(STREAM_OK))
    await request.serve(stream=True)
    assert request.engines["b"].asked == []
    assert "engine_failed" in request.text
    assert (request.record["deployment"], request.record["outcome"]) == ("a", "error")


async def test_a_refusal_of_the_request_itself_is_the_answer(served: Callable[..., Served]) -> None:
    request = served(failed(400), OK)
    await request.serve()
    assert request.status == 400 and request.engines["b"].asked == []


@pytest.mark.parametrize("state", ["stopped", "failed"])
async def test_what_does_not_serve_is_not_asked(served: Callable[..., Served], state: str) -> None:
    request = served(OK, OK)
    request.states["a"] = state
    await request.serve()
    assert request.status == 200 and request.engines["a"].asked == []


async def test_two_sleeping_ones_are_waited_for_no_longer_than_one(served: Callable[..., Served]) -> None:
    request = served(OK, OK)
    for engine in request.engines.values():
        engine.replicas = 0  # type: ignore[attr-defined]
    await request.serve()
    assert request.status == 503
    assert request.holds[0] == 0.05 and request.holds[1] < 0.01
    assert (request.record["error_class"], request.record["outcome"]) == ("model_starting", "refused")


async def test_when_all_fail_the_last_says_why(served: Callable[..., Served]) -> None:
    request = served(failed(500), failed(500))
    await request.serve()
    assert request.status == 500
    assert (request.record["deployment"], request.record["outcome"]) == ("b", "error")


OF_A = Limits("d:a", "the model `a`", requests_in_flight=1)
OF_B = Limits("d:b", "the model `b`", requests_per_minute=5, requests_in_flight=5)
OF_KEY = Limits("k:1", "this API key", requests_per_minute=1, requests_in_flight=1)


async def test_a_full_deployment_leaves_the_turn_to_the_next(served: Callable[..., Served]) -> None:
    request = served(OK, OK)
    request.limits = {"a": OF_A, "b": OF_B}
    assert await request.limiter.admit("another", (OF_A,)) is None
    await request.serve()
    assert request.status == 200 and request.record["deployment"] == "b"
    assert request.engines["a"].asked == []
    assert (request.in_flight(OF_A), request.in_flight(OF_B)) == (1, 0)


async def test_a_key_is_counted_once_however_many_engines_are_tried(served: Callable[..., Served]) -> None:
    request = served(failed(503), OK)
    request.key = KeyEntry(1, "ci", is_internal=False, limits=OF_KEY)
    request.limits = {"a": OF_A, "b": OF_B}
    await request.serve()
    # At one request a minute a second count of the same request would have been refused.
    assert request.status == 200 and request.record["deployment"] == "b"
    assert [request.in_flight(one) for one in (OF_A, OF_B, OF_KEY)] == [0, 0, 0]


async def test_a_key_at_its_limit_is_refused_whatever_the_next_could_do(
    served: Callable[..., Served],
) -> None:
    request = served(OK, OK)
    request.key = KeyEntry(1, "ci", is_internal=False, limits=OF_KEY)
    assert await request.limiter.admit("another", (OF_KEY,)) is None
    await request.serve()
    assert request.status == 429 and "this API key" in request.text
    assert request.engines["a"].asked == request.engines["b"].asked == []
    assert (request.record["outcome"], request.record["status"]) == ("refused", 429)


async def test_a_caller_who_leaves_while_limits_are_asked_for_is_recorded(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = served(OK, OK)
    request.key = KeyEntry(1, "ci", is_internal=False, limits=OF_KEY)
    line = Timeline(request_id="r", path="/v1/completions", started_at=1.0, started=1.0)
    request.completions.account_for_lost(line, asyncio.CancelledError())
    assert (request.record["outcome"], request.record["status"]) == ("aborted", 499)
    request.completions.account_for_lost(line, RuntimeError())
    assert len(request.recorder._queue) == 1, "once"
