"""Which rotary tables vLLM keeps for a model and how large they are. Pure.

Source: vllm/model_executor/layers/rotary_embedding (get_rope and the classes it chooses), transformers'
standardize_rope_params for where older configs keep the parameters.
"""

from __future__ import annotations

from typing import Any

from serving.planner.architecture import Rope
from serving.planner.architecture_fields import Fields, number, shown, whole_number
from serving.planner.request import BadPlanInput

LARGEST_CONTEXT = 1 << 31
STRETCHED_FROM_ORIGINAL = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")
UNSTRETCHED = ("default", "llama3", "proportional", "ntk", "dynamic", "mllama4", "xdrope", "openpangu")
LEGACY_KINDS = {"su": "longrope", "mrope": "default"}


def rope_parameters(fields: Fields, layer_kind: str | None = None) -> dict[str, Any]:
    """The rope parameters of a layer kind, wherever the config keeps them, with the kind under rope_type."""
    given = fields.part("rope_parameters") or fields.part("rope_scaling") or {}
    if layer_kind is not None and isinstance(given.get(layer_kind), dict):
        given = given[layer_kind]
    found = {key: value for key, value in list(given.items())[:64] if isinstance(key, str)}
    kind = found.get("rope_type", found.get("type", "default"))
    if not isinstance(kind, str) or len(kind) > 40:
        raise BadPlanInput(
            f"rope_scaling's type must be a short text, not {shown(kind)}.", field="rope_scaling"
        )
    found["rope_type"] = LEGACY_KINDS.get(kind, kind)
    for name in ("rope_theta", "rotary_emb_base"):
        if "rope_theta" not in found and fields.raw(name) is not None:
            found["rope_theta"] = fields.raw(name)
    for name in ("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction"):
        if "partial_rotary_factor" not in found and fields.raw(name) is not None:
            found["partial_rotary_factor"] = fields.raw(name)
    return found


def rotary_table(
    fields: Fields,
    *,
    head_dim: int,
    max_positions: int,
    bytes_per_element: int,
    parameters: dict[str, Any],
    key: str = "",
) -> Rope | None:
    """The table of one rope, or None where its kind is not known (the caller then knows too little)."""
    share = number(
        parameters.get("partial_rotary_factor", 1.0), name="partial_rotary_factor", above=0.0, at_most=1.0
    )
    width = int(head_dim * share)
    if parameters.get("rope_dim") is not None:
        width = whole_number(parameters["rope_dim"], name="rope_dim", at_most=1 << 16)
    if parameters["rope_type"] == "proportional":
        width = head_dim
    positions = _positions(fields, max_positions, parameters)
    if positions is None:
        return None
    theta = parameters.get("rope_theta")
    return Rope(
        f"{key}|{parameters['rope_type']}|{theta if isinstance(theta, (int, float)) else ''}",
        positions=positions,
        width=width,
        bytes_per_element=bytes_per_element,
    )


def _positions(fields: Fields, max_positions: int, parameters: dict[str, Any]) -> int | None:
    kind = parameters["rope_type"]
    has_sections = "mrope_section" in parameters
    if kind in UNSTRETCHED:
        # Multimodal ropes leave four times the room, for long videos.
        return max_positions * 4 if has_sections and kind == "default" else max_positions
    factor = number(parameters.get("factor", 1.0), name="rope_scaling", above=0.0, at_most=1e4)
    if kind == "linear":
        return _bounded(max_positions * factor)
    original = parameters.get("original_max_position_embeddings")
    if original is None:
        original = fields.raw("original_max_position_embeddings") or max_positions
    original = whole_number(original, name="original_max_position_embeddings", at_most=LARGEST_CONTEXT)
    if kind in STRETCHED_FROM_ORIGINAL:
        return _bounded(original * factor) * (4 if has_sections else 1)
    if kind == "longrope":
        return original + max_positions
    return None


def _bounded(positions: float) -> int:
    if positions > LARGEST_CONTEXT * 4:
        raise BadPlanInput("rope_scaling stretches the context beyond any sense.", field="rope_scaling")
    return int(positions)
