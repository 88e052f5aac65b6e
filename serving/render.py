"""Desired deployments -> the one Serve document, and its digest. Pure.

Ray replaces everything with what it is sent, so the document is always whole. What makes new replicas (the
engine) goes into `args`; what Ray applies in place (capacity) into the `deployments` override, which is
always present because adding or dropping it would itself restart replicas.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from serving.adapter import lora_arguments
from serving.spec import CapacitySpec, DeploymentSpec, EngineSpec

GATEWAY_APP = "gateway"
MODEL_APP_PREFIX = "model-"
DRAIN_S = 120
"""Seconds a replica may finish its streams in before it is ended."""
UPSCALE_DELAY_S = 5.0
DOWNSCALE_DELAY_S = 120.0
GIB = 1 << 30
CPU_KV_REQUESTS = 8
"""On CPU, vLLM would take most of the machine's memory for the KV cache; we ask for this many
full-length requests instead, within the bounds below."""
CPU_KV_MINIMUM_BYTES = 64 << 20
CPU_KV_MAXIMUM_BYTES = 4 * GIB
FALLBACK_CONTEXT_TOKENS = 4096
"""Context of a model whose files are not known."""


@dataclass(frozen=True)
class GatewayTable:
    """What the gateway knows: callers' key digests, how long a sleeping model's caller is held, and the
    aliases by name ({targets: [{deployment, weight}], fallback: [deployment], created})."""

    keys: dict[str, dict[str, Any]]
    hold_s: float
    aliases: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterOptions:
    """Where Serve listens, where its nodes find `serving/` (empty: baked into the image), and whose it is:
    `installation` marks every application, so that another console's are told from ours."""

    gateway_host: str
    gateway_port: int
    pythonpath: str
    installation: str


def app_name(deployment: str) -> str:
    """Name of the Serve application of a deployment."""
    return MODEL_APP_PREFIX + deployment


def render(
    deployments: Iterable[DeploymentSpec], *, table: GatewayTable, options: ClusterOptions
) -> dict[str, Any]:
    """The whole Serve document for `PUT /api/serve/applications/`."""
    specs = sorted(deployments, key=lambda spec: spec.name)
    models = [_model_app(spec, options) for spec in specs if spec.state == "serve"]
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": options.gateway_host, "port": options.gateway_port},
        "applications": [_gateway_app(specs, table, options), *models],
    }


def digest_of(document: dict[str, Any]) -> str:
    """SHA-256 of the document in canonical JSON: equal documents, equal digests."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def redacted(document: dict[str, Any]) -> dict[str, Any]:
    """A copy fit for showing: secret environment values and the key table are replaced."""
    shown = copy.deepcopy(document)
    for app in shown.get("applications", []):
        env = app.get("runtime_env", {}).get("env_vars", {})
        for name in env:
            if name != "PYTHONPATH":
                env[name] = "(hidden)"
        for override in app.get("deployments", []):
            keys = override.get("user_config", {}).get("keys")
            if keys is not None:
                override["user_config"]["keys"] = f"({len(keys)} key digests, hidden)"
    return shown


def cpu_kv_cache_bytes(*, kv_bytes_per_token: int | None, max_model_len: int) -> int:
    """KV cache per rank in bytes that a CPU deployment gets when the operator names none."""
    if not kv_bytes_per_token:
        return CPU_KV_MINIMUM_BYTES * 4
    wanted = kv_bytes_per_token * max_model_len * CPU_KV_REQUESTS
    return max(CPU_KV_MINIMUM_BYTES, min(CPU_KV_MAXIMUM_BYTES, wanted))


def _runtime_env(options: ClusterOptions, secret_env: dict[str, str] | None = None) -> dict[str, Any]:
    env = dict(secret_env or {})
    if options.pythonpath:
        env["PYTHONPATH"] = options.pythonpath
    return {"env_vars": env} if env else {}


def _gateway_app(specs: list[DeploymentSpec], table: GatewayTable, options: ClusterOptions) -> dict[str, Any]:
    models = {
        spec.name: {
            "app": app_name(spec.name),
            "deployment": "engine",
            "revision": spec.revision,
            "state": spec.state,
            "reason": spec.reason,
            "hold_s": table.hold_s,
            "created": spec.created_at,
            **({"limits": spec.limits} if spec.limits else {}),
            **({"adapters": sorted(spec.engine.adapters)} if spec.engine.adapters else {}),
            "sleeps": spec.capacity.min_replicas == 0,
        }
        for spec in specs
    }
    return {
        "name": GATEWAY_APP,
        "route_prefix": "/",
        "import_path": "serving.cluster.gateway:build_gateway",
        "runtime_env": _runtime_env(options),
        "args": {"installation": options.installation},
        "deployments": [
            {
                "name": "Gateway",
                # Surge: a change of the gateway's own code must not leave callers without one.
                "max_surge_percent": 100,
                "user_config": {"models": models, "keys": table.keys, "aliases": table.aliases},
            }
        ],
    }


def _model_app(spec: DeploymentSpec, options: ClusterOptions) -> dict[str, Any]:
    return {
        "name": app_name(spec.name),
        "route_prefix": None,
        "import_path": "serving.cluster.apps:build_model",
        "runtime_env": _runtime_env(options, spec.secret_env),
        "args": _engine_args(spec, options),
        "deployments": [_capacity_override(spec.capacity, spec.engine)],
    }


def _engine_args(spec: DeploymentSpec, options: ClusterOptions) -> dict[str, Any]:
    engine = spec.engine
    kwargs = dict(engine.engine_kwargs)
    kwargs["max_num_seqs"] = engine.max_num_seqs
    kwargs |= lora_arguments(engine, deployment=spec.name, given=engine.engine_kwargs)
    if engine.kv_cache_memory_bytes is not None:
        kwargs["kv_cache_memory_bytes"] = engine.kv_cache_memory_bytes
    # Written only where it holds: one more argument would restart every replica there is.
    spans = {"tp_may_span_nodes": True} if engine.tp_may_span_nodes else {}
    return {
        "installation": options.installation,
        "deployment": spec.name,
        "deployment_id": spec.deployment_id,
        "revision": spec.revision,
        "model_source": engine.model_source,
        "hub_revision": engine.hub_revision,
        "accelerator_type": engine.accelerator_type,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        **spans,
        "dtype": engine.dtype,
        "max_model_len": engine.max_model_len,
        "engine_kwargs": kwargs,
        "env": {},
    }


def _capacity_override(capacity: CapacitySpec, engine: EngineSpec) -> dict[str, Any]:
    autoscaling: dict[str, Any] = {
        "min_replicas": capacity.min_replicas,
        "max_replicas": capacity.max_replicas,
        "initial_replicas": max(1, capacity.min_replicas),
        # Never leave the default (1e9): with it Serve never adds a replica.
        "target_ongoing_requests": capacity.target_ongoing_requests,
        "upscale_delay_s": UPSCALE_DELAY_S,
        "downscale_delay_s": DOWNSCALE_DELAY_S,
    }
    if capacity.min_replicas == 0 and capacity.idle_before_zero_s is not None:
        autoscaling["downscale_to_zero_delay_s"] = float(capacity.idle_before_zero_s)
    return {
        "name": "engine",
        "autoscaling_config": autoscaling,
        # vLLM queues and batches; Serve's own limit stands above so that the engine sees the queue.
        "max_ongoing_requests": max(engine.max_num_seqs * 2, 16),
        "max_queued_requests": 1000,
        "graceful_shutdown_timeout_s": DRAIN_S,
    }
