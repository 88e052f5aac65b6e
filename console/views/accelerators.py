"""The accelerator catalogue: what the cluster has, what types can do, what they cost and since when."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from console import actions
from console.accelerator_entry import CatalogueEntry
from console.accelerator_figures import figures_of
from console.accelerator_forms import AddForm, EditForm, PriceForm
from console.accelerators import catalogue_entries, catalogue_entry, day_of
from console.auth import require, role_allows
from serving.accelerator_prices import default_price, price_states
from serving.accelerators import accelerator, unknown_message
from serving.errors import Conflict, RaydeckError

LABELS = {
    "usable_bytes": "Memory",
    "memory_bandwidth_gb_per_s": "Memory bandwidth",
    "tflops_16bit": "16-bit peak",
    "tflops_fp8": "FP8 peak",
    "tflops_fp4": "FP4 peak",
    "intra_node_gb_per_s": "Fabric within a node",
    "inter_node_gb_per_s": "Network between nodes",
    "accelerators_per_node": "Per node",
}
UNITS = {"gb_per_s": "GB/s", "tflops": "TFLOP/s"}


@require("viewer")
@require_GET
def accelerator_list(request: HttpRequest) -> HttpResponse:
    """Every type: those on the cluster first, then owned, rented and used ones, then the rest."""
    wanted = request.GET.get("q", "").strip()
    entries = catalogue_entries()
    shown = [entry for entry in entries if wanted.lower() in _searched(entry)]
    own = [entry for entry in shown if _is_own(entry)]
    context = {
        "own": own,
        "others": [entry for entry in shown if not _is_own(entry)],
        "is_anything_detected": any(entry.nodes for entry in entries),
        "total": len(entries),
        "q": wanted,
        "shown": len(shown),
    }
    return render(request, "accelerators/list.html", context)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def accelerator_new(request: HttpRequest) -> HttpResponse:
    """Add a type that is not shipped."""
    form = AddForm(request.POST or None, initial={"supply": "", "name": request.GET.get("name", "")[:60]})
    if request.method != "POST":
        return render(request, "accelerators/form.html", {"form": form})
    if form.is_valid():
        try:
            row = actions.add_accelerator(actor=_actor(request), **form.cleaned_data)
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{row.name} is in the catalogue.")
            return redirect("accelerator", name=row.name)
    return render(request, "accelerators/form.html", {"form": form}, status=400)


@require("viewer")
@require_GET
def accelerator_detail(request: HttpRequest, name: str) -> HttpResponse:
    """One type: specification with its origin, prices, variants, nodes and deployments."""
    entry = _entry(name)
    if entry.name != name:
        return redirect("accelerator", name=entry.name)
    return _detail(request, entry)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def accelerator_edit(request: HttpRequest, name: str) -> HttpResponse:
    """Change the specification; told, and nothing lost, when somebody else was faster."""
    entry = _entry(name)
    if request.method != "POST":
        return render(request, "accelerators/form.html", {"form": EditForm.of(entry), "entry": entry})
    form = EditForm(request.POST, entry=entry)
    meeting: dict[str, Any] = {}
    status = 400
    if form.is_valid():
        try:
            actions.edit_accelerator(actor=_actor(request), name=entry.name, **form.edit())
        except Conflict as error:
            status, meeting = 409, {"met": form.meet(error), "conflict": error.current}
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{entry.name} is saved.")
            return redirect("accelerator", name=entry.name)
    context = {"form": form, "entry": entry, **meeting}
    return render(request, "accelerators/form.html", context, status=status)


@require("operator")
@require_POST
def accelerator_supply(request: HttpRequest, name: str) -> HttpResponse:
    """Mark a type as owned, rented or neither: `supply=`, `expected_version=`."""
    entry = _entry(name)
    try:
        actions.edit_accelerator(
            actor=_actor(request),
            name=entry.name,
            expected_version=_version(request),
            supply=request.POST.get("supply", ""),
        )
    except RaydeckError as error:
        return _detail(request, entry, refusal=error.message, status=_status_of(error))
    messages.success(request, f"The supply of {entry.name} is saved.")
    return redirect("accelerator", name=entry.name)


@require("admin")
@require_POST
def accelerator_price(request: HttpRequest, name: str) -> HttpResponse:
    """Enter a price from a day on."""
    entry = _entry(name)
    form = PriceForm(request.POST)
    if form.is_valid():
        try:
            price = actions.add_price(actor=_actor(request), name=entry.name, **form.cleaned_data)
        except RaydeckError as error:
            form.refuse(error)
        else:
            messages.success(request, f"The price of {entry.name} from {price.from_date} is entered.")
            return redirect("accelerator", name=entry.name)
    return _detail(request, entry, price_form=form, status=400)


@require("operator")
@require_POST
def accelerator_reset(request: HttpRequest, name: str) -> HttpResponse:
    """Return the specification to what is shipped."""
    entry = _entry(name)
    try:
        actions.reset_accelerator(actor=_actor(request), name=entry.name, expected_version=_version(request))
    except RaydeckError as error:
        return _detail(request, entry, refusal=error.message, status=_status_of(error))
    messages.success(request, f"{entry.name} has its shipped specification again.")
    return redirect("accelerator", name=entry.name)


@require("operator")
@require_POST
def accelerator_remove(request: HttpRequest, name: str) -> HttpResponse:
    """Remove a type that was added here: typed name, and nothing may use it."""
    entry = _entry(name)
    if request.POST.get("typed_name", "").strip() != entry.name:
        words = f"Type {entry.name} to confirm; it was not removed."
        return _detail(request, entry, typed_error=words, status=400)
    try:
        actions.remove_accelerator(actor=_actor(request), name=entry.name)
    except RaydeckError as error:
        return _detail(request, entry, refusal=error.message, status=409)
    messages.success(request, f"{entry.name} was removed from the catalogue.")
    return redirect("accelerators")


def _detail(
    request: HttpRequest,
    entry: CatalogueEntry,
    *,
    price_form: PriceForm | None = None,
    refusal: str = "",
    typed_error: str = "",
    status: int = 200,
) -> HttpResponse:
    role = request.user.role  # type: ignore[union-attr]
    today = day_of(time.time())
    context = {
        "entry": entry,
        "figures": [_figure_row(entry, column) for column in LABELS],
        "variants": [_variant_row(entry, variant) for variant in entry.variants],
        "price_rows": _price_rows(entry),
        "list_rows": _list_rows(entry),
        "price_form": price_form or PriceForm.blank(today),
        "refusal": refusal,
        "typed_error": typed_error,
        "may_change": role_allows(role, "operator"),
        "may_price": role_allows(role, "admin"),
    }
    return render(request, "accelerators/detail.html", context, status=status)


def _figure_row(entry: CatalogueEntry, column: str) -> dict[str, Any]:
    unit = next((word for part, word in UNITS.items() if part in column), "")
    return {
        "label": LABELS[column],
        "figure": entry.figures[column],
        "unit": unit,
        "is_size": column == "usable_bytes",
        "is_peak": column in ("tflops_fp8", "tflops_fp4"),  # often there is none: nothing is missing
        "is_changed": entry.figures[column].origin == "yours",
    }


def _variant_row(entry: CatalogueEntry, variant: str) -> dict[str, Any]:
    shipped = accelerator(entry.name, variant)
    return {
        "name": variant,
        "figures": figures_of(None, shipped),
        "list_price_usd": shipped.usd_per_hour if shipped else None,
        "is_chosen": variant == entry.variant,
    }


def _price_rows(entry: CatalogueEntry) -> list[dict[str, Any]]:
    """Prices entered here, newest first, each with what it is today."""
    rows = price_states(entry.prices, day_of(time.time()))
    return [{"price": price, "state": state} for price, state in reversed(rows)]


def _list_rows(entry: CatalogueEntry) -> list[dict[str, Any]]:
    """The shipped list prices, cheapest first; the one that stands in is marked."""
    chosen = default_price(entry.list_prices, variant=entry.variant)
    ordered = sorted(entry.list_prices, key=lambda price: price.usd_per_hour)
    return [{"price": price, "is_default": price is chosen} for price in ordered]


def _is_own(entry: CatalogueEntry) -> bool:
    return bool(entry.nodes or entry.supply or entry.used_by or entry.prices or not entry.is_shipped)


def _searched(entry: CatalogueEntry) -> str:
    return " ".join((entry.name, entry.vendor, *entry.variants, entry.variant)).lower()


def _entry(name: str) -> CatalogueEntry:
    entry = catalogue_entry(name)
    if entry is None:
        raise Http404(unknown_message(name))
    return entry


def _version(request: HttpRequest) -> int:
    text = request.POST.get("expected_version", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _status_of(error: RaydeckError) -> int:
    return 409 if isinstance(error, Conflict) else 400


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor(request.user, "page")  # type: ignore[arg-type]


urlpatterns = [
    path("accelerators/", accelerator_list, name="accelerators"),
    path("accelerators/new/", accelerator_new, name="accelerator-new"),
    path("accelerators/<str:name>/", accelerator_detail, name="accelerator"),
    path("accelerators/<str:name>/edit/", accelerator_edit, name="accelerator-edit"),
    path("accelerators/<str:name>/supply/", accelerator_supply, name="accelerator-supply"),
    path("accelerators/<str:name>/prices/", accelerator_price, name="accelerator-price"),
    path("accelerators/<str:name>/reset/", accelerator_reset, name="accelerator-reset"),
    path("accelerators/<str:name>/remove/", accelerator_remove, name="accelerator-remove"),
]
