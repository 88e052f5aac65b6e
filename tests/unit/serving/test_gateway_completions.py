"""What a caller and the usage ledger get when an engine breaks off, and when the caller does."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RequestCancelledError

from serving.cluster import completions, wire
from serving.cluster.completions import Completions
from serving.cluster.handles import Handles
from serving.cluster.limits import Limiter
from serving.cluster.routes import Route
from serving.cluster.spool import Spool
from serving.cluster.table import KeyEntry, ModelEntry
from serving.cluster.timeline import Timeline
from serving.cluster.usage import UsageRecorder
from serving.usage import read_record

EVENT = b'data: {"choices": []}\n\n'
DIED = {"status": 503, "error_class": "engine_died", "replica": "r1"}
META = {"status": 500, "error_class": "engine_failed", "completion_tokens": 1}
DONE = "data: [DONE]"


class Engine:
    """An engine's handle whose answers are given; Ray is not needed to break off."""

    def __init__(
        self,
        *,
        items: Sequence[Any] = (),
        failure: BaseException | None = None,
        answers: Sequence[bytes] = (),
    ) -> None:
        self.items, self.failure, self.answers = items, failure, list(answers)
        self.asked, self.cancelled, self.calls = asyncio.Event(), False, 0
        self.unary = self.stream = self.usage_of = SimpleNamespace(remote=self.remote)

    def remote(self, *_: Any) -> "Engine":
        self.calls += 1
        return self

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> bytes:
        if self.cancelled:
            return b'{"completion_tokens": 1}'
        self.asked.set()
        if self.answers:
            return self.answers.pop(0)
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()
        return b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for item in [self.answers.pop(0)] if self.answers else self.items:
            yield item
        if self.failure is not None:
            raise self.failure


class Gateway:
    """The real completions with a recorder that is not started, and what was sent."""

    def __init__(self, engine: Engine, *, stream: bool, folder: Path) -> None:
        self.recorder = UsageRecorder(redis_url=None, spool=Spool(folder, writer="w"))
        handles: Any = Handles()
        handles.of = lambda entry: engine
        handles.retry_after_s = lambda entry: 12
        self.handles = handles
        self.entry = ModelEntry("demo", "model-demo", "engine", 1, "serve", "", 1.0, 0)
        self.limiter = Limiter(redis_url=None)
        self.completions = Completions(handles=handles, recorder=self.recorder, limiter=self.limiter)
        self.line = Timeline(request_id="r", path="/v1/chat/completions", started_at=1.0, started=1.0)
        self.line.stream, self.line.deployment = stream, "demo"
        self.sent: list[Any] = []

    async def serve(self) -> None:
        async def send(message: Any) -> None:
            self.sent.append(message)

        key = KeyEntry(1, "ci", is_internal=False)
        await self.completions.serve(Route((self.entry,)), key, self.line, b"{}", send)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def records(self) -> list[tuple[str, int, str | None]]:
        rows = [json.loads(text) for text in self.recorder._queue]
        return [(row["outcome"], row["status"], row["error_class"]) for row in rows]


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gateway]:
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 1)
    return lambda engine, *, stream: Gateway(engine, stream=stream, folder=tmp_path)


async def test_a_refusal_in_mid_stream_ends_with_done(gateway: Callable[..., Gateway]) -> None:
    called = gateway(Engine(items=[EVENT, wire.refusal(META, b"{}")]), stream=True)
    await called.serve()
    first, error, last = called.text.strip().split("\n\n")
    assert (first, last) == (EVENT.decode().strip(), DONE)
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert called.records == [("error", 500, "engine_failed")]
    assert json.loads(called.recorder._queue[0])["completion_tokens"] == 1
    assert called.sent[-1]["more_body"] is False


@pytest.mark.parametrize("failure", [RequestCancelledError("r"), asyncio.CancelledError()])
@pytest.mark.parametrize("stream", [True, False])
async def test_work_cancelled_on_the_engines_side_is_an_error_for_the_caller(
    gateway: Callable[..., Gateway], failure: BaseException, stream: bool
) -> None:
    called = gateway(Engine(failure=failure), stream=stream)
    await called.serve()
    assert called.status == 503
    assert json.loads(called.text)["error"]["code"] == "engine_failed"
    assert called.records == [("error", 503, "engine_failed")]


async def test_a_stream_cancelled_on_the_engines_side_says_so_and_ends(
    gateway: Callable[..., Gateway],
) -> None:
    called = gateway(Engine(items=[EVENT], failure=RequestCancelledError("r")), stream=True)
    await called.serve()
    assert '"engine_failed"' in called.text and called.text.strip().endswith(DONE)
    assert called.records == [("error", 500, "engine_failed")]


