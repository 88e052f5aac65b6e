"""Limits as people type them: the fields that the forms of keys and of deployments share.

The rules are those of serving/limits.py; here only text becomes numbers. Empty is "no limit". Field names are
the specification's own, so that an action's refusal finds its field.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django import forms

from console.models import Deployment
from serving.limits import (
    BUDGET_USD_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    REQUESTS_PER_MINUTE_MAX,
    TOKENS_PER_MINUTE_MAX,
    DeploymentLimits,
)

LIMIT_FIELDS = tuple(DeploymentLimits.model_fields)
KEY_LIMIT_FIELDS = (*LIMIT_FIELDS, "deployments", "expires_at")
TIME_FORMAT = "%Y-%m-%dT%H:%M"


def _count(label: str, help_text: str, maximum: int) -> forms.IntegerField:
    widget = forms.NumberInput(attrs={"class": "inp tn", "inputmode": "numeric", "placeholder": "no limit"})
    return forms.IntegerField(
        label=label, help_text=help_text, required=False, min_value=1, max_value=maximum, widget=widget
    )


def _money(label: str, help_text: str) -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        help_text=help_text,
        required=False,
        min_value=Decimal(0),
        max_value=BUDGET_USD_MAX,
        max_digits=15,
        decimal_places=6,
        widget=forms.NumberInput(attrs={"class": "inp tn", "step": "any", "placeholder": "no limit"}),
    )


class LimitFields(forms.Form):
    """What all requests together may use."""

    requests_per_minute = _count(
        "Requests per minute", "In any 60 seconds, not by the clock's minute.", REQUESTS_PER_MINUTE_MAX
    )
    tokens_per_minute = _count(
        "Tokens per minute",
        "Prompt and answer, counted when a request has ended: what is in flight may pass it.",
        TOKENS_PER_MINUTE_MAX,
    )
    requests_in_flight = _count(
        "Requests in flight", "Taken and not answered to the end yet.", REQUESTS_IN_FLIGHT_MAX
    )
    budget_usd_per_day = _money(
        "Budget per day", "US dollars; the day is that of UTC. Compared every few seconds."
    )
    budget_usd_per_month = _money("Budget per month", "US dollars per calendar month, UTC.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in LIMIT_FIELDS:
            self.fields[name].widget.attrs["aria-describedby"] = f"id_{name}_helptext"

    def limits(self) -> dict[str, Any]:
        """The limits' part for the actions; None takes one away."""
        return {name: self.cleaned_data.get(name) for name in LIMIT_FIELDS}


class KeyForm(LimitFields):
    """Name and limits of a key."""

    name = forms.CharField(
        max_length=80,
        label="Name",
        help_text="Who or what will use it, such as “support-bot”.",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off"}),
    )
    deployments = forms.MultipleChoiceField(
        label="Allowed deployments",
        required=False,
        help_text="None chosen: all, also those made later. Others answer as if they did not exist.",
        widget=forms.CheckboxSelectMultiple,
    )
    expires_at = forms.DateTimeField(
        label="Expires",
        required=False,
        help_text="UTC. From then on callers get 401.",
        input_formats=[TIME_FORMAT, "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"],
        widget=forms.DateTimeInput(attrs={"class": "inp tn", "type": "datetime-local"}, format=TIME_FORMAT),
    )

    def __init__(self, *args: Any, held: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = sorted({*Deployment.objects.values_list("name", flat=True), *held})
        self.fields["deployments"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]

    def limits(self) -> dict[str, Any]:
        """The limits' part for the actions; None takes one away."""
        given = {**super().limits(), "expires_at": self.cleaned_data.get("expires_at")}
        return {**given, "deployments": self.cleaned_data.get("deployments") or None}


class EditKeyForm(KeyForm):
    """The same for an existing key; `expected_version` settles races between two people."""

    expected_version = forms.IntegerField(widget=forms.HiddenInput)


def limit_values(limits: dict[str, Any]) -> dict[str, Any]:
    """Stored limits as the form shows them."""
    values = {name: limits.get(name) for name in KEY_LIMIT_FIELDS}
    for name in ("budget_usd_per_day", "budget_usd_per_month"):
        if values[name] is not None:
            values[name] = f"{Decimal(str(values[name])).normalize():f}"
    if values["expires_at"]:
        values["expires_at"] = datetime.fromisoformat(values["expires_at"]).astimezone(UTC)
    return values
