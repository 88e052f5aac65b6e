"""Passes engine definitions for GPUs through Ray's and vLLM's own validators, on a machine without a GPU.

A process of its own (`python -m tests.cluster.gpu_config_checks`), because vLLM is made to believe in a CUDA
platform for good. Reads a list of the document's `args` from stdin, writes one JSON list to stdout: what the
validators made of each, or the words of the refusal.
"""

import json
import sys
import tempfile
from typing import Any

from serving.cluster import exact_patches

H100_CAPABILITY = (9, 0)
H100_MEMORY_BYTES = 85_000_000_000


def main() -> None:
    """Answers all definitions of stdin."""
    with tempfile.TemporaryDirectory(prefix="rdt-") as home:
        exact_patches.quiet_offline_environment(home=home)
        results = _results()
    print("results:" + json.dumps(results))


def _results() -> list[dict[str, Any]]:
    exact_patches.act_as_cuda(
        capability=H100_CAPABILITY, device_name="NVIDIA H100", device_memory_bytes=H100_MEMORY_BYTES
    )
    return [checked(args) for args in json.load(sys.stdin)]


def checked(args: dict[str, Any]) -> dict[str, Any]:
    """What Serve, Ray Serve LLM and vLLM understand, or `refused`."""
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.llm._internal.serve.engines.vllm.vllm_engine import _get_vllm_engine_config
    from vllm.v1.executor.abstract import Executor

    from serving.cluster.apps import build_model
    from serving.cluster.engine_config import llm_config

    try:
        deployment = build_model(args)._bound_deployment
        config = LLMConfig(**llm_config(args))
        ray_config = config.get_engine_config()
        _, vllm_config = _get_vllm_engine_config(config)
    except (ValueError, RuntimeError) as error:
        return {"refused": str(error)}
    replica = deployment._replica_config
    parallel = vllm_config.parallel_config
    return {
        "hardware": ray_config.accelerator_config.kind,
        "serve_bundles": replica.placement_group_bundles,
        "serve_strategy": replica.placement_group_strategy,
        "llm_bundles": ray_config.placement_bundles,
        "llm_strategy": ray_config.placement_strategy,
        "executor_name": parallel.distributed_executor_backend,
        "executor_class": Executor.get_class(vllm_config).__name__,
        "world_size": parallel.world_size,
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
        "worker_extension": parallel.worker_extension_cls,
        "max_model_len": vllm_config.model_config.max_model_len,
        "max_num_seqs": vllm_config.scheduler_config.max_num_seqs,
        "device": vllm_config.device_config.device_type,
    }


if __name__ == "__main__":
    main()
