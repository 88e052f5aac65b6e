"""Builds a model's own vLLM classes stage by stage on the meta device and asks vLLM's cache arithmetic.

Only in a process that exact_patches.py has prepared; every import of vllm is therefore inside a function.
It must never load a weight, run a kernel or reach the network.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.cluster import exact_patches as patches
from serving.cluster.exact_request import ExactRequest

if TYPE_CHECKING:
    from torch import nn

PASSED_ON = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "enable_prefix_caching",
    "enable_expert_parallel",
    "async_scheduling",
    "mamba_ssm_cache_dtype",
)
ROOM_FOR_ANY_REQUEST_BYTES = 1 << 60
ATTENTION_MARKS = ("attn", "attention", "mixer", "mamba", "linear_attn", "conv", "ssm")
MLP_MARKS = ("mlp", "feed_forward", "ffn", "dense_h_to_4h")
VISION_MARKS = ("visual", "vision", "image", "audio", "multi_modal_projector", "mm_projector")


def prepare(request: ExactRequest) -> None:
    """Import vLLM under the patches; once, before anything else here is called."""
    if request.device == "cuda":
        patches.act_as_cuda(
            capability=request.compute_capability,
            device_name=request.accelerator_name,
            device_memory_bytes=request.accelerator_memory_bytes,
        )
        patches.name_bundled_packages()
        patches.give_streams_without_cuda()
        patches.name_missing_kernels(capability=request.compute_capability)
    import vllm.engine.arg_utils
    import vllm.model_executor.model_loader.utils  # noqa: F401

    patches.name_image_functions()
    patches.look_at_classes_here()
    patches.write_no_expert_maps()
    patches.tell_quantization_of_tensors(request.tensor_dtypes)


def engine_config(request: ExactRequest, *, folder: Path) -> Any:
    """vLLM's whole configuration, checked by vLLM. Raises whatever vLLM raises when it refuses.

    `folder` gets the config.json; no tokenizer is needed. CUDA graphs and compilation are off: they hold no
    weight and no cache, and would wrap the modules.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    (folder / "config.json").write_text(json.dumps(request.config))
    given = {name: getattr(request, name) for name in PASSED_ON}
    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        trust_remote_code=False,
        distributed_executor_backend="mp",
        **{name: value for name, value in given.items() if value is not None},
    )
    return arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)


def build_stage(config: Any, *, stage: int) -> tuple[nn.Module, dict[str, Any]]:
    """The model of one pipeline stage, tensor-parallel rank 0, and its cache specifications by layer."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.platforms import current_platform
    from vllm.utils.torch_utils import set_default_torch_dtype

    parallel, compilation = config.parallel_config, config.compilation_config
    compilation.static_forward_context.clear()
    compilation.static_all_moe_layers.clear()
    parallel.rank = stage * parallel.tensor_parallel_size
    # Classes that make their parameters there themselves (transformers' own modules) would ask CUDA for them.
    config.device_config.device = torch.device("meta")
    patches.stand_at_stage(
        tensor_parallel_size=parallel.tensor_parallel_size,
        pipeline_parallel_size=parallel.pipeline_parallel_size,
        stage=stage,
    )
    with (
        set_current_vllm_config(config),
        set_default_torch_dtype(config.model_config.dtype),
        torch.device("meta"),
    ):
        model = initialize_model(config)
        current_platform.update_block_size_for_backend(config)
        return model, _cache_specs(config)


def _cache_specs(config: Any) -> dict[str, Any]:
    """As v1/worker/gpu/attn_utils.py:get_kv_cache_spec collects them in a worker."""
    from vllm.config.vllm import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.v1.kv_cache_interface import AttentionSpec

    specs = {}
    for name, layer in get_layers_from_vllm_config(config, AttentionLayerBase).items():
        if getattr(layer, "kv_sharing_target_layer_name", None):
            continue
        spec = layer.get_kv_cache_spec(config)
        if not spec:
            continue
        specs[name] = (
            layer.get_attn_backend().customize_spec(spec) if isinstance(spec, AttentionSpec) else spec
        )
    return specs


def resolve_layout(config: Any, specs: list[dict[str, Any]]) -> None:
    """As v1/engine/core.py does before it computes the cache; needs the last built stage's layers."""
    from vllm.config import set_current_vllm_config
    from vllm.config.vllm import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts, resolve_kv_cache_layout

    with set_current_vllm_config(config):
        layers = get_layers_from_vllm_config(config, AttentionLayerBase).values()
        backends = list(dict.fromkeys(layer.get_attn_backend() for layer in layers))
        layouts = [layout.name for layout in get_supported_kv_cache_layouts(backends)]
        resolve_kv_cache_layout(config, [layouts], [spec for stage in specs for spec in stage.values()])


def backends_of(config: Any) -> list[str]:
    """Names of the attention backends vLLM chose for the last built stage."""
    from vllm.config.vllm import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    layers = get_layers_from_vllm_config(config, AttentionLayerBase).values()
    return sorted({layer.get_attn_backend().get_name() for layer in layers})


def geometry(config: Any, specs: list[dict[str, Any]]) -> dict[str, Any]:
    """How the cache is cut, whatever its size: groups, bytes of one block by stage, blocks of one request."""
    found = _cache_configs(config, specs, kv_cache_bytes=ROOM_FOR_ANY_REQUEST_BYTES)
    groups = _groups(config, found)
    return {
        "groups": groups,
        "bytes_per_block_by_stage": [_bytes_per_block(stage.kv_cache_groups) for stage in found],
        "blocks_per_request": sum(group["blocks_per_request"] for group in groups),
    }


