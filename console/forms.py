"""The deployment form: what was typed, as text people type it, and where an error belongs.

The rules are those of serving/spec.py and of the actions; here only text becomes numbers. Field names are the
specification's own, so that an action's refusal finds its field.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from django import forms

from console.accelerators import catalogue_entries
from console.limit_forms import LIMIT_FIELDS, LimitFields, limit_values
from console.models import Deployment, RegisteredModel
from serving.errors import RaydeckError
from serving.spec import DTYPES, NAME_HELP

ENGINE_FIELDS = (
    "dtype",
    "max_model_len",
    "accelerator_type",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "tp_may_span_nodes",
    "max_num_seqs",
    "kv_cache_memory_bytes",
    "engine_kwargs",
    "load_adapters",
)
CAPACITY_FIELDS = (
    "min_replicas",
    "max_replicas",
    "target_ongoing_requests",
    "idle_before_zero_s",
    "price_per_accelerator_hour_usd",
    "api_input_usd_per_million_tokens",
    "api_output_usd_per_million_tokens",
)
PRICES = CAPACITY_FIELDS[-3:]
UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
SIZE = re.compile(r"^\s*(\d+(?:[.,]\d+)?)\s*([a-zA-Z]*)\s*$")


def parse_size(text: str) -> int | None:
    """Bytes from text such as 512 MiB or 4 GiB, a plain number being bytes; None when empty.

    Raises ValueError in words for people.
    """
    if not text.strip():
        return None
    match = SIZE.match(text)
    unit = match.group(2).lower() if match else "?"
    if match is None or unit not in UNITS:
        raise ValueError("Write a size with its unit, such as 512 MiB or 4 GiB.")
    return int(Decimal(match.group(1).replace(",", ".")) * UNITS[unit])


def size_text(size_bytes: int | None) -> str:
    """The shortest text that parse_size reads back as exactly these bytes."""
    if size_bytes is None:
        return ""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes % UNITS[unit.lower()] == 0:
            return f"{size_bytes // UNITS[unit.lower()]} {unit}"
    return str(size_bytes)


class SizeField(forms.CharField):
    """Bytes, typed with a unit."""

    def clean(self, value: Any) -> Any:
        """Bytes as int, or None."""
        try:
            return parse_size(super().clean(value))
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class JsonObjectField(forms.CharField):
    """A JSON object; empty is an empty one."""

    def clean(self, value: Any) -> Any:
        """The map; line and column of a mistake are named."""
        text = super().clean(value).strip()
        if not text:
            return {}
        try:
            parsed = json.loads(text)
        except json.JSONDecodeError as error:
            raise forms.ValidationError(
                f"Line {error.lineno}, column {error.colno}: {error.msg}. Write a JSON object."
            ) from None
        except RecursionError:
            raise forms.ValidationError("That is nested too deeply.") from None
        except ValueError:
            raise forms.ValidationError("A number in it is too long.") from None
        if not isinstance(parsed, dict):
            raise forms.ValidationError('Write a JSON object, such as {"enable_prefix_caching": true}.')
        return parsed


def _whole(label: str, help_text: str, *, minimum: int, maximum: int, **options: Any) -> forms.IntegerField:
    widget = forms.NumberInput(attrs={"class": "inp tn", "inputmode": "numeric"})
    return forms.IntegerField(
        label=label, help_text=help_text, min_value=minimum, max_value=maximum, widget=widget, **options
    )


def _api_price(label: str, help_text: str) -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        help_text=help_text,
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(100_000),
        max_digits=12,
        decimal_places=6,
        widget=forms.NumberInput(attrs={"class": "inp tn", "step": "any"}),
    )


class DeploymentForm(LimitFields):
    """Model, engine, capacity and limits of a deployment."""

    model = forms.ChoiceField(label="Model", widget=forms.Select(attrs={"class": "sel"}))
    name = forms.CharField(
        label="Deployment name",
        max_length=40,
        help_text=f"Callers name it as “model”. {NAME_HELP[0].upper()}{NAME_HELP[1:]}.",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off", "spellcheck": "false"}),
    )
    accelerator_type = forms.ChoiceField(
        label="Runs on",
        required=False,
        help_text="Every replica gets this kind. Kinds the cluster has stand first.",
        widget=forms.Select(attrs={"class": "sel"}),
    )
    tensor_parallel_size = _whole(
        "Tensor parallel",
        "Splits every layer; the group stays on one node.",
        minimum=1,
        maximum=64,
        initial=1,
    )
    pipeline_parallel_size = _whole(
        "Pipeline parallel", "Splits the layers in stages; they may be on several nodes.",
        minimum=1, maximum=64, initial=1,
    )  # fmt: skip
    tp_may_span_nodes = forms.BooleanField(
        label="A tensor-parallel group may span nodes",
        required=False,
        help_text="Only where one node is too small. Every layer then waits twice for the network between"
        " nodes; pipeline stages over nodes are nearly always faster.",
    )
    dtype = forms.ChoiceField(
        label="Number format",
        choices=[(dtype, "as in the checkpoint" if dtype == "auto" else dtype) for dtype in DTYPES],
        help_text="Of weights and activations.",
        widget=forms.Select(attrs={"class": "sel"}),
    )
    max_model_len = _whole(
        "Context length", "Tokens of prompt and reply together. Empty: the model's own.",
        minimum=16, maximum=16_777_216, required=False,
    )  # fmt: skip
    max_num_seqs = _whole(
        "Concurrent sequences", "Requests one replica works on at once; more wait.",
        minimum=1, maximum=4096, initial=32,
    )  # fmt: skip
    kv_cache_memory_bytes = SizeField(
        label="KV cache per rank",
        required=False,
        max_length=40,
        help_text="Such as 4 GiB. Empty: sized by the context on CPU, measured by the engine on GPUs.",
        widget=forms.TextInput(attrs={"class": "inp tn", "autocomplete": "off"}),
    )
    engine_kwargs = JsonObjectField(
        label="Further engine arguments",
        required=False,
        max_length=20_000,
        strip=True,
        help_text="vLLM's own names, as a JSON object. What has a field above cannot be set here.",
        widget=forms.Textarea(attrs={"class": "inp mono", "rows": 3, "spellcheck": "false"}),
    )
    load_adapters = forms.BooleanField(
        label="Load the model's LoRA adapters",
        required=False,
        help_text="All it has now; callers name deployment:adapter.",
    )
    min_replicas = _whole("Fewest replicas", "0 lets it fall asleep.", minimum=0, maximum=1000, initial=1)
    max_replicas = _whole("Most replicas", "The bound on cost.", minimum=1, maximum=1000, initial=1)
    target_ongoing_requests = forms.FloatField(
        label="Add a replica above",
        min_value=0.1,
        max_value=100_000,
        initial=8,
        help_text="Requests in flight per replica.",
        widget=forms.NumberInput(attrs={"class": "inp tn", "step": "any"}),
    )
    idle_before_zero_s = _whole(
        "Asleep after", "Seconds without a request; only with 0 fewest replicas. 900 is 15 min.",
        minimum=10, maximum=604_800, required=False,
    )  # fmt: skip
    price_per_accelerator_hour_usd = forms.DecimalField(
        label="Price",
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(100_000),
        max_digits=12,
        decimal_places=6,
        help_text="US dollars per accelerator (or CPU rank) and hour. Empty: the catalogue's price.",
        widget=forms.NumberInput(attrs={"class": "inp tn", "step": "any"}),
    )
    api_input_usd_per_million_tokens = _api_price(
        "API price, input", "Of an API you could buy instead; only to compare with. Empty: no comparison."
    )
    api_output_usd_per_million_tokens = _api_price("API price, output", "US dollars per 1M output tokens.")
    load_concurrency = _whole(
        "Requests in flight", "What the plan predicts times and prices for; it changes nothing that runs.",
        minimum=1, maximum=100_000, initial=8, required=False,
    )  # fmt: skip
    load_prompt_tokens = _whole(
        "Prompt", "Tokens of a typical request.", minimum=1, maximum=16_777_216, initial=1024, required=False,
    )  # fmt: skip
    load_output_tokens = _whole(
        "Reply", "Tokens of a typical answer.", minimum=1, maximum=16_777_216, initial=256, required=False,
    )  # fmt: skip
    note = forms.CharField(
        label="Note",
        required=False,
        max_length=300,
        help_text="Kept with the revision, for whoever reads its history.",
        widget=forms.TextInput(attrs={"class": "inp"}),
    )

    def __init__(self, *args: Any, present_types: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = list(RegisteredModel.objects.values_list("name", flat=True))
        self.fields["model"].choices = [("", "Choose a model"), *((name, name) for name in names)]  # type: ignore[attr-defined]
        self.fields["accelerator_type"].choices = _accelerator_choices(present_types)  # type: ignore[attr-defined]
        for name, field in self.fields.items():
            if field.help_text:
                field.widget.attrs["aria-describedby"] = f"id_{name}_helptext"

    def engine(self) -> dict[str, Any]:
        """The engine's part for the actions."""
        return {name: self.cleaned_data[name] for name in ENGINE_FIELDS}

    def capacity(self) -> dict[str, Any]:
        """The capacity's part for the actions; a price left empty is theirs to find."""
        values = {name: self.cleaned_data[name] for name in CAPACITY_FIELDS}
        if values["price_per_accelerator_hour_usd"] is None:
            del values["price_per_accelerator_hour_usd"]
        return values

    def refuse(self, error: RaydeckError) -> None:
        """Put an action's refusal beside the field it is about, or above the form."""
        field = (error.field or "").split(".", 1)[0]
        self.add_error(field if field in self.fields else None, error.message)


