"""Bytes of a multimodal model's vision tower on one rank; vLLM builds it on every pipeline stage. Pure.

Sources: vllm/model_executor/models (siglip, pixtral, mistral3, gemma3_mm, qwen2_vl, qwen2_5_vl, qwen3_vl,
mllama4). Towers are split by tensor parallelism like the decoder; patch and position embeddings are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from serving.planner.architecture import Architecture
from serving.planner.architecture_fields import Fields, shown
from serving.planner.architecture_unmodelled import Unmodelled
from serving.planner.layers import Linear, Piece, Rank, Tensor
from serving.planner.quantization import UNQUANTIZED
from serving.planner.quantization_reading import Quantization
from serving.planner.request import BadPlanInput

PART = "vision_tower"
MOST_BLOCKS = 1000
QUANTIZED_TOWERS = ("fp8", "compressed-tensors", "modelopt", "modelopt_fp4")
"""Methods whose exclusion lists decide on the tower too; others quantise the decoder alone."""


@dataclass(frozen=True)
class _Vision:
    """What every tower has. `patch` is the area of a patch in pixels times its frames."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    channels: int
    patch: int
    side: int
    """Length of a patch's side, in pixels."""


def tower_bytes(architecture: Architecture, quantization: Quantization, rank: Rank) -> int:
    """Bytes per rank; 0 for a text model. Sizes that do not divide are noted on the rank."""
    build = TOWERS.get(architecture.tower)
    if build is None:
        return 0
    if quantization.method not in QUANTIZED_TOWERS:
        quantization = Quantization()
    element = architecture.bytes_per_element
    return sum(_part_bytes(part, quantization, element) for part in build(architecture, rank))


def _part_bytes(part: Piece | _Blocks, quantization: Quantization, element: int) -> int:
    if isinstance(part, _Blocks):
        return part.total_bytes(quantization, element)
    if isinstance(part, Tensor):
        return part.elements * (part.bytes_per_element or element)
    assert isinstance(part, Linear)
    scheme = quantization.scheme_of(part.name, part.shards) if part.quantizable else UNQUANTIZED
    return scheme.linear_bytes(part, element)


@dataclass(frozen=True)
class _Blocks:
    """Transformer blocks that are all alike but for the number in their name: the modules of one."""

    name: str
    count: int
    modules: tuple[Linear, ...]

    def total_bytes(self, quantization: Quantization, element: int) -> int:
        """Of all blocks; those that an exclusion list names by number are sized on their own."""
        named = quantization.named_layers(self.count)
        own = [index for index in range(self.count) if index in named]
        if len(own) < self.count:
            alike = min(set(range(self.count)) - set(own))
            return self._of(alike, quantization, element) * (self.count - len(own)) + sum(
                self._of(index, quantization, element) for index in own
            )
        return sum(self._of(index, quantization, element) for index in own)

    def _of(self, index: int, quantization: Quantization, element: int) -> int:
        if not quantization.targets:
            return sum(UNQUANTIZED.linear_bytes(module, element) for module in self.modules)
        modules = (replace(module, name=f"{self.name}.{index}.{module.name}") for module in self.modules)
        return sum(_part_bytes(module, quantization, element) for module in modules)


def check_tower(config: dict[str, Any], tower: str) -> None:
    """Raise BadPlanInput or Unmodelled for a vision section that the tower's form cannot be read from."""
    if tower:
        _fields(config)
        _read(config, tower)


def _fields(config: dict[str, Any]) -> Fields:
    section = config.get("vision_config")
    if section is None:
        section = {}  # the config class's defaults, as transformers fills them in
    if not isinstance(section, dict):
        raise BadPlanInput(f"vision_config must be an object, not {shown(section)}.", field="vision_config")
    return Fields({key: value for key, value in section.items() if not isinstance(value, dict)})


