"""Methods added to every vLLM worker (`worker_extension_cls`): what it really holds, in bytes.

Runs in vLLM's worker processes; must stay importable there without ray.
"""

from collections.abc import Iterator
from typing import Any


class WorkerFacts:
    """Mixed into vLLM's worker class by vLLM itself; called through `collective_rpc`."""

    model_runner: Any

    def raydeck_memory(self) -> dict[str, int]:
        """Bytes of this rank's parameters and buffers, and of its KV cache tensors (shared storage once)."""
        model = self.model_runner.model
        return {
            "weights_bytes": _storage_bytes([*model.parameters(), *model.buffers()]),
            "kv_cache_bytes": _storage_bytes(_tensors(getattr(self.model_runner, "kv_caches", []))),
        }


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