class EditDeploymentForm(DeploymentForm):
    """The same for an existing deployment; `expected_version` settles races between two people."""

    name = None  # type: ignore[assignment]  # a deployment's name never changes
    expected_version = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["price_per_accelerator_hour_usd"].help_text = (
            "US dollars per accelerator (or CPU rank) and hour, from now on; history stays. Empty, or left as"
            " it is while the accelerator changes: the catalogue's price."
        )

    def capacity(self) -> dict[str, Any]:
        """The capacity's part for the actions; None is a price left empty, which is the catalogue's then."""
        return {name: self.cleaned_data[name] for name in CAPACITY_FIELDS}


def without_stale_price(
    given: dict[str, Any], deployment: Deployment, accelerator_type: str | None
) -> dict[str, Any]:
    """The capacity that a form gave, without a price that is only the old accelerator's, left there."""
    engine = deployment.current_revision.engine if deployment.current_revision else {}
    price = given.get("price_per_accelerator_hour_usd")
    is_same = price == deployment.price_per_accelerator_hour_usd
    if is_same and (accelerator_type or None) != engine.get("accelerator_type"):
        return {name: value for name, value in given.items() if name != "price_per_accelerator_hour_usd"}
    return given


def initial_of(deployment: Deployment) -> dict[str, Any]:
    """A form's initial values from a deployment as it is."""
    engine = deployment.current_revision.engine if deployment.current_revision else {}
    values = form_values({**engine, **{name: getattr(deployment, name) for name in CAPACITY_FIELDS}})
    given = limit_values(deployment.limits)
    limits = {name: given[name] for name in LIMIT_FIELDS}
    return {**values, **limits, "model": deployment.model.name, "expected_version": deployment.version}