async def test_a_caller_who_leaves_is_an_abort(gateway: Callable[..., Gateway]) -> None:
    engine = Engine()
    called = gateway(engine, stream=False)
    serving = asyncio.create_task(called.serve())
    await engine.asked.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await called.completions.finish()
    assert engine.cancelled and not called.sent
    assert called.records == [("aborted", 499, "client_disconnected")]


async def test_a_caller_who_leaves_is_an_abort_also_when_the_engine_hears_of_it_first(
    gateway: Callable[..., Gateway],
) -> None:
    engine = Engine(failure=RequestCancelledError("r"))
    called = gateway(engine, stream=False)
    serving = asyncio.create_task(called.serve())
    await engine.asked.wait()
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await called.completions.finish()
    assert called.records == [("aborted", 499, "client_disconnected")]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_dead_engine_is_503_with_the_time_to_come_back(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    dropped: list[str] = []
    monkeypatch.setattr(completions, "drop_replica", lambda handle, replica: dropped.append(replica))
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 0 if dropped else 1)
    died = wire.refusal(DIED, b"{}") if stream else wire.pack(DIED, b"{}")
    called = gateway(Engine(answers=[died]), stream=stream)
    await called.serve()
    assert called.status == 503 and dropped == ["r1"]
    assert (b"retry-after", b"12") in called.sent[0]["headers"]
    error = json.loads(called.text)["error"]
    assert error["code"] == "engine_died" and "12 seconds" in error["message"]
    assert called.records == [("error", 503, "engine_died")]


@pytest.mark.parametrize("stream", [True, False])
async def test_another_replica_answers_for_one_whose_engine_is_dead(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(completions, "drop_replica", lambda handle, replica: None)
    ok = {"status": 200, "completion_tokens": 1, "replica": "r2"}
    if stream:
        engine = Engine(answers=[wire.refusal(DIED, b"{}")], items=[EVENT, wire.closing(ok), wire.DONE])
    else:
        engine = Engine(answers=[wire.pack(DIED, b"{}"), wire.pack(ok, b"{}")])
    called = gateway(engine, stream=stream)
    await called.serve()
    assert called.status == 200 and engine.calls == 2
    assert called.records == [("ok", 200, None)]


async def test_a_replica_whose_process_is_gone_is_not_asked_for_ever(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "drop_replica", lambda handle, replica: None)
    engine = Engine(failure=ActorDiedError())
    called = gateway(engine, stream=False)
    await called.serve()
    assert called.status == 503 and engine.calls == 3
    assert called.records == [("error", 503, "engine_died")]


@pytest.mark.parametrize(
    ("before", "sleeps", "woke"),
    [
        ("nothing known", True, True),
        ("this revision answered", True, True),
        ("another revision answered", True, False),
        ("it died", True, False),
        ("this revision answered", False, False),
    ],
)
async def test_a_caller_woke_a_model_only_when_it_slept(
    gateway: Callable[..., Gateway],
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    sleeps: bool,
    woke: bool,
) -> None:
    ok = {"status": 200, "completion_tokens": 1, "replica": "r2"}
    called = gateway(Engine(answers=[wire.pack(ok, b"{}")]), stream=False)
    called.entry = replace(called.entry, sleeps=sleeps)
    if before == "it died":
        called.handles.note_death(called.entry)
    elif before != "nothing known":
        called.handles.note_answer(replace(called.entry, revision=1 if "this" in before else 0))
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 0)
    monkeypatch.setattr(completions, "HELD_S", 0.0)

    async def up(entry: ModelEntry, *, timeout_s: float) -> bool:
        await asyncio.sleep(0.01)
        return True

    called.handles.wait_for_replica = up
    await called.serve()
    row = json.loads(called.recorder._queue[0])
    assert (called.status, row["woke"]) == (200, woke)
    assert row["held_s"] >= 0.01 and row["gateway_s"] is not None


async def test_a_request_that_waited_for_a_new_replica_has_no_first_token_of_its_own() -> None:
    given = {
        "id": "q", "deployment": "d", "started_at": 1.0, "status": 200, "outcome": "ok", "stream": False,
        "gateway_s": 0.001, "queue_s": 0.01, "prefill_s": 0.1, "e2e_s": 21.0, "woke": False,
    }  # fmt: skip
    assert read_record(json.dumps(given | {"held_s": 20.0})).first_token_s is None
    assert read_record(json.dumps(given | {"held_s": 0.2})).first_token_s == pytest.approx(0.111)


async def test_a_refused_caller_is_told_the_seconds(
    gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = gateway(Engine(), stream=False)
    monkeypatch.setattr(completions, "replicas_known", lambda handle: 0)

    async def not_up(entry: ModelEntry, *, timeout_s: float) -> bool:
        return False

    called.handles.wait_for_replica = not_up
    await called.serve()
    assert called.status == 503 and "Try again in 12 seconds." in called.text
