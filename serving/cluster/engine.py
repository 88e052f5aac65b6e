"""The Serve deployment `engine`: one vLLM engine in one replica, driven over a deployment handle.

The constructor imports vLLM, starts the engine, answers a warm-up request and only then returns, so a replica
that Serve calls RUNNING has generated tokens. Requests arrive as the caller's own bytes; pydantic reads them
once, here. Module level imports stay light: the build task imports this file too. Private parts of Ray
and vLLM are touched in the files that docs/decisions/0001-gateway.md names (versions are pinned).
"""

import asyncio
import contextlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from ray import serve

from serving.cluster import openai_errors, wire
from serving.cluster.engine_config import llm_config
from serving.cluster.environment import withhold_from_engine
from serving.cluster.loopback import bind_replica_port_to_node_address
from serving.cluster.metering import Meter, current_meter, metered, metered_abort, metered_encode
from serving.cluster.naming import renaming
from serving.cluster.phases import ReplicaReport, process_memory_bytes, stage_bytes
from serving.cluster.ranks import order_ranks
from serving.cluster.replica_log import handlers_kept
from serving.cluster.shared_memory import unlink_names
from serving.cluster.surface import Surface
from serving.cluster.topology import cpu_environment
from serving.cluster.watch import end_with_engine
from serving.failure import CONSEQUENCES, root_cause
from serving.gateway_paths import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    SCORE,
    TASK_NOT_SUPPORTED,
    TOKENIZE,
    not_supported,
)

log = logging.getLogger("ray.serve")
REMEMBERED_ABORTS = 2000
WARM_UP_TOKENS = 4
# 4 MB of output are far more than any start writes; the cause stands near its end.
OUTPUT_TAIL_BYTES = 4_000_000
LONGEST_CAUSE = 400


class EngineStartFailed(RuntimeError):
    """The engine did not start; the last line of the message is the root cause."""


