"""The engine of no cost behind our gateway: speaks the product's own wire format, computes nothing.

A stand-in, for measuring the gateway alone; the product never names it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve import Application

from serving.cluster import wire
from serving.cluster.loopback import bind_replica_port_to_node_address
from tests.bench.gateway import answers

META = {
    "status": 200,
    "prompt_tokens": answers.USAGE["prompt_tokens"],
    "cached_tokens": 0,
    "completion_tokens": answers.USAGE["completion_tokens"],
    "queue_s": 0.0,
    "prefill_s": 0.0,
    "finish_reason": "stop",
    "replica": "stand-in",
    "error_class": None,
}


class StandInEngine:
    """One replica; the methods of serving.cluster.engine.Engine that the gateway calls."""

    def __init__(self) -> None:
        bind_replica_port_to_node_address()

    async def unary(self, path: str, request_id: str, body: bytes, *_: Any) -> bytes:
        """A whole answer at once."""
        json.loads(body)
        return wire.pack(META, answers.UNARY)

    async def stream(self, path: str, request_id: str, body: bytes, *_: Any) -> AsyncIterator[bytes]:
        """Fifty pieces, ten milliseconds apart."""
        json.loads(body)
        for index in range(answers.CHUNKS):
            yield answers.event(index)
            await asyncio.sleep(answers.INTERVAL_S)
        yield wire.closing(META)
        yield wire.DONE

    async def usage_of(self, request_id: str) -> bytes:
        """Nothing is remembered of aborted requests."""
        return json.dumps(META).encode()

    async def ping(self) -> bytes:
        """Answers at once."""
        return b"{}"

    async def __call__(self, request: Any) -> str:
        """Serve wants one."""
        return ""


def build(args: dict[str, Any]) -> Application:
    """The application `model-bench`."""
    deployment = serve.deployment(
        StandInEngine,
        name="engine",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
        logging_config={"enable_access_log": False},
    )
    return deployment.bind()
