"""What one engine is started with, in the words of Ray Serve LLM and vLLM. Pure: plain values only.

Whatever several ranks need beyond sizes (executor, placement) follows from the topology here, so that the
document says nothing of it.
"""

from typing import Any

from serving.cluster.ranks import group_of

NO_DOMAIN = "none.invalid"
"""A name that can never be an address (RFC 6761); pictures come inside the request, as data: URLs."""


def llm_config(args: dict[str, Any]) -> dict[str, Any]:
    """The fields of Ray's LLMConfig, from the document's `args`.

    The executor is not named: Ray sets `ray` for accelerators and `mp` for CPU from the bundles.
    """
    source = str(args["model_source"])
    group = group_of(args)
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": args["deployment"], "model_source": source},
        "engine_kwargs": engine_arguments(args),
        # Serve has placed the replica with these very bundles; Ray reads from them which hardware it is.
        "placement_group_config": {"bundles": group.bundles, "strategy": group.strategy},
        "log_engine_metrics": True,
    }
    if group.accelerator_type is not None:
        config["accelerator_type"] = group.accelerator_type
    if "://" not in source:
        # A folder, or a hub id that vLLM fetches itself: the download task would import vLLM once more.
        config["callback_config"] = {"callback_class": "serving.cluster.callbacks.SkipNodeInit"}
    return config


def engine_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """vLLM's arguments from the document's: the operator's own, then what the revision fixes."""
    tensor, pipeline = int(args["tensor_parallel_size"]), int(args["pipeline_parallel_size"])
    arguments = {
        **(args.get("engine_kwargs") or {}),
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "dtype": args.get("dtype") or "auto",
        "max_model_len": int(args["max_model_len"]),
        "worker_extension_cls": "serving.cluster.worker_facts.WorkerFacts",
        "enable_prompt_tokens_details": True,
    }
    # Else whoever holds a key could have the engine's node fetch any address; an empty list means all.
    arguments.setdefault("allowed_media_domains", [NO_DOMAIN])
    if args.get("hub_revision"):
        arguments["revision"] = args["hub_revision"]
    if args.get("accelerator_type") is None and pipeline == 1:
        # Compiling costs 13 s and gains nothing on CPU here; with stages it is needed (topology.py).
        arguments.setdefault("enforce_eager", True)
    return arguments
