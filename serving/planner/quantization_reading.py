"""Reads a config's quantisation section: which format, which modules stay in 16 bit, what the engine thinks
of the method. Pure.

Sources: vllm/model_executor/layers/quantization (from_config of each method) and config/model.py's
_verify_quantization. What the planner cannot size is said to be unknown, never taken for 16 bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from serving.engine_support import engine_support
from serving.planner.architecture_fields import Fields, shown, whole_number
from serving.planner.quantization import UNQUANTIZED, Scheme, awq, fp8, gptq, mx, nvfp4, packed
from serving.planner.quantization_exclusions import Exclusions, MatchMode, read_exclusions
from serving.planner.request import BadPlanInput

DEPRECATED = ("fbgemm_fp8", "fp_quant")
MINIMUM_CAPABILITY = {
    "fp8": 75, "awq": 75, "gptq": 60, "compressed-tensors": 70, "mxfp4": 80, "modelopt": 80,
    "modelopt_fp4": 75, "fbgemm_fp8": 80, "fp_quant": 100, "experts_int8": 80, "online": 75, "moe_wna16": 70,
}  # fmt: skip
"""Lowest compute capability (major × 10 + minor) of each method: get_min_capability in vLLM 0.29."""

ONLINE = ("fp8", "fp8_per_tensor", "fp8_per_channel", "fp8_per_block", "int8_per_channel_weight_only")
ALIASES = {
    "auto_awq": "awq",
    "awq_marlin": "awq",
    "auto_gptq": "gptq",
    "gptq_marlin": "gptq",
    "gpt_oss_mxfp4": "mxfp4",
}
FIELD = "quantization_config"


@dataclass(frozen=True)
class Target:
    """A format and the modules it applies to: every one, or those that `only` matches."""

    scheme: Scheme
    only: Exclusions | None = None


@dataclass(frozen=True)
class Quantization:
    """The quantisation of one model. `is_known` False: the planner cannot size it (`unknown_because`).

    `linears` False: only experts are quantised (MXFP4). `refusal` is why the engine would not start.
    """

    method: str | None = None
    targets: tuple[Target, ...] = ()
    exclusions: Exclusions = Exclusions()
    modules: frozenset[str] = frozenset()
    """Names within a layer of the modules that the checkpoint stores packed; empty: not known, so all."""
    linears: bool = True
    experts: bool = True
    head: bool = False
    kv_cache_dtype: str | None = None
    is_known: bool = True
    unknown_because: str = ""
    refusal: str = ""
    note: str = ""
    """What a reader should know although nothing is wrong."""
    minimum_capability: int = 0

    def scheme_of(self, path: str, shards: tuple[str, ...], *, experts: bool = False) -> Scheme:
        """The format of one module, named without its root (`layers.0.mlp.down_proj`)."""
        if not (self.experts if experts else self.linears) or not self.targets:
            return UNQUANTIZED
        if self.exclusions.is_excluded(path, shards) or not self._is_stored_packed(path, shards):
            return UNQUANTIZED
        for target in self.targets:
            if target.only is None or target.only.is_excluded(path, shards):
                return target.scheme
        return UNQUANTIZED

    def _is_stored_packed(self, path: str, shards: tuple[str, ...]) -> bool:
        if not self.modules:
            return True
        name = path.split(".", 2)[-1] if path.startswith("layers.") else path
        parent = name.rpartition(".")[0]
        names = {name, *(f"{parent}.{shard}" if parent else shard for shard in shards)}
        if names & self.modules or any(stored.endswith(name) for stored in self.modules):
            return True
        return any(stored.startswith(name + ".") for stored in self.modules)

    @property
    def scheme(self) -> Scheme:
        """The main format, for words and for the latency's bytes per weight."""
        return self.targets[0].scheme if self.targets else UNQUANTIZED

    def named_layers(self, layers: int) -> frozenset[int]:
        """Layers that a list names by number, so that each must be sized on its own."""
        lists = [self.exclusions, *(target.only for target in self.targets if target.only)]
        if any(one.depends_on_layer for one in lists):
            return frozenset(range(layers))
        return frozenset().union(*(one.numbered_layers for one in lists))


