"""What a checkpoint's tensors and size say against its config.json. Pure.

GPTQ and AWQ checkpoints leave it to their tensors which modules are quantised (vLLM reads the safetensors
headers for it); ModelOpt's may hold their quantisation in a file of its own, hf_quant_config.json. Where the
two contradict each other, neither is believed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from serving.planner.architecture import Architecture
from serving.planner.architecture_fields import Fields
from serving.planner.checkpoint_layers import draft_layers, gaps, layers_against
from serving.planner.layers import Rank
from serving.planner.quantization_reading import Quantization, section_of
from serving.planner.request import PlanRequest, TensorGroup
from serving.planner.weights import plan_weights, total_parameters
from serving.planner.weights_tower import tower_bytes

PACKED = ("qweight", "weight_packed")
SCALES = ("weight_scale", "weight_scale_inv", "qzeros")
NARROW = ("U8", "I8", "I32", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4")
SMALLEST_SHARE, LARGEST_SHARE = 0.7, 1.3
"""Below or above these shares of what the config describes, a checkpoint is another model's, or not whole.
Some indexes count a tied head twice; that is allowed for apart."""
LEAST_OF_A_QUANTISED = 0.1
"""Of the 16-bit size: what a checkpoint that is quantised without saying so has at least."""
FORCED = {"gptq": "modules_in_block_to_quantize", "awq": "modules_to_not_convert"}
"""Where this names modules, vLLM does not look into the headers."""


@dataclass(frozen=True)
class Doubt:
    """Why the config cannot be all there is to say. `size_is_true`: the checkpoint's bytes still say how
    large the weights are."""

    reason: str
    size_is_true: bool = False


def with_tensors(
    quantization: Quantization, tensors: tuple[TensorGroup, ...] | None, fields: Fields
) -> Quantization:
    """GPTQ and AWQ: only modules whose tensors are packed are quantised, as vLLM decides it; none packed is
    an unquantised model, unless the config names modules itself."""
    name = {"auto_gptq": "gptq", "auto_awq": "awq"}.get(quantization.method or "", quantization.method or "")
    kind = next((each for each in FORCED if name.startswith(each)), None)
    if kind is None or not tensors or not quantization.targets:
        return quantization
    quantized = frozenset(_modules(tensors))
    if quantized:
        return replace(
            quantization, modules=quantized, head=any(name.endswith("lm_head") for name in quantized)
        )
    what = kind.upper()
    if (section_of(fields) or {}).get(FORCED[kind]):
        return replace(
            quantization,
            targets=(),
            refusal=f"config.json names modules that are quantised with {what}, but no tensor is packed "
            "(qweight): vLLM does not find the weights that it would load.",
        )
    return replace(
        quantization,
        targets=(),
        note=f"config.json names {what}, but no tensor of the checkpoint is packed (qweight): vLLM loads it "
        "unquantised.",
    )


def _modules(tensors: Iterable[TensorGroup]) -> Iterable[str]:
    """Names within a layer of the packed modules (`self_attn.q_proj`, `mlp.experts.*.gate_proj`)."""
    for group in tensors:
        name, _, last = group.pattern.rpartition(".")
        if last in PACKED or (last == "weight" and group.dtype in NARROW):
            yield name.partition("layers.*.")[2] or name


def doubt(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> Doubt | None:
    """What is against planning from the config alone; None where nothing is."""
    if request.checkpoint_doubt:
        return Doubt(request.checkpoint_doubt)
    if not architecture.is_known:
        return _embedding_doubt(request, architecture)
    tensors = request.tensors or ()
    against = layers_against(tensors, architecture) if tensors else ""
    if against:
        return Doubt(against)
    is_quantized = bool(section_of(Fields(request.config))) and bool(quantization.targets)
    if not is_quantized and (found := _unsaid(tensors)):
        return found
    if quantization.method is None and (gap := gaps(tensors, architecture)):
        return Doubt(gap)
    size = known_bytes(request)
    if size is None or not quantization.is_known:
        return None
    return _size_doubt(size, request, architecture, quantization if is_quantized else Quantization())


def known_bytes(request: PlanRequest) -> int | None:
    """Bytes of the checkpoint; None where nobody gave them (an index knows names alone)."""
    return request.checkpoint_bytes or sum(group.total_bytes for group in request.tensors or ()) or None


def unchecked(request: PlanRequest) -> str:
    """The sentence for an index that states no size; empty where there is nothing to say."""
    if not request.tensors or known_bytes(request) is not None:
        return ""
    return "The index gives no total_size, so the checkpoint's size was not checked."


def _size_doubt(
    size: int, request: PlanRequest, architecture: Architecture, quantization: Quantization
) -> Doubt | None:
    """Whether the bytes are those of the model that the config describes, in the format that it names."""
    plain = 2 * total_parameters(architecture) + tower_bytes(architecture, Quantization(), Rank(1))
    expected = plain
    if quantization.targets:
        expected = _quantized_bytes(request, architecture, quantization) or plain
    twice = 2 * architecture.vocab_size * architecture.hidden_size
    layers = len(architecture.layers)
    most = (expected * (layers + draft_layers(architecture)) // layers + twice) * LARGEST_SHARE
    if not quantization.targets and _is_float32(request):
        most *= 2
    if expected * SMALLEST_SHARE <= size <= most:
        return None
    form = quantization.scheme.name if quantization.targets else "16 bit"
    words = f"The checkpoint has {size:,} bytes, its config describes {expected:,} in {form}: "
    if size > most:
        return Doubt(words + "it is not the model that config.json describes.")
    if quantization.targets or size < expected * LEAST_OF_A_QUANTISED:
        return Doubt(words + "it is not whole, or not this model.")
    return Doubt(words + "it is quantised without saying so, or not whole.", size_is_true=True)


def _quantized_bytes(request: PlanRequest, architecture: Architecture, quantization: Quantization) -> int:
    card = request.accelerator
    weights = plan_weights(
        architecture,
        quantization,
        tensor_parallel=1,
        pipeline_parallel=1,
        compute_capability=card.compute_capability if card else None,
    )
    if weights.problems:
        return 0
    return sum(size for part, size in weights.stages[0].parts.items() if part != "rotary_tables")


def _is_float32(request: PlanRequest) -> bool:
    """Whether the checkpoint may be stored in 32 bit, by its tensors where their types are known."""
    types = {group.dtype for group in request.tensors or ()} - {""}
    if types:
        return "F32" in types
    return Fields(request.config).words("dtype", "torch_dtype").endswith("float32")


def _embedding_doubt(request: PlanRequest, architecture: Architecture) -> Doubt | None:
    """Whatever the structure: the embedding alone takes half a byte per element."""
    size, least = known_bytes(request), architecture.vocab_size * architecture.hidden_size // 2
    if size is None or size >= least:
        return None
    return Doubt(
        f"The checkpoint has {size:,} bytes, less than its embedding alone needs ({least:,}), so nothing "
        "follows from its size."
    )


def _unsaid(tensors: Iterable[TensorGroup]) -> Doubt | None:
    """A quantised checkpoint whose config does not say so."""
    for group in tensors:
        last = group.pattern.rpartition(".")[2]
        is_narrow = group.dtype in NARROW and group.pattern.endswith(("weight", "weight_packed"))
        if is_narrow or last in PACKED or last in SCALES:
            stored = f"stored as {group.dtype}" if group.dtype else "that of a quantised module"
            return Doubt(
                f"The checkpoint's {group.pattern} is {stored}, but config.json names no quantisation "
                "(it may be in hf_quant_config.json), so the weights cannot be computed.",
                size_is_true=True,
            )
    return None
