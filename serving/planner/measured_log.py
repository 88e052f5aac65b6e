"""vLLM's log lines about memory -> figures. Pure.

Wordings are those of vLLM 0.29 (v1/worker/gpu_worker.py, v1/worker/gpu/model_runner.py,
v1/core/kv_cache_utils.py, v1/worker/cpu_worker.py) and of the releases back to 0.8 where they differ. A line
that is not there leaves its figure None; nothing is inferred from other models or releases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from serving.planner.measured import Measured

GIB = 1 << 30
LEAST_DECIMALS = 2
"""vLLM rounds GiB to two decimals and drops a zero at the end: 8.8 is as coarse as 8.80."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_G = r"(-?\d+(?:\.\d+)?)"
_STAGE = re.compile(r"\(Worker[^)]*PP(\d+)")
_LOADED = re.compile(rf"Model loading took {_G} Gi?B(?: memory)?(?: and {_G} seconds)?")
_ROOM = re.compile(rf"(?:Available KV cache memory:|Current kv cache memory in use is) {_G} GiB")
_LOAD_SECONDS = re.compile(rf"Loading weights took {_G} seconds")
_ROOM_GIVEN = re.compile(rf"reserved {_G} GiB memory for KV Cache as specified")
_ROOM_CPU = re.compile(rf"(?:Explicitly|Auto) set \({_G}/{_G}\) GiB for KV cache")
_TOKENS = re.compile(r"(?:GPU|CPU) KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(rf"Maximum concurrency for ([\d,]+) tokens per request: {_G}x")
_BLOCKS = re.compile(r"num_gpu_blocks is: (\d+)")
_GRAPHS = re.compile(rf"Graph capturing finished in {_G} secs?, took {_G} GiB")
_GRAPHS_GUESSED = re.compile(rf"Estimated CUDA graph memory: {_G} GiB total|{_G} GiB \(estimated\)")
_GUESS_UNUSED = re.compile(r"CUDA graph memory profiling is disabled")
_DEVICE = re.compile(rf"Free memory on device \S*\s?\({_G}/{_G} GiB\) on startup")
_USED = re.compile(
    rf"Actual usage is {_G} GiB for consumed memory \(weights \+ non-torch\), {_G} GiB for peak activation, "
    rf"and {_G} GiB for CUDAGraph memory"
)
_USED_BEFORE = re.compile(
    rf"Actual usage is {_G} GiB for weights?, {_G} GiB for peak activation, {_G} GiB for non-torch memory, "
    rf"and {_G} GiB for CUDAGraph memory"
)
_VERSION = re.compile(r"Initializing a V1 LLM engine \(v([\w.+]+)\)")


@dataclass
class _Seen:
    """Figures of the log with the rank that decides kept: the most of what is taken, the least of room."""

    values: dict[str, Any] = field(default_factory=dict)
    resolution: dict[str, float] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    consumed: int | None = None
    peak: int | None = None
    graphs_guessed: int = 0
    guess_counts: bool = True

    def gib(self, name: str, text: str, *, smallest: bool = False) -> None:
        """Note a figure in GiB; of several ranks the largest, or the smallest, stands."""
        value, known = bytes_of_gib(text), self.values.get(name)
        if known is not None and (value >= known if smallest else value <= known):
            return
        self.values[name], self.resolution[name] = value, resolution_of_gib(text)

    def slower(self, seconds: float) -> None:
        """Note how long loading took; the slowest rank's time stands."""
        self.values["weight_load_seconds"] = max(seconds, self.values.get("weight_load_seconds", 0.0))


def bytes_of_gib(text: str) -> int:
    """A logged figure in GiB as bytes."""
    return round(float(text) * GIB)


def resolution_of_gib(text: str) -> float:
    """How many bytes rounding may have moved a logged figure in GiB: half of its last decimal."""
    decimals = max(LEAST_DECIMALS, len(text.partition(".")[2]))
    return 0.5 * 10.0**-decimals * GIB


def from_log(text: str) -> Measured:
    """What the log of one engine says, all its ranks together; the order of the lines does not matter.

    With several ranks in the text weights, activation and graphs are those of the rank with most of them and
    the room is that of the rank with least, as in `Measured`.
    """
    seen = _Seen()
    for line in COLOURS.sub("", text).splitlines():
        for read in _READERS:
            read(line, seen)
    _settle(seen)
    return Measured(**seen.values, resolution=seen.resolution)


def _read_weights(line: str, seen: _Seen) -> None:
    if found := _LOAD_SECONDS.search(line):
        seen.slower(float(found.group(1)))
    if not (found := _LOADED.search(line)):
        return
    place = _STAGE.search(line)
    stage = int(place.group(1)) if place else 0
    seen.gib("weight_bytes", found.group(1))
    seen.weights[stage] = max(seen.weights.get(stage, 0), bytes_of_gib(found.group(1)))
    if found.group(2):
        seen.slower(float(found.group(2)))


def _read_cache(line: str, seen: _Seen) -> None:
    if found := _ROOM.search(line) or _ROOM_GIVEN.search(line) or _ROOM_CPU.search(line):
        seen.gib("kv_room_bytes", found.group(1), smallest=True)
    if found := _TOKENS.search(line):
        seen.values["kv_cache_tokens"] = int(found.group(1).replace(",", ""))
    if found := _CONCURRENCY.search(line):
        seen.values["max_concurrency_at_tokens"] = int(found.group(1).replace(",", ""))
        seen.values["max_concurrency"] = float(found.group(2))
        seen.resolution["max_concurrency"] = 0.005
    if found := _BLOCKS.search(line):
        seen.values["num_blocks"] = int(found.group(1))


def _read_graphs(line: str, seen: _Seen) -> None:
    if found := _GRAPHS.search(line):
        seen.gib("cuda_graph_bytes", found.group(2))
    if found := _GRAPHS_GUESSED.search(line):
        guess = bytes_of_gib(found.group(1) or found.group(2))
        seen.graphs_guessed = max(seen.graphs_guessed, guess)
    if _GUESS_UNUSED.search(line):
        seen.guess_counts = False


def _read_device(line: str, seen: _Seen) -> None:
    if found := _DEVICE.search(line):
        seen.gib("free_at_start_bytes", found.group(1), smallest=True)
        seen.gib("device_total_bytes", found.group(2), smallest=True)
    if found := _USED.search(line):
        consumed, peak = bytes_of_gib(found.group(1)), bytes_of_gib(found.group(2))
        seen.consumed, seen.peak = max(seen.consumed or 0, consumed), max(seen.peak or 0, peak)
        seen.gib("cuda_graph_bytes", found.group(3))
    elif found := _USED_BEFORE.search(line):
        seen.gib("activation_bytes", found.group(2))
        seen.gib("non_torch_bytes", found.group(3))
        seen.gib("cuda_graph_bytes", found.group(4))
    if found := _VERSION.search(line):
        seen.values["engine_version"] = found.group(1)


_READERS = (_read_weights, _read_cache, _read_graphs, _read_device)


def _settle(seen: _Seen) -> None:
    """Figures that follow from several lines.

    Since 0.21 the logged peak holds the estimate of the graphs unless that is switched off, and consumed
    memory holds the weights. A difference of two rounded figures is twice as coarse.
    """
    twice = 2 * resolution_of_gib("0.00")
    if seen.peak is not None:
        without = seen.peak - (seen.graphs_guessed if seen.guess_counts else 0)
        if without >= -twice:
            seen.values["activation_bytes"] = max(0, without)
            seen.resolution["activation_bytes"] = twice
    weights = seen.values.get("weight_bytes")
    if seen.consumed is not None and weights is not None:
        seen.values["non_torch_bytes"] = max(0, seen.consumed - weights)
        seen.resolution["non_torch_bytes"] = twice
    if seen.weights and sorted(seen.weights) == list(range(len(seen.weights))):
        seen.values["weight_bytes_per_stage"] = tuple(seen.weights[stage] for stage in sorted(seen.weights))
        seen.resolution["weight_bytes_per_stage"] = resolution_of_gib("0.00")
