"""The catalogue's forms: text becomes numbers, and a refusal finds its field. The rules are the actions'."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from django import forms

from console import formats
from console.accelerator_entry import CatalogueEntry
from console.accelerator_figures import capability_text, shipped_accelerator
from console.actions.accelerator_values import checked_price
from console.differences import shown
from console.forms import SizeField, parse_size, size_text
from console.models import Supply
from console.three_way import Met, OpenedWith
from serving.accelerators import NAME_HELP
from serving.errors import Conflict, InvalidSpec, RaydeckError

NUMBER_FIELDS = {
    "memory_bandwidth_gb_per_s": ("Memory bandwidth", "GB/s"),
    "tflops_16bit": ("16-bit peak", "TFLOP/s, dense"),
    "tflops_fp8": ("FP8 peak", "TFLOP/s, dense"),
    "tflops_fp4": ("FP4 peak", "TFLOP/s, dense"),
    "intra_node_gb_per_s": ("Fabric within a node", "GB/s per accelerator, one way"),
    "inter_node_gb_per_s": ("Network between nodes", "GB/s per accelerator, one way"),
}


def _text(label: str, help_text: str = "", *, longest: int, **attributes: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"class": "inp", "autocomplete": "off", **attributes})
    return forms.CharField(
        required=False, max_length=longest, label=label, help_text=help_text, widget=widget
    )


def memory_text(size_bytes: int | None) -> str:
    """Text that parse_size reads back as exactly these bytes, in GiB with two decimals where that will do."""
    if size_bytes is None:
        return ""
    short = f"{size_bytes / formats.GIB:.2f} GiB"
    return short if parse_size(short) == size_bytes else size_text(size_bytes)


class SpecificationForm(forms.Form):
    """What operators say of a type. An empty field leaves what is shipped, which stands in it as a hint."""

    vendor = _text("Vendor", longest=40)
    variant = _text("Variant", "The card's full name, where the type has several.", longest=60)
    usable_bytes = SizeField(
        required=False,
        label="Memory",
        help_text="What the driver reports for one accelerator, such as 79.18 GiB.",
        widget=forms.TextInput(attrs={"class": "inp tn", "autocomplete": "off"}),
    )
    compute_capability = _text("Compute capability", "NVIDIA only, such as 9.0.", longest=8)
    accelerators_per_node = forms.IntegerField(
        required=False,
        label="Accelerators per node",
        widget=forms.NumberInput(attrs={"class": "inp tn", "inputmode": "numeric"}),
    )
    source = _text("Where these figures are from", longest=300)
    supply = forms.ChoiceField(
        required=False, label="Supply", choices=Supply.choices, widget=forms.RadioSelect
    )
    note = _text("Note", longest=500)

    field_order = (
        "name", "vendor", "variant", "usable_bytes", *NUMBER_FIELDS, "compute_capability",
        "accelerators_per_node", "source", "supply", "note",
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, (label, unit) in NUMBER_FIELDS.items():
            widget = forms.NumberInput(attrs={"class": "inp tn", "step": "any", "inputmode": "decimal"})
            self.fields[name] = forms.FloatField(required=False, label=label, help_text=unit, widget=widget)
        self.order_fields(self.field_order)

    def refuse(self, error: RaydeckError) -> None:
        """Put an action's refusal beside the field it is about, or above the form."""
        self.add_error(error.field if error.field in self.fields else None, error.message)


