"""The form of an alias: one line per deployment, with a weight or a place in the fallback. The rules are the
actions'; here only what was typed becomes the map they take."""

from __future__ import annotations

from typing import Any

from django import forms

from console.actions.aliases import HEAVIEST, MOST_DEPLOYMENTS
from console.aliases import values_of
from console.models import Deployment, GatewayAlias
from serving.errors import Conflict, RaydeckError
from serving.spec import NAME_HELP


class AliasForm(forms.Form):
    """Name (of a new alias) and the deployments behind it."""

    name = forms.CharField(
        label="Alias",
        max_length=40,
        help_text=f"Callers name it as “model”. {NAME_HELP[0].upper()}{NAME_HELP[1:]}.",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deployments = list(Deployment.objects.order_by("name").values_list("name", flat=True))
        for name in self.deployments:
            self.fields[f"weight_{name}"] = _number(f"Weight of {name}", most=HEAVIEST)
            self.fields[f"fallback_{name}"] = _number(f"Fallback place of {name}", most=MOST_DEPLOYMENTS)

    def rows(self) -> list[tuple[str, forms.BoundField, forms.BoundField]]:
        """Deployment, its weight field, its fallback field."""
        return [(name, self[f"weight_{name}"], self[f"fallback_{name}"]) for name in self.deployments]

    def clean(self) -> dict[str, Any]:
        """A deployment is a target or a fallback, never both."""
        cleaned: dict[str, Any] = super().clean() or {}
        for name in self.deployments:
            if cleaned.get(f"weight_{name}") and cleaned.get(f"fallback_{name}"):
                self.add_error(f"fallback_{name}", "Give a weight or a fallback place, not both.")
        return cleaned

    def values(self) -> dict[str, Any]:
        """Targets and fallback for the actions."""
        data = self.cleaned_data
        places = sorted(
            (data[f"fallback_{name}"], name) for name in self.deployments if data[f"fallback_{name}"]
        )
        return {
            "targets": [
                {"deployment": name, "weight": data[f"weight_{name}"]}
                for name in self.deployments
                if data[f"weight_{name}"]
            ],
            "fallback": [name for _, name in places],
        }

    def refuse(self, error: RaydeckError) -> None:
        """Put an action's refusal beside the field it is about, or above the form."""
        self.add_error(error.field if error.field in self.fields else None, error.message)


class EditAliasForm(AliasForm):
    """The same for an existing alias; `expected_version` settles races between two people."""

    name = None  # type: ignore[assignment]  # an alias's name never changes
    expected_version = forms.IntegerField(widget=forms.HiddenInput)

    @classmethod
    def of(cls, alias: GatewayAlias) -> EditAliasForm:
        """The form filled with what is stored."""
        stored = values_of(alias)
        initial: dict[str, Any] = {"expected_version": alias.version}
        initial |= {f"weight_{one['deployment']}": one["weight"] for one in stored["targets"]}
        initial |= {f"fallback_{name}": place for place, name in enumerate(stored["fallback"], start=1)}
        return cls(initial=initial)

    def meet(self, conflict: Conflict) -> None:
        """Say that somebody was faster and take their version as the base."""
        self.refuse(conflict)
        typed = {name: self.data[name] for name in self.data}
        self.data = {**typed, "expected_version": str(conflict.current.get("version", ""))}


def _number(label: str, *, most: int) -> forms.IntegerField:
    widget = forms.NumberInput(attrs={"class": "inp tn", "inputmode": "numeric", "aria-label": label})
    return forms.IntegerField(label=label, required=False, min_value=1, max_value=most, widget=widget)
