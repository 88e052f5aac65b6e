"""config.json -> Architecture: picks the family and reads what is common to all of them. Pure.

Field names and precedence follow vLLM 0.29 (transformers_utils/model_arch_config_convertor.py) and the
transformers config classes, whose defaults apply where a field is missing. Bad input is a BadPlanInput that
names the field; an architecture that no closed form covers is said to be unknown.
"""

from __future__ import annotations

from typing import Any

from serving.engine_support import generating_architectures
from serving.planner.architecture import BYTES_PER_ELEMENT, Architecture, Attention, Layer, Traits
from serving.planner.architecture_families import FAMILIES, Family, Unmodelled
from serving.planner.architecture_fields import Fields, number, shown, whole_number
from serving.planner.architecture_sizes import Sizes, read_sizes
from serving.planner.request import BadPlanInput
from serving.planner.weights_tower import check_tower

CONTEXT = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
LARGEST_CONTEXT = 1 << 31
ASSUMED_CONTEXT_TOKENS = 2048
WITHOUT_ATTENTION = ("mamba", "falcon_mamba", "mamba2")
STORED_DTYPES = frozenset({
    "auto", "bfloat16", "float16", "half", "float32", "float", "float64", "double", "float8_e4m3fn",
    "float8_e5m2", "int8", "uint8",
})  # fmt: skip
"""Torch's names that a checkpoint may give its type by."""
UNSCALED_ROPE = ("su", "longrope", "llama3", "default", "mrope", "proportional")


def read_architecture(config: dict[str, Any], *, dtype: str = "auto") -> Architecture:
    """The model a config.json describes. `dtype` as asked of the engine; "auto" follows the checkpoint.

    Raises BadPlanInput for senseless values. An unmodelled architecture comes back with `is_known` False.
    """
    fields = Fields(config)
    name = _name(config)
    loaded = _dtype(fields, dtype)
    family = FAMILIES.get(name or "")
    sizes = _sizes(fields, family, BYTES_PER_ELEMENT[loaded])
    longest = _max_context_tokens(fields)
    layers, traits, unknown_because = _layers(fields, sizes, family, name)
    return Architecture(
        name=name,
        model_type=_text(config.get("model_type")),
        family=family.name if family and not unknown_because else "",
        is_known=not unknown_because,
        layers=layers,
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        attention_heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        intermediate_size=sizes.intermediate,
        dtype=loaded,
        tie_word_embeddings=_is_tied(fields, family is not None and family.ties_by_default),
        max_context_tokens=longest,
        default_context_tokens=_default_context_tokens(fields, longest),
        mixture=next((layer.mixture for layer in layers if layer.mixture), None),
        latent=next(
            (layer.attention.latent for layer in layers if layer.attention and layer.attention.latent), None
        ),
        is_multimodal=fields.is_nested,
        tower=family.tower if family and not unknown_because else "",
        traits=traits,
        unknown_because=unknown_because,
        text=fields.text,
        config=config,
    )


def _sizes(fields: Fields, family: Family | None, bytes_per_element: int) -> Sizes:
    if family is not None:
        fields.check_common()
    return read_sizes(
        fields,
        bytes_per_element=bytes_per_element,
        has_attention=family is not None and family.name not in WITHOUT_ATTENTION,
        per_layer=family is None,
    )


def _layers(
    fields: Fields, sizes: Sizes, family: Family | None, name: str | None
) -> tuple[tuple[Layer, ...], Traits, str]:
    """(layers, traits, why they are not known): plain ones where no closed form covers the model."""
    layers, traits, unknown_because = _plain_layers(sizes), Traits(), ""
    if family is None:
        unknown_because = _why_unknown(name)
    else:
        try:
            layers, traits = family.build(fields, sizes)
            check_tower(fields.config, family.tower)
        except Unmodelled as reason:
            layers, unknown_because = _plain_layers(sizes), str(reason)
    return tuple(_interned(layers)), traits, unknown_because


def _interned(layers: list[Layer]) -> list[Layer]:
    """Equal layers as one object, so that everything that follows sizes each kind once."""
    known: dict[Layer, Layer] = {}
    return [known.setdefault(layer, layer) for layer in layers]