class AddForm(SpecificationForm):
    """A type that is not shipped."""

    name = forms.CharField(
        max_length=60,
        label="Name",
        help_text=f"{NAME_HELP}. Deployments ask Ray for it by this name.",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["usable_bytes"].required = True


class EditForm(OpenedWith, SpecificationForm):
    """A type as it was when the form was opened; `expected_version` settles races between two people."""

    compared = tuple(name for name in SpecificationForm.field_order if name != "name")
    expected_version = forms.IntegerField(widget=forms.HiddenInput, min_value=1, max_value=2**31 - 1)

    def __init__(self, *args: Any, entry: CatalogueEntry, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if len(entry.variants) > 1:
            choices = [("", f"{entry.variants[0]} (usual)"), *((name, name) for name in entry.variants[1:])]
            widget = forms.Select(attrs={"class": "sel"})
            self.fields["variant"] = forms.ChoiceField(
                required=False, label="Variant", choices=choices, widget=widget
            )
            self.order_fields(self.field_order)
        elif entry.is_shipped:
            del self.fields["variant"]
        if not entry.is_shipped and entry.row is not None:
            self.fields["usable_bytes"].required = True
        shipped = shipped_accelerator(entry.name, entry.row)
        self.fields["vendor"].widget.attrs["placeholder"] = shipped.vendor if shipped else ""
        self.fields["compute_capability"].widget.attrs["placeholder"] = capability_text(None, shipped)
        for name, figure in entry.figures.items():
            if figure.shipped is not None:
                shown = memory_text(int(figure.shipped)) if name == "usable_bytes" else f"{figure.shipped:g}"
                self.fields[name].widget.attrs["placeholder"] = shown

    @classmethod
    def of(cls, entry: CatalogueEntry) -> EditForm:
        """The form filled with what was entered; what is shipped stands behind it."""
        row = entry.row
        initial: dict[str, Any] = {"expected_version": entry.version, "supply": entry.supply}
        if row is not None:
            initial |= {name: getattr(row, name) for name in SpecificationForm.field_order if name != "name"}
            initial["usable_bytes"] = memory_text(row.usable_bytes)
        return cls(entry=entry, initial=initial)

    def edit(self) -> dict[str, Any]:
        """Arguments for the action: the version it was opened at, and what this person changed."""
        changed = self.changed_fields()
        kept = {name: value for name, value in self.cleaned_data.items() if name in changed}
        return {**kept, "expected_version": self.cleaned_data["expected_version"]}

    def meet(self, conflict: Conflict) -> Met:
        """Both edits side by side; sent again, the form is measured against what is stored now."""
        theirs = conflict.current.get("values")
        if not isinstance(theirs, dict):
            self.refuse(conflict)
            return Met()
        texts = {name: "" if value is None else str(value) for name, value in theirs.items()}
        texts["usable_bytes"] = memory_text(theirs["usable_bytes"])
        return self.rebase(conflict, theirs, texts, _shown)


def _shown(name: str, value: Any) -> str:
    return memory_text(value) or formats.MISSING if name == "usable_bytes" else shown(name, value)


class PriceForm(forms.Form):
    """What one accelerator costs from a day on."""

    usd_per_hour = forms.DecimalField(
        label="Price per hour",
        help_text="US dollars for one accelerator.",
        widget=forms.NumberInput(
            attrs={"class": "inp tn", "step": "any", "inputmode": "decimal", "min": "0"}
        ),
    )
    from_date = forms.DateField(
        label="From",
        help_text="The first day it holds, UTC.",
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"class": "inp tn", "type": "date"}),
    )
    source = forms.CharField(
        max_length=300,
        label="Source",
        help_text="The contract, the invoice or the price page.",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off"}),
    )

    def clean_usd_per_hour(self) -> Decimal:
        """Checked here too, so that all that is wrong is said at once."""
        try:
            return checked_price(self.cleaned_data["usd_per_hour"])
        except InvalidSpec as error:
            raise forms.ValidationError(error.message) from None

    @classmethod
    def blank(cls, today: date, usd_per_hour: Decimal | None = None) -> PriceForm:
        """The form for a price from today on."""
        return cls(initial={"from_date": today, "usd_per_hour": usd_per_hour})

    def refuse(self, error: RaydeckError) -> None:
        """Put an action's refusal beside the field it is about, or above the form."""
        self.add_error(error.field if error.field in self.fields else None, error.message)
