"""The engine's and Ray's known messages, with what they mean and what to do. A table; no logic.

A rule without `cause` shows the line itself. Earlier rules win on the same line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A known message. `cause` may use the pattern's groups ({0}, {1} …); empty keeps the line itself.

    A weak rule names a symptom; it counts only where no strong one matches.
    """

    code: str
    pattern: re.Pattern[str]
    advice: str
    cause: str = ""
    weak: bool = False


def _rule(code: str, pattern: str, advice: str, *, cause: str = "", weak: bool = False) -> Rule:
    return Rule(code, re.compile(pattern), advice, cause, weak)


FETCH_AGAIN = "Fetch the model's files again and compare their checksums; then retry."
OTHER_MODEL = "Choose another model, or another version of this one."
SMALLER = (
    "Shorten the context length, raise the tensor-parallel size, or use an accelerator with more memory."
)

RULES: tuple[Rule, ...] = (
    # --- the model's address ---
    _rule(
        "bad_path",
        r"Repo id must be in the form .*?: '(/[^']*)'",
        "Check the path on every node of the cluster, or mount it there; then edit the model and retry.",
        cause="The folder {0} does not exist on the node that was to load it.",
    ),
    _rule(
        "bad_path",
        r"Invalid repository ID or local directory specified: '([^']*)'",
        "Give a folder that exists on every node and holds config.json, or a hub id.",
        cause="{0} is neither a folder with a config.json on the node nor a hub id.",
    ),
    _rule(
        "hub_gated",
        r"GatedRepoError|[Aa]ccess to model (\S+) is restricted|You are trying to access a gated repo",
        "Accept the model's terms on the hub and store a token that may read it with the model.",
    ),
    _rule(
        "hub_unauthorized",
        r"40[13] Client Error|Invalid credentials in Authorization header|Invalid user token",
        "Store a valid hub token with the model.",
    ),
    _rule(
        "hub_not_found",
        r"RepositoryNotFoundError|RevisionNotFoundError|is not a valid model identifier listed on|404"
        r" Client Error",
        "Check the hub id and its revision; a private repository also needs a token.",
    ),
    _rule(
        "hub_unreachable",
        r"outgoing traffic has been disabled|OfflineModeIsEnabled|couldn't connect to '?https?://"
        r"|LocalEntryNotFoundError|NameResolutionError|Max retries exceeded with url",
        "Let the nodes reach the hub, or copy the model into a folder on every node and register that.",
        cause="The model is not on the node and the hub cannot be reached from there.",
    ),
    _rule(
        "object_store_refused",
        r"NoCredentialsError|Unable to locate credentials|An error occurred"
        r" \((?:AccessDenied|403|NoSuchBucket)\)",
        "Give the cluster's nodes credentials for the bucket, and check its name.",
    ),
    # --- its files ---
    _rule(
        "corrupt_weights",
        r"SafetensorError: (.*)|Error while deserializing header: (.*)",
        FETCH_AGAIN,
        cause="A weight file is damaged: {0}",
    ),
    _rule("corrupt_weights", r"PytorchStreamReader failed|invalid load key|UnpicklingError", FETCH_AGAIN),
    _rule(
        "missing_weights",
        r"Cannot find any model weights with `?([^`\s]+)",
        "Put the model's *.safetensors files there; then retry.",
        cause="There are no weights in {0}.",
    ),
    _rule(
        "missing_weights",
        r"[Ff]ollowing weights were not initialized from\s+checkpoint: (.{0,200})",
        FETCH_AGAIN,
        cause="Weights are missing from the files: {0}",
    ),
    _rule(
        "wrong_weights",
        r"exceeds dimension size|Attempted to load weight|size mismatch for|There is no module or"
        r" parameter named",
        "The weights do not belong to this config.json: fetch both from the same revision.",
    ),
    _rule(
        "tokenizer_missing",
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for|Unable to load"
        r" vocabulary from file",
        "Put the model's tokenizer files (tokenizer.json, tokenizer_config.json) beside its weights.",
        cause="The model's tokenizer is missing or unreadable.",
    ),
    _rule(
        "bad_config",
        r"Unrecognized model in |It looks like the config file at '[^']*' is not a valid JSON file",
        "Check the model's config.json.",
    ),
    # --- what the engine supports ---
    _rule(
        "unsupported_architecture",
        r"Model architectures? (\[[^\]]*\]|\S+) (?:are|is|was) (?:not )?supported",
        OTHER_MODEL,
        cause="This vLLM does not support the model's architecture: {0}.",
    ),
    _rule(
        "unsupported_architecture",
        r"has model type `([^`]*)` but Transformers does not recognize",
        OTHER_MODEL,
        cause="The engine does not know the model type “{0}”.",
    ),
    _rule(
        "unsupported_quantization",
        r"Unknown quantization method: ([^.]*)\.|quantization method (\S+) is not supported",
        "Choose a version of the model in a supported quantization, or one that is not quantized.",
        cause="The engine cannot load the quantization method “{0}” here.",
    ),
    _rule(
        "unsupported_dtype",
        r"[Bb]float16 is only supported on GPUs with compute capability"
        r"|torch\.\S+ is not supported for quantization method",
        "Choose another dtype: float16, or auto.",
    ),
    _rule(
        "unsupported_dtype",
        r"Input should be 'auto', .*input_value='([^']+)'",
        "Choose auto, bfloat16, float16 or float32.",
        cause="The engine does not know the dtype “{0}”.",
    ),
    _rule(
        "unknown_argument",
        r"Unknown engine argument: (\S+)|got an unexpected keyword argument '([^']+)'",
        "Remove or correct that engine argument.",
        cause="The engine has no argument called “{0}”.",
    ),
    _rule(
        "context_too_long",
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len"
        r" \((?:\w+=)?(\d+)",
        "Set the context length to that or less.",
        cause="The context length {0} is more than the model's {1} tokens.",
    ),
    _rule(
        "topology_invalid",
        r"Total number of (?:attention|hidden) heads? ?\((\d+)\) must be divisible by tensor parallel"
        r" size \((\d+)\)",
        "Choose a tensor-parallel size that divides the number of heads.",
        cause="{0} attention heads cannot be split over a tensor-parallel size of {1}.",
    ),
    _rule(
        "topology_invalid",
        r"\d+ is not divisible by \d+",
        "Choose other tensor- and pipeline-parallel sizes.",
    ),
    _rule(
        "topology_invalid",
        r"Not enough allowed NUMA nodes to bind threads",
        "Lower the tensor-parallel size, or give each rank its cores (VLLM_CPU_OMP_THREADS_BIND).",
    ),
    # --- memory ---
    _rule(
        "kv_cache_too_small",
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed, which is larger than the available"
        r" KV cache"
        r" memory \(([\d.]+) GiB\)(?:.*?estimated maximum model length is (\d+))?",
        "Shorten the context length, or give the KV cache more memory.",
        cause="One request of {0} tokens needs {1} GiB of KV cache and {2} GiB are there{estimate}.",
    ),
    _rule(
        "no_kv_memory",
        r"No available memory for the cache blocks",
        "Raise gpu_memory_utilization or the tensor-parallel size, or use an accelerator with more memory.",
        cause="The weights leave no memory for the KV cache.",
    ),
    _rule(
        "out_of_accelerator_memory",
        r"(?:CUDA|HIP|XPU) out of memory|torch\.(?:cuda\.)?OutOfMemoryError",
        SMALLER,
    ),
    _rule(
        "out_of_accelerator_memory",
        r"Free memory on device (\S+) \(([\d.]+)/([\d.]+) GiB\).*?less than desired",
        "Find what else uses the accelerator, or lower gpu_memory_utilization.",
        cause="Only {1} of {2} GiB are free on {0}: something else uses the accelerator.",
    ),
    _rule(
        "out_of_memory",
        r"killed due to the node running low on memory|exceeds the memory usage threshold",
        "Stop something else on the node, use fewer replicas, or a node with more memory.",
        cause="The node ran low on memory and Ray ended the engine.",
    ),
    _rule(
        "out_of_memory",
        r"DefaultCPUAllocator: (?:not enough|can't allocate) memory|MemoryError\b|Cannot allocate"
        r" memory|OOM-killed",
        "Use fewer replicas, a smaller KV cache, or a node with more memory.",
    ),
    # --- the cluster ---
    _rule(
        "cannot_be_placed",
        r"Resources required for each replica: (.*?), total resources available: (\{.*?\})",
        "Add nodes with these resources, free some, or choose another accelerator or topology.",
        cause="No node has what a replica needs: {0}; free: {1}.",
    ),
    _rule(
        "cannot_be_placed",
        r"cannot fit into any bundles|is infeasible\b|placement group .{0,80}(?:infeasible|timed out)",
        "Choose an accelerator and topology that the cluster has.",
    ),
    _rule(
        "no_accelerator",
        r"Failed to infer device type|No CUDA GPUs are available|CUDA driver version is insufficient"
        r"|no kernel image is available",
        "Check the accelerator's driver on that node, or serve on CPU.",
    ),
    _rule(
        "interconnect_failed",
        r"NCCL error|ncclSystemError|ncclUnhandledCudaError|ncclRemoteError",
        "Check the links between the accelerators and nodes, and NCCL's interface settings.",
    ),
    _rule(
        "timed_out",
        r"Timed out waiting for (?:new )?engine core processes|did not become ready in time"
        r"|TimeoutError: .*engine",
        "Look at the engine's log for what takes so long; large models may need a longer start deadline.",
    ),
    # --- symptoms ---
    _rule(
        "engine_died",
        r"exit code -?9\b|SIGKILL|died unexpectedly|EngineDeadError|worker died|ActorDiedError|owner"
        r" has died",
        "Often the kernel's out-of-memory killer: look at the node's memory and its kernel log.",
        weak=True,
    ),
)