def form_values(spec: dict[str, Any]) -> dict[str, Any]:
    """Values of a specification as the form shows them."""
    values = {name: spec.get(name) for name in (*ENGINE_FIELDS, *CAPACITY_FIELDS)}
    values["load_adapters"] = bool(spec.get("adapters") or spec.get("load_adapters"))
    values["accelerator_type"] = values["accelerator_type"] or ""
    automatic = spec.get("kv_cache_is_automatic")
    values["kv_cache_memory_bytes"] = "" if automatic else size_text(values["kv_cache_memory_bytes"])
    values["tp_may_span_nodes"] = bool(values["tp_may_span_nodes"])
    kwargs = values["engine_kwargs"]
    values["engine_kwargs"] = json.dumps(kwargs, indent=2) if kwargs else ""
    target = values["target_ongoing_requests"]
    values["target_ongoing_requests"] = f"{target:g}" if target is not None else None
    for name in PRICES:
        price = values[name]
        values[name] = None if price is None else f"{Decimal(str(price)).normalize():f}"
    return values


def _accelerator_choices(present: tuple[str, ...]) -> list[tuple[str, Any]]:
    others = [entry.name for entry in catalogue_entries() if entry.name not in present]
    choices: list[tuple[str, Any]] = [("", "CPU")]
    if present:
        choices.append(("In the cluster", [(name, name) for name in present]))
    choices.append(
        ("Not in the cluster now" if present else "Accelerators", [(name, name) for name in others])
    )
    return choices