def capacity(config: Any, specs: list[dict[str, Any]], *, kv_cache_bytes: int) -> dict[str, Any]:
    """Blocks, tokens and concurrency for a number of bytes per rank, by vLLM's own functions.

    Raises ValueError in vLLM's words when one request of the greatest length does not fit.
    """
    from vllm.config import set_current_vllm_config
    from vllm.v1.core.kv_cache_utils import get_kv_cache_capacity

    found = _cache_configs(config, specs, kv_cache_bytes=kv_cache_bytes)
    with set_current_vllm_config(config):
        tokens, concurrency = get_kv_cache_capacity(config, found[0])
    return {
        "kv_cache_memory_bytes": kv_cache_bytes,
        "num_blocks": found[0].num_blocks,
        "kv_cache_tokens": tokens,
        "max_concurrency": concurrency,
        "max_model_len": config.model_config.max_model_len,
    }


def _cache_configs(config: Any, specs: list[dict[str, Any]], *, kv_cache_bytes: int) -> list[Any]:
    from vllm.config import set_current_vllm_config
    from vllm.v1.core.kv_cache_utils import get_kv_cache_configs

    with set_current_vllm_config(config):
        own = copy.deepcopy(specs)
        return list(get_kv_cache_configs(config, own, [kv_cache_bytes] * len(own)))


def _bytes_per_block(groups: list[Any]) -> int:
    """Zero for a stage that caches nothing."""
    from vllm.v1.core.kv_cache_utils import _pool_bytes_per_block

    return _pool_bytes_per_block(groups) if any(group.layer_names for group in groups) else 0


def _groups(config: Any, found: list[Any]) -> list[dict[str, Any]]:
    """The block groups; `layers` counts those of all stages."""
    groups = []
    for number, group in enumerate(found[0].kv_cache_groups):
        spec = group.kv_cache_spec
        layers = [name for stage in found for name in stage.kv_cache_groups[number].layer_names]
        groups.append(
            {
                "kind": type(spec).__name__,
                "layers": len(layers),
                "block_tokens": spec.block_size,
                "page_bytes": spec.page_size_bytes,
                "blocks_per_request": -(-spec.max_memory_usage_bytes(config) // spec.page_size_bytes),
            }
        )
    return groups


def describe_cache(specs: dict[str, Any]) -> list[dict[str, Any]]:
    """The cache of one stage's layers: kind, page, bytes per token, window; equal ones counted together."""
    from vllm.v1.kv_cache_interface import MambaSpec

    counted: Counter[str] = Counter()
    first: dict[str, dict[str, Any]] = {}
    for name, spec in specs.items():
        state = isinstance(spec, MambaSpec)
        row = {
            "kind": type(spec).__name__,
            "block_tokens": spec.block_size,
            "page_bytes": spec.page_size_bytes,
            "bytes_per_token": 0 if state else spec.page_size_bytes // spec.block_size,
            "state_bytes": spec.page_size_bytes if state else 0,
            "window_tokens": getattr(spec, "sliding_window", None),
            "chunk_tokens": getattr(spec, "attention_chunk_size", None),
        }
        key = json.dumps(row)
        counted[key] += 1
        first.setdefault(key, {"first_layer": name, **row})
    return [{"layers": counted[key], **row} for key, row in first.items()]


def weigh(model: nn.Module) -> dict[str, Any]:
    """Bytes and elements of parameters and buffers of a built stage; shared storage counts once."""
    seen: set[int] = set()
    parts: Counter[str] = Counter()
    parameters = on_real_device = 0
    for name, module in model.named_modules():
        own = [(True, value) for value in module._parameters.values() if value is not None]
        own += [(False, value) for value in module._buffers.values() if value is not None]
        for is_parameter, tensor in own:
            storage = tensor.untyped_storage()
            if storage._cdata in seen:
                continue
            seen.add(storage._cdata)
            size = tensor.numel() * tensor.element_size()
            parts[_part_of(name, module, is_parameter=is_parameter)] += size
            parameters += tensor.numel() if is_parameter else 0
            on_real_device += size if tensor.device.type != "meta" else 0
    return {
        "weight_bytes": sum(parts.values()),
        "weight_parts": dict(parts),
        "parameter_elements": parameters,
        "bytes_on_this_machine": on_real_device,
    }


def _part_of(name: str, module: nn.Module, *, is_parameter: bool) -> str:
    """Which part of a plan a module's tensors belong to; the keys of planner.result.StageMemory."""
    kind = type(module).__name__
    lowered = name.lower()
    if any(mark in lowered for mark in VISION_MARKS):
        return "vision"
    if "Rotary" in kind or (not is_parameter and "rotary" in lowered):
        return "rotary"
    if kind == "ParallelLMHead":
        return "lm_head"
    if kind == "VocabParallelEmbedding":
        return "embedding"
    if "Norm" in kind:
        return "norm"
    if "MoE" in kind or "Expert" in kind or "experts" in lowered:
        return "experts"
    if any(mark in lowered for mark in ATTENTION_MARKS):
        return "attention"
    return "mlp" if any(mark in lowered for mark in MLP_MARKS) else "other"
