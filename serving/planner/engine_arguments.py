"""Which of vLLM's engine arguments a plan does not count, and what that does to its verdict. Pure.

Of an argument that the planner does not know it cannot say "fits": it may need room that nobody counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from serving.planner.result import Verdict

HARMLESS = frozenset({
    "aggregate_engine_logging", "allow_deprecated_quantization", "allowed_local_media_path",
    "allowed_media_domains", "async_scheduling", "code_revision", "collect_detailed_traces", "config_format",
    "disable_cascade_attn", "disable_chunked_mm_input", "distributed_timeout_seconds", "download_dir",
    "enable_log_requests", "enable_logging_iteration_details", "enable_mfu_metrics",
    "enable_mm_processor_stats",
    "enable_prompt_tokens_details", "fail_on_environ_validation", "generation_config", "ignore_patterns",
    "interleave_mm_strings", "jit_monitor_mode", "jit_monitor_verbose", "kv_cache_metrics",
    "kv_cache_metrics_sample", "load_format", "logprobs_mode", "long_prefill_token_threshold",
    "max_num_queued_reqs", "max_num_queued_tokens", "max_parallel_loading_workers", "mm_hasher_algorithm",
    "model_loader_extra_config", "otlp_traces_endpoint", "override_generation_config",
    "per_request_spec_decode_metrics", "prefix_caching_hash_algo", "pt_load_map_location", "reasoning_parser",
    "reasoning_parser_plugin", "renderer_num_workers", "safetensors_load_strategy",
    "safetensors_prefetch_block_size", "safetensors_prefetch_num_threads", "scheduling_policy", "seed",
    "show_hidden_metrics_for_version", "shutdown_timeout", "skip_tokenizer_init", "stream_interval",
    "structured_outputs_config", "tokenizer", "tokenizer_mode", "tokenizer_revision", "use_tqdm_on_load",
})  # fmt: skip
"""Arguments that change nothing about an accelerator's memory."""

MAY_NEED_LESS = frozenset({
    "cpu_offload_params", "hf_overrides", "kv_cache_dtype_skip_layers", "kv_sharing_fast_prefill",
    "language_model_only", "mamba_cache_dtype", "mamba_ssm_cache_dtype", "mm_encoder_only", "offload_backend",
    "offload_group_size", "offload_num_in_group", "offload_params", "quantization_config",
})  # fmt: skip
"""Arguments with which an engine may also need less: with them "does not fit" is not sure either."""

ON_BY_DEFAULT = frozenset({"enable_chunked_prefill"})
"""Switched off, these change something; any other that is off does nothing."""


def uncounted(given: Mapping[str, Any], *, planned: Collection[str]) -> tuple[str, ...]:
    """Names of the given arguments that may matter and are not in `planned`, sorted."""
    return tuple(
        sorted(
            name
            for name, value in given.items()
            if name not in planned and name not in HARMLESS and _is_set(name, value)
        )
    )


def less_sure(
    verdict: Verdict, reasons: tuple[str, ...], names: tuple[str, ...]
) -> tuple[Verdict, tuple[str, ...]]:
    """Verdict and reasons where `names` are not counted: at most "tight", and the names are said."""
    if not names:
        return verdict, reasons
    said = f"Not counted: {', '.join(names)}; the engine may need more or less than planned."
    if verdict == "does_not_fit" and MAY_NEED_LESS.intersection(names):
        return "unknown", (*reasons, said)
    if verdict == "fits":
        # What keeps it from being sure comes first: pages show the first reason.
        return "tight", (said, *reasons)
    return verdict, (*reasons, said)


def _is_set(name: str, value: Any) -> bool:
    if value is None or value in ({}, []):
        return False
    return value is not False or name in ON_BY_DEFAULT