def read_quantization(fields: Fields, asked: str | None) -> Quantization:
    """The quantisation of the checkpoint, or the one asked for while loading. Raises BadPlanInput."""
    section = section_of(fields)
    if not section:
        return _online(asked) if asked else Quantization()
    method = _method(section)
    if asked and _plain(asked) != _plain(method):
        return Quantization(
            method,
            refusal=f"The checkpoint is quantised with {method}; quantization={asked} does not agree.",
        )
    known = engine_support()
    if method not in known["quantization_methods"] and _plain(method) not in known["quantization_methods"]:
        return Quantization(
            method, refusal=f"vLLM {known['vllm_version']} does not know the quantization method “{method}”."
        )
    reader = READERS.get(_plain(method))
    if reader is None:
        return Quantization(
            method,
            is_known=False,
            unknown_because=f"The planner cannot size the quantization method “{method}”.",
        )
    read = reader(section, method)
    if method == "fbgemm_fp8" and section.get("modules_to_not_convert") is None:
        return replace(read, exclusions=_fbgemm_as_released(fields.whole("num_hidden_layers", at_most=2000)))
    return read


def section_of(fields: Fields) -> dict[str, Any] | None:
    """What the config says of the checkpoint's quantisation, under either of its names."""
    return fields.part(FIELD) or fields.part("compression_config")


def _method(section: dict[str, Any]) -> str:
    method = section.get("quant_method")
    if method is None and (section.get("quant_algo") or section.get("quantization")):
        method = "modelopt"
    if not isinstance(method, str) or not 0 < len(method) <= 60:
        raise BadPlanInput(f"{FIELD} does not name its method (quant_method).", field=FIELD)
    return method.lower()


def _plain(method: str) -> str:
    return ALIASES.get(method.lower(), method.lower())


def _online(asked: str) -> Quantization:
    method = _plain(asked)
    known = engine_support()["quantization_methods"]
    if method not in known and asked not in known:
        return Quantization(asked, refusal=f"vLLM does not know the quantization method “{asked[:60]}”.")
    if method not in ONLINE:
        return Quantization(
            asked, refusal=f"quantization={asked} needs a checkpoint that is quantised so; this one is not."
        )
    schemes = {
        "fp8_per_channel": fp8("channel"),
        "fp8_per_block": fp8("block"),
        "int8_per_channel_weight_only": fp8("channel"),
    }
    return Quantization(
        method, (Target(schemes.get(method, fp8("tensor"))),), minimum_capability=MINIMUM_CAPABILITY["online"]
    )


def _fp8(section: dict[str, Any], method: str) -> Quantization:
    name = "ignored_layers" if section.get("ignored_layers") else "modules_to_not_convert"
    block = section.get("weight_block_size")
    static = section.get("activation_scheme") == "static"
    scheme = fp8("tensor", static_inputs=static)
    if block is not None:
        if not isinstance(block, (list, tuple)) or len(block) != 2:
            raise BadPlanInput("weight_block_size must be a pair of numbers.", field="weight_block_size")
        sizes = [whole_number(size, name="weight_block_size", at_most=1 << 16) for size in block]
        scheme = fp8("block", block=(sizes[0], sizes[1]))
    if section.get("store_dtype") is not None or section.get("quant_algo") is not None:
        return Quantization(
            method, is_known=False, unknown_because="The planner cannot size FP8 mixed with other formats."
        )
    return Quantization(
        method,
        (Target(scheme),),
        read_exclusions(section.get(name), mode="exact", name=name),
        minimum_capability=MINIMUM_CAPABILITY["fp8"],
    )


def _fbgemm(section: dict[str, Any], method: str) -> Quantization:
    name = "modules_to_not_convert"
    return Quantization(
        method,
        (Target(fp8("channel")),),
        read_exclusions(section.get(name), mode="exact", name=name),
        experts=False,
        refusal=f"The quantization method {method} is deprecated; it needs --allow-deprecated-quantization.",
        minimum_capability=MINIMUM_CAPABILITY["fbgemm_fp8"],
    )


def _fbgemm_as_released(layers: int) -> Exclusions:
    """The only such release is Meta's: attention and the outermost feed-forwards stay in 16 bit."""
    outermost = [
        f"model.layers.{index}.mlp.{name}"
        for index in (0, layers - 1)
        for name in ("gate_up_proj", "down_proj")
    ]
    return Exclusions(("re:.*self_attn.*", *outermost), "regex")


def _bits(section: dict[str, Any], *names: str) -> int:
    value = next((section[name] for name in names if section.get(name) is not None), None)
    return whole_number(value if value is not None else 4, name=names[0], at_most=8)


def _group_size(value: Any) -> int:
    if value is None:
        return 128
    return (
        -1
        if value == -1 and not isinstance(value, bool)
        else whole_number(value, name="group_size", at_most=1 << 16)
    )