def _read(config: dict[str, Any], tower: str) -> _Vision:
    fields = _fields(config)
    names = {"qwen2_vl": ("embed_dim",)}.get(tower, ("hidden_size",))
    defaults = DEFAULTS[tower]
    side = fields.whole("patch_size", default=defaults["patch_size"], at_most=4096)
    hidden = fields.whole(*names, default=defaults["hidden_size"])
    return _Vision(
        hidden=hidden,
        intermediate=fields.whole("intermediate_size", default=defaults.get("intermediate_size", 4 * hidden)),
        blocks=fields.whole(
            "depth", "num_hidden_layers", default=defaults["num_hidden_layers"], at_most=MOST_BLOCKS
        ),
        heads=fields.whole(
            "num_heads", "num_attention_heads", default=defaults["num_attention_heads"], at_most=4096
        ),
        channels=fields.whole("in_channels", "in_chans", "num_channels", default=3, at_most=64),
        patch=side * side * fields.whole("temporal_patch_size", default=1, at_most=64),
        side=side,
    )


DEFAULTS: dict[str, dict[str, int]] = {
    "siglip": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
               "num_attention_heads": 12, "patch_size": 16},
    "pixtral": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                "num_attention_heads": 16, "patch_size": 16},
    "qwen2_vl": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14},
    "qwen2_5_vl": {"hidden_size": 3584, "intermediate_size": 3420, "num_hidden_layers": 32,
                   "num_attention_heads": 16, "patch_size": 14},
    "qwen3_vl": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
                 "num_attention_heads": 16, "patch_size": 16},
    "llama4": {"hidden_size": 768, "intermediate_size": 5632, "num_hidden_layers": 34,
               "num_attention_heads": 16, "patch_size": 14},
}  # fmt: skip
"""Defaults of the transformers vision config classes, which apply where a config leaves a field out."""


