"""Methods added to every vLLM worker (`worker_extension_cls`): what it really holds, in bytes.

Runs in vLLM's worker processes; must stay importable there without ray.
"""

import os
from collections.abc import Iterator
from typing import Any

from serving.cluster.environment import withhold_from_engine

# A rank may be a process that Ray started, with the head's environment; vLLM imports this file in each
# before it loads the model.
withhold_from_engine(os.environ)


class WorkerFacts:
    """Mixed into vLLM's worker class by vLLM itself; called through `collective_rpc`."""

    model_runner: Any

    def raydeck_memory(self) -> dict[str, int]:
        """Bytes of this rank's parameters and buffers, and of its KV cache tensors (shared storage once).

        On an accelerator also what vLLM measured there; a figure that it does not keep is left out.
        """
        model = self.model_runner.model
        return {
            "weights": _storage_bytes([*model.parameters(), *model.buffers()]) + _packed_bytes(model),
            "kv_cache": _storage_bytes(_tensors(getattr(self.model_runner, "kv_caches", []))),
            **_profiled_bytes(self),
            **_device_bytes(self),
        }


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
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