def _name(config: dict[str, Any]) -> str | None:
    value = config.get("architectures")
    if value is None:
        raise BadPlanInput("architectures is missing, so vLLM cannot pick a class.", field="architectures")
    names = value if isinstance(value, list) else []
    texts = [item for item in names[:8] if isinstance(item, str) and 0 < len(item) <= 120]
    if not texts:
        raise BadPlanInput(
            f"architectures must be a list of names, not {shown(value)}.", field="architectures"
        )
    known = generating_architectures()
    return next((item for item in texts if item in known), texts[0])


def _why_unknown(name: str | None) -> str:
    if name in generating_architectures():
        return f"The planner has no closed form for {name}; only its checkpoint's bytes say how large it is."
    return f"vLLM has no class of its own for {name}, so its memory cannot be computed."


def _text(value: Any) -> str | None:
    return value[:120] if isinstance(value, str) and value else None


def _dtype(fields: Fields, asked: str) -> str:
    """The type of unquantised weights: float32 checkpoints load in 16 bit unless float32 is asked for."""
    _check_stored_dtype(fields)
    if asked != "auto":
        wanted = {"half": "float16", "float": "float32"}.get(asked, asked)
        if wanted not in BYTES_PER_ELEMENT:
            raise BadPlanInput(
                f"dtype must be auto, float16, bfloat16 or float32, not {shown(asked)}.", field="dtype"
            )
        return wanted
    given = fields.words("dtype", "torch_dtype").removeprefix("torch.")
    return given if given in ("float16", "bfloat16") else "bfloat16"


def _check_stored_dtype(fields: Fields) -> None:
    for name in ("torch_dtype", "dtype"):
        stored = fields.words(name).removeprefix("torch.")
        if stored and stored not in STORED_DTYPES:
            raise BadPlanInput(f"{name} is {shown(stored)}, which is no type of weights.", field=name)


def _is_tied(fields: Fields, by_default: bool) -> bool:
    """Multimodal configs say it on either level; a true on the text level counts."""
    return fields.flag("tie_word_embeddings", default=by_default)


def _max_context_tokens(fields: Fields) -> int:
    """vLLM's rule: the smallest of the known fields, stretched by the RoPE scaling where that applies."""
    found = [fields.optional(name, at_most=LARGEST_CONTEXT) for name in CONTEXT]
    tokens = min((size for size in found if size is not None), default=ASSUMED_CONTEXT_TOKENS)
    rope = fields.raw("rope_parameters", "rope_scaling")
    if rope is None:
        return tokens
    if not isinstance(rope, dict):
        raise BadPlanInput(f"rope_scaling must be an object, not {shown(rope)}.", field="rope_scaling")
    kinds = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    stretch, original = 1.0, tokens
    for part in kinds[:8]:
        kind = part.get("rope_type") or part.get("type") or "default"
        if not isinstance(kind, str) or kind in UNSCALED_ROPE:
            continue
        factor = number(part.get("factor", 1.0), name="rope_scaling", above=0.0, at_most=1e4)
        if kind == "yarn" and part.get("original_max_position_embeddings") is not None:
            original = whole_number(
                part["original_max_position_embeddings"], name="rope_scaling", at_most=LARGEST_CONTEXT
            )
        stretch = max(stretch, factor)
    if fields.words("model_type").startswith("gemma3"):
        return tokens
    return min(int(original * stretch), LARGEST_CONTEXT)


def _default_context_tokens(fields: Fields, longest: int) -> int:
    """LongRoPE models start with their original context, which short requests are better in."""
    rope = fields.raw("rope_parameters", "rope_scaling")
    parts = [rope, *rope.values()] if isinstance(rope, dict) else []
    kinds = [part.get("rope_type") or part.get("type") for part in parts[:9] if isinstance(part, dict)]
    if not {"longrope", "su"} & {kind for kind in kinds if isinstance(kind, str)}:
        return longest
    return fields.optional("original_max_position_embeddings", at_most=LARGEST_CONTEXT) or longest


def _plain_layers(sizes: Sizes) -> list[Layer]:
    """What any decoder has, for an unknown architecture: attention over all tokens in every layer."""
    attention = Attention("full_attention", sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.head_dim)
    return [Layer(attention=attention, dense_intermediate=sizes.intermediate)] * sizes.layers
