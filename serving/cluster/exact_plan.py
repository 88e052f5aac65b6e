"""`python -m serving.cluster.exact_plan`: what vLLM's own classes say of a model and a topology, as JSON.

    python -m serving.cluster.exact_plan --config PATH/config.json --tp 2 --pp 1 --max-model-len 16384
    echo '{"config": {…}, "tensor_parallel_size": 2}' | python -m serving.cluster.exact_plan

Prints one JSON object and nothing else on standard output:
engine_version, device, architecture, settings {…}, attention_backends,
stages [{weight_bytes, weight_parts, parameter_elements, kv_bytes_per_token, cache [...]}] of one rank each,
total_parameters (one rank and not quantised, else null),
geometry {groups, bytes_per_block_by_stage, blocks_per_request},
capacity {num_blocks, kv_cache_tokens, max_concurrency …} or null without --kv-cache-memory-bytes,
refusal {stage: config | build | cache, message, field} when vLLM itself would refuse, else null,
unavailable (text) when exact mode cannot tell, notes [text], seconds, peak_memory_bytes.
Exit code 0 whenever the object was printed, 2 for a senseless request ({"error", "field"}).

Weights are what a rank allocates when the model is built; kernels that lay weights out anew after loading
(MXFP4 through Triton) may hold more. No weight is loaded, no network reached, no code of the model run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving.cluster import exact_build
from serving.cluster.exact_patches import ExactModeUnavailable, installed_engine_version
from serving.cluster.exact_refusal import Refusal, refusal_of
from serving.cluster.exact_request import (
    REQUEST_LIMIT_BYTES,
    BadExactRequest,
    ExactRequest,
    config_from_file,
    dtypes_from_index,
    request_from_json,
    request_from_object,
)

DEFAULT_MEMORY_LIMIT_BYTES = 8 << 30
DEFAULT_CPU_LIMIT_S = 110
DEFAULT_WALL_LIMIT_S = 300
NOT_OF_THE_REQUEST = (
    "config",
    "safetensors_index",
    "memory_limit_bytes",
    "cpu_limit_s",
    "wall_limit_s",
    "nice",
)
BAD_REQUEST = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    given = _parser().parse_args(arguments)
    answers = _keep_standard_output()
    os.nice(given.nice)
    _limit_this_process(memory_bytes=given.memory_limit_bytes, cpu_s=given.cpu_limit_s)
    # Should the caller be gone, this ends the process (SIGALRM's default) instead of leaving it behind.
    signal.alarm(given.wall_limit_s)
    try:
        request = _request(given)
    except BadExactRequest as error:
        _print(answers, {"error": error.message, "field": error.field})
        return BAD_REQUEST
    _print(answers, exact_plan(request))
    return 0


def exact_plan(request: ExactRequest) -> dict[str, Any]:
    """The answer to one request; patches this process for good, so call it once per process."""
    started = time.monotonic()
    answer: dict[str, Any] = {
        "engine_version": None,
        "device": request.device,
        "stages": [],
        "total_parameters": None,
        "geometry": None,
        "capacity": None,
        "refusal": None,
        "unavailable": None,
        "notes": _notes(request),
    }
    with tempfile.TemporaryDirectory(prefix="exact-plan-") as folder:
        exact_build.patches.quiet_offline_environment(home=folder)
        try:
            answer["engine_version"] = installed_engine_version()
            _fill(answer, request, folder=Path(folder))
        except ExactModeUnavailable as error:
            answer["unavailable"] = str(error)
        except MemoryError:
            answer["unavailable"] = "building the model needs more memory than exact mode may use"
    answer["seconds"] = round(time.monotonic() - started, 3)
    answer["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return answer


def _fill(answer: dict[str, Any], request: ExactRequest, *, folder: Path) -> None:
    exact_build.prepare(request)
    step = "config"
    try:
        config = exact_build.engine_config(request, folder=folder)
        answer["architecture"] = config.model_config.architecture
        answer["settings"] = _settings(config)
        step = "build"
        specs = _build(answer, request, config)
        step = "cache"
        _add_capacity(answer, request, config, specs)
    except (ExactModeUnavailable, MemoryError):
        raise
    except Exception as error:
        found = refusal_of(error, step=step)
        if not isinstance(found, Refusal):
            raise ExactModeUnavailable(found) from error
        answer["refusal"] = {"stage": found.step, "message": found.message, "field": found.field}


def _build(answer: dict[str, Any], request: ExactRequest, config: Any) -> list[dict[str, Any]]:
    if request.device == "cuda":
        exact_build.patches.build_on_meta()
    specs = []
    for stage in range(request.pipeline_parallel_size):
        model, cache = exact_build.build_stage(config, stage=stage)
        rows = exact_build.describe_cache(cache)
        per_token = sum(row["layers"] * row["bytes_per_token"] for row in rows)
        weight = exact_build.weigh(model)
        answer["stages"].append({**weight, "kv_bytes_per_token": per_token, "cache": rows})
        specs.append(cache)
        answer["attention_backends"] = exact_build.backends_of(config)
        del model
    answer["settings"] = _settings(config)
    if config.parallel_config.world_size == 1 and config.model_config.quantization is None:
        # Ranks repeat some parameters and packed formats hold several in one element.
        answer["total_parameters"] = answer["stages"][0]["parameter_elements"]
    return specs


def _add_capacity(
    answer: dict[str, Any], request: ExactRequest, config: Any, specs: list[dict[str, Any]]
) -> None:
    if not any(specs):
        return
    exact_build.resolve_layout(config, specs)
    answer["geometry"] = exact_build.geometry(config, specs)
    if request.kv_cache_memory_bytes is not None:
        answer["capacity"] = exact_build.capacity(config, specs, kv_cache_bytes=request.kv_cache_memory_bytes)
    answer["settings"] = _settings(config)


def _settings(config: Any) -> dict[str, Any]:
    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "kv_cache_dtype": cache.cache_dtype,
        "max_model_len": model.max_model_len,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "block_size": cache.block_size,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "async_scheduling": bool(scheduler.async_scheduling),
    }


def _notes(request: ExactRequest) -> list[str]:
    method = (
        str((request.config.get("quantization_config") or {}).get("quant_method", ""))
        if isinstance(request.config.get("quantization_config"), dict)
        else ""
    )
    if method in ("awq", "gptq") and not request.tensor_dtypes:
        return [
            "Without the checkpoint's tensor headers every linear layer that the configuration does not "
            f"exclude is taken to be quantised ({method})."
        ]
    if request.quantization is not None and not method:
        return [
            "Weights are those before vLLM quantises them while it loads; afterwards they take less "
            f"({request.quantization})."
        ]
    return []


def _request(given: argparse.Namespace) -> ExactRequest:
    if given.config is None:
        return request_from_json(sys.stdin.buffer.read(REQUEST_LIMIT_BYTES + 1))
    values = {name: value for name, value in vars(given).items() if name not in NOT_OF_THE_REQUEST}
    if values["compute_capability"] is not None:
        values["compute_capability"] = [
            int(part) if part.isdigit() else -1 for part in values["compute_capability"].split(".")
        ]
    values["config"] = config_from_file(given.config)
    if given.safetensors_index is not None:
        values["tensor_dtypes"] = dtypes_from_index(given.safetensors_index)
    return request_from_object(values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.cluster.exact_plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="path of config.json; without it, a request on stdin")
    parser.add_argument("--safetensors-index", type=Path)
    parser.add_argument("--tp", dest="tensor_parallel_size", type=int, default=1)
    parser.add_argument("--pp", dest="pipeline_parallel_size", type=int, default=1)
    for name in ("dtype", "quantization", "kv-cache-dtype", "mamba-ssm-cache-dtype", "accelerator-name"):
        parser.add_argument(f"--{name}")
    for name in (
        "max-model-len",
        "max-num-seqs",
        "max-num-batched-tokens",
        "kv-cache-memory-bytes",
        "block-size",
        "accelerator-memory-bytes",
    ):
        parser.add_argument(f"--{name}", type=int)
    for name in ("enable-prefix-caching", "enable-expert-parallel", "async-scheduling"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--compute-capability", help="like 9.0")
    parser.add_argument("--memory-limit-bytes", type=int, default=DEFAULT_MEMORY_LIMIT_BYTES)
    parser.add_argument("--cpu-limit-s", type=int, default=DEFAULT_CPU_LIMIT_S)
    parser.add_argument("--wall-limit-s", type=int, default=DEFAULT_WALL_LIMIT_S)
    parser.add_argument("--nice", type=int, default=0)
    return parser


def _keep_standard_output() -> int:
    """A descriptor of the real standard output; libraries that print get standard error instead."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _limit_this_process(*, memory_bytes: int, cpu_s: int) -> None:
    """A hostile configuration may ask for anything: bound memory (data, not mapped files) and CPU time."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _print(descriptor: int, answer: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "w") as out:
        out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    sys.exit(main())