def _awq(section: dict[str, Any], method: str) -> Quantization:
    bits = _bits(section, "bits", "w_bit")
    if bits != 4:
        return Quantization(method, refusal=f"vLLM serves AWQ in 4 bits only; this checkpoint has {bits}.")
    scheme = awq(
        bits=bits,
        group_size=_group_size(section.get("group_size", section.get("q_group_size"))),
    )
    return Quantization(
        method,
        (Target(scheme),),
        read_exclusions(
            section.get("modules_to_not_convert"), mode="substring", name="modules_to_not_convert"
        ),
        head=section.get("lm_head") is True,
        minimum_capability=MINIMUM_CAPABILITY["awq"],
    )


def _gptq(section: dict[str, Any], method: str) -> Quantization:
    bits = _bits(section, "bits")
    if bits not in (4, 8) or section.get("sym") is False:
        kind = "asymmetric" if section.get("sym") is False else "symmetric"
        return Quantization(
            method,
            refusal=f"vLLM serves symmetric GPTQ in 4 or 8 bits; this checkpoint is {kind} in {bits}.",
        )
    rules = section.get("dynamic") or {}
    if not isinstance(rules, dict):
        raise BadPlanInput("dynamic must be an object of rules per module.", field="dynamic")
    if not all(isinstance(rule, str) and rule.startswith("-:") for rule in rules):
        return Quantization(
            method,
            is_known=False,
            unknown_because="The planner cannot size GPTQ with formats of their own per module (dynamic).",
        )
    scheme = gptq(
        bits=bits,
        group_size=_group_size(section.get("group_size")),
        reorders=section.get("desc_act") is True,
    )
    return Quantization(
        method,
        (Target(scheme),),
        # Rules that begin with a minus leave modules in 16 bit.
        read_exclusions([f"re:{rule[2:]}" for rule in rules], mode="regex", name="dynamic"),
        head=section.get("lm_head") is True,
        minimum_capability=MINIMUM_CAPABILITY["gptq"],
    )


def _mxfp4(section: dict[str, Any], method: str) -> Quantization:
    return Quantization(
        method, (Target(mx(4)),), linears=False, minimum_capability=MINIMUM_CAPABILITY["mxfp4"]
    )


def _experts_int8(section: dict[str, Any], method: str) -> Quantization:
    return Quantization(
        method,
        (Target(fp8("channel")),),
        linears=False,
        minimum_capability=MINIMUM_CAPABILITY["experts_int8"],
    )


def _compressed(section: dict[str, Any], method: str) -> Quantization:
    groups = section.get("config_groups")
    if groups is not None and not isinstance(groups, dict):
        raise BadPlanInput("config_groups must be an object.", field="config_groups")
    if groups and len(groups) > 64:
        raise BadPlanInput(
            f"config_groups has {len(groups):,} groups; at most 64 make sense.", field="config_groups"
        )
    sparsity = section.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("targets"):
        return Quantization(
            method, refusal="vLLM dropped sparse compressed-tensors checkpoints (sparsity_config)."
        )
    whole_format = section.get("format")
    targets = [_group(group, whole_format) for group in (groups or {}).values()]
    if not groups:
        # FP8-dynamic checkpoints whose section was shortened: per output channel is their only layout.
        targets = [Target(fp8("channel"))] if whole_format == "float-quantized" else [None]
    if any(target is None for target in targets):
        return Quantization(
            method,
            is_known=False,
            unknown_because="The planner cannot size a format of this compressed-tensors checkpoint.",
        )
    return Quantization(
        method,
        tuple(sorted((target for target in targets if target), key=lambda target: target.only is None)),
        read_exclusions(section.get("ignore"), mode="regex", name="ignore"),
        # vLLM's head is no "Linear": it is quantised only where a target names it.
        head=any(target.only.is_excluded("lm_head") for target in targets if target and target.only),
        kv_cache_dtype="fp8" if isinstance(section.get("kv_cache_scheme"), dict) else None,
        minimum_capability=MINIMUM_CAPABILITY["compressed-tensors"],
    )


def _group(group: Any, whole_format: Any) -> Target | None:
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise BadPlanInput("config_groups holds a group without weights.", field="config_groups")
    scheme = _compressed_scheme(group, group.get("format") or whole_format)
    if scheme is None:
        return None
    targets = group.get("targets")
    if targets is None or targets == ["Linear"]:
        return Target(scheme)
    return Target(scheme, read_exclusions(targets, mode="regex", name="targets"))