def _blocks(
    vision: _Vision,
    rank: Rank,
    *,
    name: str,
    attention: tuple[str, str],
    feed_forward: tuple[str, str],
    gated: bool,
    attention_bias: bool,
    feed_forward_bias: bool,
    norm_elements: int,
    quantizable: bool = True,
) -> list[Piece | _Blocks]:
    """The transformer blocks: fused attention and two feed-forward modules each, split by rank."""
    heads = rank.divide(vision.heads, name="vision_config", what="The number of the vision tower's heads")
    width = heads * (vision.hidden // vision.heads)
    inner = rank.divide(
        vision.intermediate, name="vision_config", what="The vision tower's intermediate size"
    )
    hidden, (query, output), (up, down) = vision.hidden, attention, feed_forward
    modules = (
        Linear(PART, query, hidden, (width,) * 3, hidden, bias=attention_bias,
               shards=("q_proj", "k_proj", "v_proj"), quantizable=quantizable),
        Linear(PART, output, width, (hidden,), hidden, bias=attention_bias, quantizable=quantizable),
        Linear(PART, up, hidden, (inner,) * (2 if gated else 1), hidden, bias=feed_forward_bias,
               shards=("gate_proj", "up_proj") if gated else (), quantizable=quantizable),
        Linear(PART, down, inner, (hidden,), vision.intermediate, bias=feed_forward_bias,
               quantizable=quantizable),
    )  # fmt: skip
    return [_Blocks(name, vision.blocks, modules), Tensor(PART, vision.blocks * norm_elements)]


def _siglip(architecture: Architecture, rank: Rank) -> list[Piece | _Blocks]:
    """Gemma 3: SigLIP and one projection."""
    vision, fields = _read(architecture.config, "siglip"), _fields(architecture.config)
    hidden = vision.hidden
    if fields.flag("vision_use_head", default=True):
        raise Unmodelled("A SigLIP tower with its pooling head is not covered by the closed form.")
    size = fields.whole("image_size", default=224, at_most=1 << 16)
    positions = (size // vision.side) ** 2
    return [
        Tensor(PART, hidden * vision.channels * vision.patch + hidden + positions * hidden),
        *_blocks(
            vision, rank, name="vision_tower.vision_model.encoder.layers",
            attention=("self_attn.qkv_proj", "self_attn.out_proj"), feed_forward=("mlp.fc1", "mlp.fc2"),
            gated=False, attention_bias=True, feed_forward_bias=True, norm_elements=4 * hidden,
        ),
        Tensor(PART, 2 * hidden),
        Tensor(PART, positions, bytes_per_element=8),
        Tensor(PART, hidden * architecture.hidden_size + hidden),
    ]  # fmt: skip


def _pixtral(architecture: Architecture, rank: Rank) -> list[Piece | _Blocks]:
    """Mistral 3: Pixtral, a patch merger and two projections."""
    vision, config = _read(architecture.config, "pixtral"), Fields(architecture.config)
    hidden, text = vision.hidden, architecture.hidden_size
    merge = config.whole("spatial_merge_size", default=2, at_most=64) ** 2
    share = rank.divide(text, name="hidden_size", what="The hidden size")
    bias = config.flag("multimodal_projector_bias")
    return [
        Tensor(PART, hidden * vision.channels * vision.patch + hidden),
        *_blocks(
            vision, rank, name="vision_tower.transformer.layers",
            attention=("attention.qkv_proj", "attention.o_proj"),
            feed_forward=("feed_forward.gate_up_proj", "feed_forward.down_proj"),
            gated=True, attention_bias=False, feed_forward_bias=False, norm_elements=2 * hidden,
        ),
        Tensor(PART, hidden + hidden * merge * hidden),
        Linear(PART, "multi_modal_projector.linear_1", hidden, (share,), hidden, bias=bias),
        Linear(PART, "multi_modal_projector.linear_2", share, (text,), text, bias=bias),
    ]  # fmt: skip


def _merger(
    name: str, hidden: int, out: int, rank: Rank, *, merge: int, norm_elements: int, modules: tuple[str, str]
) -> list[Piece]:
    """Qwen's patch merger: a norm and two projections with biases."""
    wide = hidden * merge
    share = rank.divide(wide, name="vision_config", what="The patch merger's width")
    return [
        Tensor(PART, norm_elements),
        Linear(PART, f"{name}.{modules[0]}", wide, (share,), wide, bias=True),
        Linear(PART, f"{name}.{modules[1]}", share, (out,), wide, bias=True),
    ]


def _rotary(vision: _Vision) -> Tensor:
    """8,192 positions of half a head."""
    return Tensor(PART, 8192 * (vision.hidden // vision.heads // 2))


def _qwen2(architecture: Architecture, rank: Rank) -> list[Piece | _Blocks]:
    vision, fields = _read(architecture.config, "qwen2_vl"), _fields(architecture.config)
    hidden = vision.hidden
    ratio = fields.fraction("mlp_ratio", default=4.0, at_most=64)
    vision = replace(vision, intermediate=int(hidden * ratio))
    patch = vision.side**2 * fields.whole("temporal_patch_size", default=2, at_most=64)
    merge = fields.whole("spatial_merge_size", default=2, at_most=64) ** 2
    out = fields.whole("hidden_size", default=architecture.hidden_size)
    return [
        Tensor(PART, hidden * vision.channels * patch),
        _rotary(vision),
        *_blocks(
            vision, rank, name="visual.blocks", attention=("attn.qkv", "attn.proj"),
            feed_forward=("mlp.fc1", "mlp.fc2"), gated=False, attention_bias=True, feed_forward_bias=True,
            norm_elements=4 * hidden,
        ),
        *_merger("visual.merger", hidden, out, rank, merge=merge, norm_elements=2 * hidden,
                 modules=("mlp.0", "mlp.2")),
    ]  # fmt: skip


def _qwen2_5(architecture: Architecture, rank: Rank) -> list[Piece | _Blocks]:
    vision, fields = _read(architecture.config, "qwen2_5_vl"), _fields(architecture.config)
    hidden = vision.hidden
    patch = vision.side**2 * fields.whole("temporal_patch_size", default=2, at_most=64)
    merge = fields.whole("spatial_merge_size", default=2, at_most=64) ** 2
    out = fields.whole("out_hidden_size", default=architecture.hidden_size)
    return [
        Tensor(PART, hidden * vision.channels * patch),
        _rotary(vision),
        *_blocks(
            vision, rank, name="visual.blocks", attention=("attn.qkv", "attn.proj"),
            feed_forward=("mlp.gate_up_proj", "mlp.down_proj"), gated=True, attention_bias=True,
            feed_forward_bias=True, norm_elements=2 * hidden,
        ),
        *_merger("visual.merger", hidden, out, rank, merge=merge, norm_elements=hidden,
                 modules=("mlp.0", "mlp.2")),
    ]  # fmt: skip


def _qwen3(architecture: Architecture, rank: Rank) -> list[Piece | _Blocks]:
    vision, fields = _read(architecture.config, "qwen3_vl"), _fields(architecture.config)
    hidden = vision.hidden
    patch = vision.side**2 * fields.whole("temporal_patch_size", default=2, at_most=64)
    merge = fields.whole("spatial_merge_size", default=2, at_most=64) ** 2
    out = fields.whole("out_hidden_size", default=architecture.hidden_size)
    positions = fields.whole("num_position_embeddings", default=2304)
    deep = len(fields.items("deepstack_visual_indexes", at_most=1000) or [])
    modules = ("linear_fc1", "linear_fc2")
    pieces: list[Piece | _Blocks] = [
        Tensor(PART, hidden * vision.channels * patch + hidden + positions * hidden),
        _rotary(vision),
        *_blocks(
            vision, rank, name="visual.blocks", attention=("attn.qkv", "attn.proj"),
            feed_forward=("mlp.linear_fc1", "mlp.linear_fc2"), gated=False, attention_bias=True,
            feed_forward_bias=True, norm_elements=4 * hidden,
        ),
        *_merger("visual.merger", hidden, out, rank, merge=merge, norm_elements=2 * hidden, modules=modules),
    ]  # fmt: skip
    for index in range(deep):
        pieces += _merger(
            f"visual.deepstack_merger_list.{index}", hidden, out, rank, merge=merge,
            norm_elements=2 * hidden * merge, modules=modules,
        )  # fmt: skip
    return pieces


def _llama4(architecture: Architecture, rank: Rank) -> list[Piece | _Blocks]:
    vision, fields = _read(architecture.config, "llama4"), _fields(architecture.config)
    hidden = vision.hidden
    size = fields.whole("image_size", default=448, at_most=1 << 16)
    patches = (size // vision.side) ** 2
    projected = fields.whole("projector_input_dim", default=4096)
    output = fields.whole("projector_output_dim", default=4096)
    share = rank.divide(projected, name="vision_config", what="The vision projector's width")
    bias = fields.flag("multi_modal_projector_bias")
    embedded = rank.divide(hidden, name="vision_config", what="The vision tower's hidden size")
    text = rank.divide(architecture.hidden_size, name="hidden_size", what="The hidden size")
    pixels = vision.channels * vision.patch
    seen = fields.whole("vision_output_dim", default=7680)
    return [
        Linear(PART, "vision_model.patch_embedding.linear", pixels, (embedded,), pixels, quantizable=False),
        Tensor(PART, hidden * (patches + 2) + 4 * hidden),
        # Complex rotary factors of every patch and the class token.
        Tensor(PART, (patches + 1) * (hidden // vision.heads // 2), bytes_per_element=8),
        *_blocks(
            vision, rank, name="vision_model.model.layers",
            attention=("self_attn.qkv_proj", "self_attn.o_proj"),
            feed_forward=("mlp.fc1", "mlp.fc2"), gated=False, attention_bias=True, feed_forward_bias=True,
            norm_elements=4 * hidden, quantizable=False,
        ),
        Linear(PART, "vision_model.vision_adapter.mlp.fc1", vision.intermediate, (share,),
               vision.intermediate, bias=bias, quantizable=False),
        Linear(PART, "vision_model.vision_adapter.mlp.fc2", share, (output,), projected, bias=bias,
               quantizable=False),
        Linear(PART, "multi_modal_projector.linear_1", seen, (text,), seen, quantizable=False),
    ]  # fmt: skip


TOWERS: dict[str, Callable[[Architecture, Rank], list[Piece | _Blocks]]] = {
    "siglip": _siglip,
    "pixtral": _pixtral,
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
    "llama4": _llama4,
}