class Engine:
    """One replica. Methods are called by the gateway through a handle; all take and give bytes."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        # First of all: the model's own code and every child of vLLM see what is left.
        withhold_from_engine(os.environ)
        bind_replica_port_to_node_address()
        context = serve.get_replica_context()
        self._name = str(args["deployment"])
        self._replica = context.replica_id.unique_id
        self._aborted: OrderedDict[str, Meter] = OrderedDict()
        self._report = ReplicaReport(
            deployment=self._name, revision=int(args["revision"]), replica=self._replica
        )
        self._report.phase("loading")
        self._publishing = asyncio.create_task(self._report.publish_for_ever())
        try:
            # In a thread: Serve asks this process for its pid and log file while vLLM is being imported.
            with handlers_kept():
                self._engine = await asyncio.to_thread(_make_engine, args)
                await self._engine.start()
            client = self._engine._engine_client
            client.generate, client.abort = metered(client.generate), metered_abort(client)
            client.encode = metered_encode(client.encode)
            self._surface = Surface(self._engine._app_state, tasks=await client.get_supported_tasks())
            self._report.phase("warming")
            await self._warm_up()
            await self._report_facts(client)
            await asyncio.to_thread(unlink_names, os.getpid())
        except Exception as error:
            raise start_failed(error) from error
        self._report.phase("ready")
        self._watching = asyncio.create_task(end_with_engine(client))

    async def unary(self, path: str, request_id: str, body: bytes, served: str | None = None) -> bytes:
        """Answers one request without streaming: a frame of wire.py.

        `served` is the engine's name for the model where the caller's own is another (an alias).
        """
        meter = self._new_meter()
        if path not in self._surface.paths:
            return wire.pack(*self._not_supported(meter, path))
        try:
            answer = await self._answer(path, request_id, body, served)
            if _is_cancelled():  # vLLM turns the cancellation into an answer of its own
                raise asyncio.CancelledError
            if not isinstance(answer, bytes):
                return wire.pack(*self._refused(meter, answer))
            return wire.pack(meter.meta(), answer)
        except ValueError as error:
            return wire.pack(meter.meta(status=400, error_class="invalid_request"), _invalid(error))
        except asyncio.CancelledError:
            self._remember(request_id, meter)
            raise
        except Exception as error:
            return wire.pack(*self._failed(meter, error))

    async def stream(
        self, path: str, request_id: str, body: bytes, served: str | None = None
    ) -> AsyncIterator[bytes]:
        """Answers one request as items of wire.py, each sent the moment the engine has it."""
        meter = self._new_meter()
        if path not in self._surface.paths:
            yield wire.refusal(*self._not_supported(meter, path))
            return
        error_class = None
        complete = is_done = has_begun = False
        try:
            request = self._read_request(path, body, request_id)
            rename = renaming(request, served=served)
            async with contextlib.aclosing(self._answers(path, request)) as answers:
                async for answer in answers:
                    if not isinstance(answer, str):
                        yield wire.refusal(*self._refused(meter, answer))
                        complete = True
                        return
                    event = answer.encode()
                    if event == wire.DONE:
                        is_done = True
                        continue
                    if openai_errors.is_error_event(event):
                        error_class = "engine_failed"
                        if not has_begun:
                            # Nothing was sent, so it can still be told as what it is, or asked elsewhere.
                            yield wire.refusal(*self._failed(meter, None))
                            complete = True
                            return
                        event = openai_errors.error_event(openai_errors.ENGINE_STOPPED, code=error_class)
                    has_begun = True
                    yield rename(event)
            complete = True
            yield wire.closing(meter.meta(status=500 if error_class else 200, error_class=error_class))
            if is_done:
                yield wire.DONE
        except ValueError as error:
            complete = True
            yield wire.refusal(meter.meta(status=400, error_class="invalid_request"), _invalid(error))
        except Exception as error:
            complete = True
            yield wire.refusal(*self._failed(meter, error))
        finally:
            if not complete:
                self._remember(request_id, meter)

    async def usage_of(self, request_id: str) -> bytes:
        """Figures of a request that was aborted here; empty JSON when it is not known."""
        meter = self._aborted.pop(request_id, None)
        return json.dumps(meter.meta() if meter else {}).encode()

    async def ping(self) -> bytes:
        """Does nothing; a call that waits for a replica is what wakes a sleeping deployment."""
        return b"{}"

    async def __call__(self, request: Any) -> Any:
        """Refuses whoever finds this replica's own HTTP port, which Serve opens for every application."""
        from starlette.responses import Response

        body = openai_errors.error_body("Use the gateway.", code="invalid_api_key")
        return Response(body, status_code=401, media_type="application/json")

    async def check_health(self) -> None:
        """Serve's hook: raises when the engine's processes are gone, and Serve replaces the replica."""
        await self._engine.check_health()

    def _new_meter(self) -> Meter:
        """The meter of the request that this task answers."""
        meter = Meter(self._replica)
        current_meter.set(meter)
        return meter

    async def _answer(self, path: str, request_id: str, body: bytes, served: str | None) -> bytes | Any:
        """The answer's body, or an error object of vLLM's."""
        if path not in (CHAT, COMPLETIONS):
            return await self._surface.answer(path, request_id, body, served=served)
        request = self._read_request(path, body, request_id)
        rename = renaming(request, served=served)
        answer = await anext(self._answers(path, request))
        if _is_refusal(answer):
            return answer
        return rename(answer.model_dump_json(exclude_none=False).encode())

    def _read_request(self, path: str, body: bytes, request_id: str) -> Any:
        request = self._request_types[path].model_validate_json(body)
        request.request_id = request_id
        return request

    @property
    def _request_types(self) -> dict[str, Any]:
        from ray.llm._internal.serve.core.configs.openai_api_models import (
            ChatCompletionRequest,
            CompletionRequest,
        )

        return {CHAT: ChatCompletionRequest, COMPLETIONS: CompletionRequest}

    def _answers(self, path: str, request: Any) -> AsyncGenerator[Any, None]:
        answers: AsyncGenerator[Any, None] = (
            self._engine.chat(request) if path == CHAT else self._engine.completions(request)
        )
        return answers

    def _not_supported(self, meter: Meter, path: str) -> tuple[wire.Meta, bytes]:
        message = not_supported(path, answered=self._surface.paths)
        body = openai_errors.error_body(message, code=TASK_NOT_SUPPORTED, param="model")
        return meter.meta(status=400, error_class=TASK_NOT_SUPPORTED), body

    def _refused(self, meter: Meter, answer: Any) -> tuple[wire.Meta, bytes]:
        status = int(getattr(answer.error, "code", 500) or 500)
        if status >= 500:
            return self._failed(meter, None)
        message = " ".join(str(answer.error.message).split())
        body = openai_errors.error_body(message, param=getattr(answer.error, "param", None))
        return meter.meta(status=status, error_class="invalid_request"), body

    def _failed(self, meter: Meter, error: Exception | None) -> tuple[wire.Meta, bytes]:
        """The engine's own fault. Where its process is gone the gateway asks another replica or says when."""
        is_dead = self._engine._engine_client.errored
        log.error("engine failed on a request: error=%s dead=%s", type(error).__name__, is_dead)
        status, code = (503, wire.ENGINE_DIED) if is_dead else (500, "engine_failed")
        body = openai_errors.error_body(
            openai_errors.ENGINE_FAILED, type_=openai_errors.SERVER_ERROR, code=code
        )
        return meter.meta(status=status, error_class=code), body

    def _remember(self, request_id: str, meter: Meter) -> None:
        self._aborted[request_id] = meter
        while len(self._aborted) > REMEMBERED_ABORTS:
            self._aborted.popitem(last=False)

    async def _warm_up(self) -> None:
        """Answers the way callers will ask, so that none of them pays for first-time work."""
        if COMPLETIONS in self._surface.paths:
            await self._warm_up_generating()
            return
        hello: dict[str, dict[str, Any]] = {
            EMBEDDINGS: {"input": "Hello"},
            SCORE: {"text_1": "Hello", "text_2": "Hello"},
            TOKENIZE: {"prompt": "Hello"},
        }
        path = next(path for path in hello if path in self._surface.paths)
        body = json.dumps({"model": self._name, **hello[path]}).encode()
        meta, answer = wire.unpack(await self.unary(path, "warm-up", body))
        if meta["status"] != 200:
            words = json.loads(answer)["error"]["message"]
            raise RuntimeError(f"The engine started but did not answer the warm-up request: {words}")

    async def _warm_up_generating(self) -> None:
        """A model without a chat template refuses the chat; the completion must succeed."""
        shared = {"model": self._name, "max_tokens": WARM_UP_TOKENS, "stream": True}
        chat = {**shared, "messages": [{"role": "user", "content": "Hello"}]}
        completion = {**shared, "prompt": "Hello"}
        for path, body in ((CHAT, chat), (COMPLETIONS, completion)):
            items = [
                item async for item in self.stream(path, f"warm-up-{path[4:8]}", json.dumps(body).encode())
            ]
            closing = [item for item in items if item[0] == wire.META]
            meta = json.loads(closing[-1][1:]) if closing else None
            if path == COMPLETIONS and (meta is None or not meta["completion_tokens"]):
                raise RuntimeError("The engine started but generated nothing for the warm-up request.")

    async def _report_facts(self, client: Any) -> None:
        ranks = await client.collective_rpc("raydeck_memory")
        cache = client.vllm_config.cache_config
        blocks = int(cache.num_gpu_blocks or 0)
        facts = {
            "weights_bytes": sum(rank["weights"] for rank in ranks),
            "kv_cache_bytes": sum(rank["kv_cache"] for rank in ranks),
            "kv_cache_blocks": blocks,
            "block_size_tokens": int(cache.block_size),
            "kv_cache_tokens": blocks * int(cache.block_size),
            # vLLM's own words for capacity: with several kinds of layers it is not blocks × block size.
            "kv_capacity_tokens": int(getattr(cache, "kv_cache_size_tokens", None) or 0),
            "kv_max_concurrency": float(getattr(cache, "kv_cache_max_concurrency", None) or 0.0),
            "context_tokens": int(client.vllm_config.model_config.max_model_len),
            "process_memory_bytes": await asyncio.to_thread(process_memory_bytes, os.getpid()),
        }
        per_stage = client.vllm_config.parallel_config.tensor_parallel_size
        self._report.facts(facts, stages=stage_bytes(ranks, ranks_per_stage=per_stage))


