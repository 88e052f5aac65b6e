"""`python manage.py plan`: what a model needs on an accelerator, from its files alone; needs no database."""

from __future__ import annotations

import json
import math
import os
import sys
from argparse import ArgumentParser
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from serving import accelerators
from serving.planner.inputs import KV_CACHE_DTYPES, as_deployed, check_request, read_checkpoint
from serving.planner.plan import make_plan
from serving.planner.report import flat
from serving.planner.request import GIB, Accelerator, BadPlanInput, PlanRequest
from serving.planner.result import Plan
from serving.spec import DTYPES

BAD_INPUT = 2
DOES_NOT_FIT = 3
CPU = "CPU"
MOST_GIB = 1 << 20
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
SHIPPED_ONLY = (
    "This command reads only the catalogue that is shipped; accelerators added in the console are known to "
    "its pages and to POST /api/v1/plan. --usable-gib gives a shipped one another memory."
)

WHOLE_NUMBERS: dict[str, tuple[str, str]] = {
    "--tp": ("tensor_parallel_size", "accelerators that split every layer"),
    "--pp": ("pipeline_parallel_size", "stages that share the layers"),
    "--max-model-len": ("max_model_len", "context length in tokens; the model's own when left out"),
    "--max-num-seqs": ("max_num_seqs", "requests worked on at once; vLLM's default when left out"),
    "--max-num-batched-tokens": ("max_num_batched_tokens", "tokens per step; vLLM's default when left out"),
    "--kv-cache-memory-bytes": ("kv_cache_memory_bytes", "plan for this KV cache per rank instead"),
    "--block-size": ("block_size", "tokens per KV block; vLLM's default when left out"),
    "--concurrency": ("concurrency", "requests in flight that TPOT is predicted at"),
    "--prompt-tokens": ("prompt_tokens", "prompt length the times are predicted for"),
    "--output-tokens": ("output_tokens", "reply length the times are predicted for"),
}


class Command(BaseCommand):
    """Prints one plan. Exit code 0: fits or tight; 3: it does not, or cannot be said; 2: bad input."""

    help = __doc__ or ""
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The model's files, the accelerator, the topology and the engine's limits."""
        parser.add_argument("--config", required=True, type=Path, help="the model's config.json")
        parser.add_argument("--safetensors-index", type=Path, help="model.safetensors.index.json")
        parser.add_argument(
            "--accelerator",
            required=True,
            help="Ray's name in the shipped catalogue, such as H100; CPU for none",
        )
        parser.add_argument(
            "--usable-gib",
            type=float,
            help="memory of one accelerator, or of the node on CPU; else the catalogue's, or this machine's",
        )
        defaults = PlanRequest(config={})
        for flag, (name, meaning) in WHOLE_NUMBERS.items():
            parser.add_argument(flag, dest=name, type=int, default=getattr(defaults, name), help=meaning)
        parser.add_argument("--dtype", default="auto", choices=DTYPES)
        parser.add_argument("--quantization", help="as vLLM's option; read from the config when left out")
        parser.add_argument("--kv-cache-dtype", default="auto", choices=KV_CACHE_DTYPES)
        parser.add_argument("--gpu-memory-utilization", type=float, default=defaults.gpu_memory_utilization)
        parser.add_argument("--enforce-eager", action="store_true", help="without CUDA graphs")
        parser.add_argument("--enable-expert-parallel", action="store_true")
        parser.add_argument("--no-enable-prefix-caching", action="store_true")
        parser.add_argument(
            "--regime", default=defaults.regime, choices=("v1", "v2"), help="rule of the activation peak"
        )
        parser.add_argument("--usd-per-hour", help="price of one accelerator; the list price when left out")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Plan, print, and end with 0, 2 or 3."""
        try:
            request = _request(options)
            check_request(request)
            plan = make_plan(as_deployed(request))
        except BadPlanInput as error:
            self._print(Plan("refused", (f"{error.field}: {error.message}",)), as_json=options["json"])
            sys.exit(BAD_INPUT)
        self._print(plan, as_json=options["json"])
        if plan.verdict not in ("fits", "tight"):
            sys.exit(DOES_NOT_FIT)

    def _print(self, plan: Plan, *, as_json: bool) -> None:
        try:
            if as_json:
                self.stdout.write(json.dumps(flat(plan), ensure_ascii=False, allow_nan=False))
            else:
                self.stdout.write(plan.verdict.replace("_", " "))
                for line in (*plan.reasons, *filter(None, [plan.lever]), *plan.arithmetic):
                    self.stdout.write(f"  {line}")
            self.stdout.flush()
        except BrokenPipeError:
            # The reader has seen enough (`| head`). Python would complain once more while it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _request(options: dict[str, Any]) -> PlanRequest:
    checkpoint = read_checkpoint(options["config"], options["safetensors_index"])
    usable = _usable_bytes(options["usable_gib"])
    accelerator = _accelerator(options["accelerator"])
    if accelerator is not None and usable is not None:
        # What was measured free at start was another card's.
        accelerator = replace(accelerator, usable_bytes=usable, free_at_start_bytes={})
    return PlanRequest(
        config=checkpoint.config,
        tensors=checkpoint.tensors,
        checkpoint_bytes=checkpoint.checkpoint_bytes,
        checkpoint_doubt=checkpoint.doubt,
        accelerator=accelerator,
        node_memory_bytes=(usable or _machine_bytes()) if accelerator is None else None,
        dtype=options["dtype"],
        quantization=options["quantization"],
        kv_cache_dtype=options["kv_cache_dtype"],
        gpu_memory_utilization=options["gpu_memory_utilization"],
        enforce_eager=options["enforce_eager"],
        enable_expert_parallel=options["enable_expert_parallel"],
        enable_prefix_caching=not options["no_enable_prefix_caching"],
        regime=options["regime"],
        usd_per_accelerator_hour=_price(options["usd_per_hour"]),
        **{name: options[name] for name, _ in WHOLE_NUMBERS.values()},
    )


def _accelerator(name: str) -> Accelerator | None:
    if name.upper() == CPU:
        return None
    found = accelerators.accelerator(name)
    if found is None:
        raise BadPlanInput(f"{accelerators.unknown_message(name)} {SHIPPED_ONLY}", field="accelerator")
    return found


def _usable_bytes(gib: float | None) -> int | None:
    if gib is None:
        return None
    if not (math.isfinite(gib) and 0 < gib <= MOST_GIB):
        raise BadPlanInput(f"It must be above 0 and at most {MOST_GIB:,}.", field="usable_gib")
    return int(gib * GIB)


def _machine_bytes() -> int:
    """Memory of this machine, or of the container that it is."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(physical, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):
        return physical


def _price(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise BadPlanInput("The price must be a number of dollars.", field="usd_per_hour") from None
