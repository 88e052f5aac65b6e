"""The forms of objectives and of the alert webhook: milliseconds and percent as people type them."""

from __future__ import annotations

from typing import Any

from django import forms

from serving.errors import RaydeckError
from serving.slo import SloSpec

SHOWN = {"ttft_s": "ttft_ms", "tpot_s": "tpot_ms", "latency_target": "latency_percent",
         "success_target": "success_percent"}  # fmt: skip
"""Field of the specification -> field of the form."""
SCALE = {"ttft_ms": 1000, "tpot_ms": 1000, "latency_percent": 100, "success_percent": 100}


def _number(label: str, help_text: str, **options: Any) -> forms.FloatField:
    widget = forms.NumberInput(attrs={"class": "inp tn", "step": "any", "inputmode": "decimal"})
    return forms.FloatField(required=False, label=label, help_text=help_text, widget=widget, **options)


class RefusingForm(forms.Form):
    """A form that puts a refusal of an action beside its field."""

    def refuse(self, error: RaydeckError) -> None:
        """Beside the field it names, else above the form."""
        field = SHOWN.get(error.field or "", error.field)
        self.add_error(field if field in self.fields else None, error.message)


class SloForm(RefusingForm):
    """A deployment's objectives."""

    expected_version = forms.IntegerField(widget=forms.HiddenInput)
    ttft_ms = _number("Time to first token at most", "Milliseconds.", min_value=0.1001, max_value=600_000)
    tpot_ms = _number("Time per output token at most", "Milliseconds.", min_value=0.1001, max_value=60_000)
    latency_percent = _number(
        "Share of requests within them", "Percent; 95 makes them p95.", min_value=50, max_value=99.99
    )
    success_percent = _number(
        "Share of requests answered", "Percent, such as 99; errors of the service count.",
        min_value=50, max_value=99.99,
    )  # fmt: skip
    window_days = forms.TypedChoiceField(
        label="Error budget over",
        coerce=int,
        choices=((30, "30 days"), (7, "7 days")),
        widget=forms.RadioSelect,
    )

    @classmethod
    def of(cls, spec: SloSpec, version: int) -> SloForm:
        """The form with what is stored."""
        values: dict[str, Any] = {"expected_version": version, "window_days": spec.window_days}
        for name, shown in SHOWN.items():
            value = getattr(spec, name)
            values[shown] = None if value is None else f"{value * SCALE[shown]:.10g}"
        return cls(initial=values)

    def changes(self) -> dict[str, Any]:
        """All fields of the specification."""
        given: dict[str, Any] = {"window_days": self.cleaned_data["window_days"]}
        for name, shown in SHOWN.items():
            value = self.cleaned_data[shown]
            given[name] = None if value is None else float(f"{value / SCALE[shown]:.10g}")
        if given["latency_target"] is None:
            given["latency_target"] = SloSpec.model_validate({}).latency_target
        return given


class WebhookForm(RefusingForm):
    """Where alerts are sent."""

    expected_version = forms.IntegerField(widget=forms.HiddenInput)
    url = forms.CharField(
        required=False, max_length=500, label="Address",
        help_text="https:// or http://. Redirects are not followed.",
        widget=forms.URLInput(attrs={"class": "inp", "autocomplete": "off", "placeholder": "https://…"}),
    )  # fmt: skip
    secret = forms.CharField(
        required=False, max_length=200, label="Secret",
        widget=forms.PasswordInput(attrs={"class": "inp", "autocomplete": "new-password"}),
    )  # fmt: skip
    enabled = forms.BooleanField(required=False, label="Send alerts")
    sends_fast = forms.BooleanField(required=False, label="Fast burn (1 h and 5 min)")
    sends_slow = forms.BooleanField(required=False, label="Slow burn (6 h and 30 min)")
    sends_resolved = forms.BooleanField(required=False, label="When one is resolved")
