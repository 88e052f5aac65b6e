"""Ends a replica whose engine has died. Runs in the replica; imports neither ray.llm nor vllm.

An engine client whose process is gone never recovers. Serve asks a replica for its health every few seconds
and believes the third refusal, which took a minute on a busy machine; a replica whose process is gone it
believes at once, and starts another.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from serving.cluster.phases import descendants

log = logging.getLogger("ray.serve")
LOOK_EVERY_S = 0.1
# What the dead engine owed is on its way to callers as errors; that must still go out.
ERRORS_WITHIN_S = 1.0
ENGINE_DIED_EXIT = 70


async def end_with_engine(client: Any, *, end: Callable[[int], Any] = os._exit) -> None:
    """Returns never while the engine client is well; once it is not, says so in the log and ends the process.

    `raydeck-engine-died` is what the console looks for (workers/failures.py).
    """
    while not client.errored:  # noqa: ASYNC110  (vLLM has no event for it)
        await asyncio.sleep(LOOK_EVERY_S)
    log.error("raydeck-engine-died: the engine's process is gone, this replica ends")
    await asyncio.sleep(ERRORS_WITHIN_S)
    end_children()
    end(ENGINE_DIED_EXIT)


def end_children() -> None:
    """Ends what the engine has started below this process: its ranks must not outlive it."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
