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
        """Bytes of this rank's parameters and buffers, and of its KV cache tensors (shared storage once)."""
        model = self.model_runner.model
        return {
            "weights_bytes": _storage_bytes([*model.parameters(), *model.buffers()]) + _packed_bytes(model),
            "kv_cache_bytes": _storage_bytes(_tensors(getattr(self.model_runner, "kv_caches", []))),
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
