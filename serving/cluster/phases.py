"""What one replica tells about its start and its size, as metrics anybody can read over HTTP.

Series on the node's metrics page (Ray adds `ray_` in front), with `ReplicaId`, `deployment`, `revision`:
  ray_raydeck_phase_started_seconds{phase="loading"|"warming"|"ready"}  Unix time at which the phase began
  ray_raydeck_weights_bytes          bytes of parameters and buffers, all ranks together
  ray_raydeck_kv_cache_bytes         bytes of the KV cache tensors, all ranks together
  ray_raydeck_kv_cache_tokens        tokens the KV cache holds (blocks × block size)
  ray_raydeck_kv_cache_blocks        blocks of the KV cache
  ray_raydeck_block_size_tokens      tokens per block
  ray_raydeck_kv_capacity_tokens     tokens as vLLM counts them, by groups of layers (0: not said)
  ray_raydeck_kv_max_concurrency     requests of full length that fit at once (0: not said)
  ray_raydeck_context_tokens         the longest request, which that refers to
  ray_raydeck_stage_bytes{stage,part}  of one rank of a pipeline stage: weights, kv_cache; on CPU
                                       process_rest; else loaded, consumed, kv_room, activation, device_*
  ray_raydeck_process_memory_bytes   proportional set size of the replica and its children (host memory)
The same start is one line per event in the replica's log: `raydeck-phase {json}`, `raydeck-facts {json}`.
A replica that is being placed has no series yet: no `loading` means it is still placing. Must import neither
vllm nor torch.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray.util.metrics import Gauge

log = logging.getLogger("ray.serve")
TAGS = ("deployment", "revision", "ReplicaId")
PUBLISH_EVERY_S = 1.0
MEMORY_EVERY_S = 5.0
FACTS = (
    "weights_bytes",
    "kv_cache_bytes",
    "kv_cache_tokens",
    "kv_cache_blocks",
    "block_size_tokens",
    "kv_capacity_tokens",
    "kv_max_concurrency",
    "context_tokens",
    "process_memory_bytes",
)
LEAST_COUNTS = frozenset({"kv_room", "device_total", "device_free_at_start"})
"""Parts of which the rank with least decides; of all others the rank with most."""


class ReplicaReport:
    """Publishes phases and facts of this replica.

    A gauge that is set once is on the page for one interval only, so `publish_for_ever` sets all again.
    """

    def __init__(self, *, deployment: str, revision: int, replica: str) -> None:
        self._tags = {"deployment": deployment, "revision": str(revision), "ReplicaId": replica}
        self._started = Gauge(
            "raydeck_phase_started_seconds", description="Unix time a phase began", tag_keys=(*TAGS, "phase")
        )
        self._gauges = {name: Gauge(f"raydeck_{name}", description=name, tag_keys=TAGS) for name in FACTS}
        self._stage_gauge = Gauge(
            "raydeck_stage_bytes",
            description="Bytes of one rank of a pipeline stage",
            tag_keys=(*TAGS, "stage", "part"),
        )
        self._began: dict[str, float] = {}
        self._facts: dict[str, float] = {}
        self._stages: dict[int, dict[str, int]] = {}

    async def publish_for_ever(self) -> None:
        """Sets every gauge each second and measures memory every few; run it as a task."""
        measure_at = 0.0
        while True:
            if "ready" in self._began and time.monotonic() >= measure_at:
                self._facts["process_memory_bytes"] = await asyncio.to_thread(
                    process_memory_bytes, os.getpid()
                )
                measure_at = time.monotonic() + MEMORY_EVERY_S
            self.publish()
            await asyncio.sleep(PUBLISH_EVERY_S)

    def publish(self) -> None:
        """Sets every gauge to what is known."""
        for name, at in self._began.items():
            self._started.set(at, tags={**self._tags, "phase": name})
        for name, value in self._facts.items():
            self._gauges[name].set(value, tags=self._tags)
        for stage, parts in self._stages.items():
            for part, size_bytes in parts.items():
                self._stage_gauge.set(size_bytes, tags={**self._tags, "stage": str(stage), "part": part})

    def phase(self, name: str) -> None:
        """Says that a phase begins now."""
        now = time.time()
        self._began[name] = now
        self.publish()
        log.info("raydeck-phase %s", json.dumps({"phase": name, "at": now, **self._tags}))

    def facts(self, values: Mapping[str, float], *, stages: Mapping[int, dict[str, int]]) -> None:
        """Publishes measured sizes, by the names in FACTS and by pipeline stage, and logs them for after the
        replica is gone."""
        self._facts.update(values)
        self._stages.update(stages)
        self.publish()
        log.info("raydeck-facts %s", json.dumps({**values, "stages": stages, **self._tags}))


def stage_bytes(ranks: Sequence[Mapping[str, int]], *, ranks_per_stage: int) -> dict[int, dict[str, int]]:
    """Pipeline stage -> part -> bytes of the rank that decides, from all ranks in vLLM's order.

    Tensor-parallel ranks of a stage follow one another. Within a stage they hold the same, give or take what
    else is on their devices.
    """
    found: dict[int, dict[str, int]] = {}
    for index, rank in enumerate(ranks):
        parts = found.setdefault(index // ranks_per_stage, {})
        for part, size_bytes in rank.items():
            decides = min if part in LEAST_COUNTS else max
            parts[part] = decides(parts.get(part, size_bytes), size_bytes)
    return found


def process_memory_bytes(root_pid: int) -> int:
    """Proportional set size of a process and all its descendants, from /proc (shared pages counted once)."""
    total = 0
    for pid in [root_pid, *descendants(root_pid)]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def descendants(root_pid: int) -> list[int]:
    """Pids below a process, from the `children` lists of /proc."""
    found: list[int] = []
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop()
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                below = [int(child) for child in children.read_text().split()]
            except OSError:
                continue
            found += below
            waiting += below
    return found