def _make_engine(args: dict[str, Any]) -> Any:
    """Imports vLLM (7 s) and describes the engine; nothing is loaded yet."""
    if args.get("accelerator_type") is None:
        tensor, pipeline = int(args["tensor_parallel_size"]), int(args["pipeline_parallel_size"])
        wanted = cpu_environment(tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
        os.environ.update({**wanted, **{k: str(v) for k, v in (args.get("env") or {}).items()}})
    else:
        os.environ.update(order_ranks(args))

    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    return VLLMEngine(LLMConfig(**llm_config(args)))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_refusal(answer: Any) -> bool:
    return hasattr(answer, "error") and not hasattr(answer, "choices")


def _invalid(error: ValueError) -> bytes:
    """A 400 from a validation error: the first complaint and the field it is about."""
    details = getattr(error, "errors", None)
    if not callable(details):
        param = getattr(error, "param", None)
        return openai_errors.error_body(" ".join(str(error).split()), param=param)
    first = details(include_url=False, include_context=False, include_input=False)[0]
    # Of a union pydantic names the variant first: a class of vLLM's, which says nothing to callers.
    field = ".".join(str(part) for part in first["loc"] if not str(part).endswith("Request")) or None
    message = " ".join(str(first["msg"]).split())
    return openai_errors.error_body(f"{field}: {message}" if field else message, param=field)


def start_failed(error: Exception) -> EngineStartFailed:
    """The error a constructor ends with, so that the root cause can be found in Serve's message."""
    # A line of its own: readers of Serve's message look for lines that begin with an exception.
    return EngineStartFailed(f"raydeck-cause:\n{_start_failure(error)}")


def _start_failure(error: Exception) -> str:
    """The root cause of a failed start: this exception's, or what a child process has written."""
    innermost: BaseException = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    own = " ".join(f"{type(innermost).__name__}: {innermost}".split())[:LONGEST_CAUSE]
    if not CONSEQUENCES.search(own):
        return own
    for descriptor in (2, 1):  # vLLM's children write where this process writes
        try:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            with path.open("rb") as stream:
                stream.seek(max(0, path.stat().st_size - OUTPUT_TAIL_BYTES))
                found = root_cause(stream.read().decode(errors="replace"))
        except OSError:  # a terminal or a pipe
            continue
        if found.raw:
            return found.cause
    return own
