"""Methods added to every vLLM worker (`worker_extension_cls`): what it really holds, in bytes.

Runs in vLLM's worker processes; must stay importable there without ray.
"""

import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.cluster.environment import withhold_from_engine

# A rank may be a process that Ray started, with the head's environment; vLLM imports this file in each
# before it loads the model.
withhold_from_engine(os.environ)


log = logging.getLogger(__name__)

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class WorkerFacts:
    """Mixed into vLLM's worker class by vLLM itself; called through `collective_rpc`."""

    model_runner: Any

    def raydeck_memory(self) -> dict[str, int]:
        """Bytes of this rank's parameters and buffers, and of its KV cache tensors (shared storage once).

        On an accelerator also what vLLM measured there; a figure that it does not keep is left out.
        """
        model = self.model_runner.model
        cache = list(_tensors(getattr(self.model_runner, "kv_caches", [])))
        weights = _storage_bytes([*model.parameters(), *model.buffers()]) + _packed_bytes(model)
        found = {"weights": weights, "kv_cache": _storage_bytes(cache)}
        for measure in (_profiled_bytes, _device_bytes):
            try:
                found |= measure(self)
            except Exception as error:
                # Private figures of the engine: one that is missing must not keep a model from serving.
                log.warning("raydeck measure=%s error=%s", measure.__name__, type(error).__name__)
        if cache and all(tensor.device.type == "cpu" for tensor in cache):
            found["process_rest"] = max(0, _resident_bytes() - _resident_bytes_of(cache) - weights)
        return found


def _profiled_bytes(worker: Any) -> dict[str, int]:
    """What vLLM's profiling run measured (v1/worker/gpu_worker.py, determine_available_memory): nothing on
    CPU, and little where the size of the KV cache was given."""
    from vllm import envs

    found = {
        "loaded": getattr(worker.model_runner, "model_memory_usage", None),
        "consumed": getattr(worker, "total_consumed", None),
        "kv_room": getattr(worker, "available_kv_cache_memory_bytes", None),
    }
    peak = getattr(worker, "peak_activation_memory", None)
    if peak is not None:
        guessed = getattr(worker, "cudagraph_memory_estimate", 0)
        found["activation"] = peak - (guessed if envs.VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS else 0)
    return {name: int(value) for name, value in found.items() if value is not None}


def _device_bytes(worker: Any) -> dict[str, int]:
    """What the device has, what was free before this engine, and what is gone since; nothing on CPU."""
    before = getattr(worker, "init_snapshot", None)
    if before is None or not getattr(before, "total_memory", 0):
        return {}
    import torch

    free_bytes, _ = torch.accelerator.get_memory_info(before.device_)
    return {
        "device_total": int(before.total_memory),
        "device_free_at_start": int(before.free_memory),
        "device_used": max(0, int(before.free_memory) - int(free_bytes)),
    }


def _resident_bytes() -> int:
    """What this process holds of main memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def _resident_bytes_of(tensors: list[Any]) -> int:
    """How much of the tensors' memory was ever written: a fresh cache is mostly promised, not held."""
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for address, size_bytes in _storages(tensors).items():
        start = address // PAGE_BYTES * PAGE_BYTES
        pages = -(-(address + size_bytes - start) // PAGE_BYTES)
        held = (ctypes.c_ubyte * pages)()
        if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(pages * PAGE_BYTES), held) == 0:
            total += bytes(held).count(1) * PAGE_BYTES
    return total


def _packed_bytes(model: Any) -> int:
    """Bytes of linear weights that vLLM's CPU build keeps packed outside the module's parameters."""
    total = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        rows = getattr(module, "output_size_per_partition", None)
        columns = getattr(module, "input_size_per_partition", None)
        if weight is None or rows is None or columns is None or weight.numel():
            continue
        total += rows * columns * module.params_dtype.itemsize
    return total


def _tensors(value: Any) -> Iterator[Any]:
    if hasattr(value, "untyped_storage"):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _storage_bytes(tensors: Any) -> int:
    return sum(_storages(tensors).values())


def _storages(tensors: Any) -> dict[int, int]:
    """Address -> bytes of every storage behind the tensors, shared ones once."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