def _compressed_scheme(group: dict[str, Any], layout: Any) -> Scheme | None:
    weights, inputs = group["weights"], group.get("input_activations")
    bits, kind, strategy = weights.get("num_bits"), weights.get("type"), weights.get("strategy")
    static = isinstance(inputs, dict) and inputs.get("dynamic") is False
    size = _group_size(weights.get("group_size")) if weights.get("group_size") is not None else -1
    if kind == "float" and bits == 4:
        if size == 32:
            return mx(4)
        return nvfp4(group_size=size, static_inputs=inputs is not None) if size > 0 else None
    if kind == "float" and bits == 8:
        if strategy == "block":
            block = weights.get("block_structure") or [128, 128]
            if not isinstance(block, (list, tuple)) or len(block) != 2:
                raise BadPlanInput("block_structure must be a pair of numbers.", field="block_structure")
            rows, columns = (whole_number(side, name="block_structure", at_most=1 << 16) for side in block)
            # Only the method fp8 divides experts into finer blocks.
            return replace(fp8("block", block=(rows, columns)), refines_blocks=False)
        if strategy in ("tensor", "channel", None):
            return fp8(strategy or "channel", static_inputs=static)
        return mx(8) if strategy == "group" and size == 32 else None
    if kind == "int" and layout == "pack-quantized" and bits in (2, 3, 4, 8) and inputs is None:
        return packed(
            bits=bits,
            group_size=size,
            symmetric=weights.get("symmetric") is not False,
            reorders=weights.get("actorder") in ("group", True),
        )
    if kind == "int" and bits == 8 and strategy in ("tensor", "channel"):
        return fp8(strategy, static_inputs=static)
    return None


def _modelopt(section: dict[str, Any], method: str) -> Quantization:
    inner = section.get("quantization")
    inner = inner if isinstance(inner, dict) else section
    algorithm = str(inner.get("quant_algo", ""))[:60].upper()
    ignored = "exclude_modules" if inner is not section or "exclude_modules" in section else "ignore"
    groups = section.get("config_groups")
    weights_only = (
        isinstance(groups, dict)
        and bool(groups)
        and all(
            isinstance(group, dict) and group.get("input_activations") is None
            for group in list(groups.values())[:64]
        )
    )
    schemes: dict[str, Callable[[], Scheme]] = {
        "FP8": lambda: fp8("tensor", static_inputs=True),
        "FP8_PER_CHANNEL_PER_TOKEN": lambda: fp8("channel"),
        "FP8_PB_WO": lambda: fp8("block"),
        "NVFP4": lambda: nvfp4(group_size=_nv_group(inner), static_inputs=not weights_only),
        "W4A16_NVFP4": lambda: nvfp4(group_size=_nv_group(inner), static_inputs=False),
        "MXFP8": lambda: mx(8),
    }
    if algorithm not in schemes:
        return Quantization(
            method, is_known=False, unknown_because=f"The planner cannot size ModelOpt's {shown(algorithm)}."
        )
    return Quantization(
        method,
        (Target(schemes[algorithm]()),),
        _modelopt_exclusions(inner.get(ignored), ignored),
        head=True,
        kv_cache_dtype=_modelopt_cache(inner, section),
        minimum_capability=MINIMUM_CAPABILITY["modelopt_fp4" if "FP4" in algorithm else "modelopt"],
    )


def _nv_group(inner: dict[str, Any]) -> int:
    value = inner.get("group_size")
    return 16 if value is None else whole_number(value, name="group_size", at_most=1 << 16)


def _modelopt_exclusions(value: Any, name: str) -> Exclusions:
    """`module*` without a dot means the module and all below it, as vLLM rewrites it."""
    mode: MatchMode = "wildcard"
    checked = read_exclusions(value, mode=mode, name=name)
    widened: list[str] = []
    for pattern in checked.patterns:
        if len(pattern) >= 2 and pattern[-1] == "*" and pattern[-2] != ".":
            widened += [pattern[:-1], pattern[:-1] + ".*"]
        else:
            widened.append(pattern)
    return Exclusions(tuple(widened), mode)


def _modelopt_cache(inner: dict[str, Any], section: dict[str, Any]) -> str | None:
    scheme = next(
        (
            part[name]
            for name in ("kv_cache_scheme", "kv_cache_quant_algo")
            for part in (inner, section)
            if part.get(name)
        ),
        None,
    )
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8 and scheme.get("type") == "float":
        return "fp8"
    return "fp8" if isinstance(scheme, str) and scheme.upper() in ("FP8", "FP8_E4M3") else None


READERS: dict[str, Callable[[dict[str, Any], str], Quantization]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "awq": _awq,
    "gptq": _gptq,
    "mxfp4": _mxfp4,
    "experts_int8": _experts_int8,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mxfp8": _modelopt,
}
