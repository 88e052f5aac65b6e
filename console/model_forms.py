"""The registry's forms. They hold what was typed and where an error belongs; the rules are the actions'."""

from __future__ import annotations

from typing import Any

from django import forms

from console.differences import shown
from console.forms import JsonObjectField
from console.models import RegisteredModel, SourceKind
from console.three_way import Met, OpenedWith
from serving.errors import Conflict, RaydeckError

SOURCE_HELP = (
    "The folder's full path on the machines that serve, the hub id (organisation/model), "
    "or an address such as s3://bucket/path"
)


class ModelForm(forms.Form):
    """Source, revision, token and note of a model. The token is only ever written: a stored one is never put
    into the page, an empty field leaves it as it is, and the box clears it."""

    source_kind = forms.ChoiceField(
        choices=SourceKind.choices, widget=forms.RadioSelect, label="Where the files are"
    )
    source = forms.CharField(
        max_length=1000,
        label="Source",
        help_text=SOURCE_HELP,
        widget=forms.TextInput(attrs={"class": "inp mono"}),
    )
    hub_revision = forms.CharField(
        required=False,
        max_length=200,
        label="Revision",
        help_text="Hub only: branch, tag or commit. A commit makes every start load the same files.",
        widget=forms.TextInput(attrs={"class": "inp mono", "placeholder": "main"}),
    )
    hub_token = forms.CharField(
        required=False,
        max_length=500,
        label="Access token",
        widget=forms.PasswordInput(render_value=False, attrs={"class": "inp mono", "autocomplete": "off"}),
    )
    clear_hub_token = forms.BooleanField(required=False, label="Forget the stored token")
    note = forms.CharField(
        required=False, max_length=500, label="Note", widget=forms.TextInput(attrs={"class": "inp"})
    )
    config = JsonObjectField(
        required=False,
        max_length=1_000_000,
        strip=True,
        label="config.json",
        help_text="Hub and object store: paste it, and memory, speed and cost can be planned at once.",
        widget=forms.Textarea(attrs={"class": "inp mono", "rows": 4, "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, has_stored_token: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_stored_token = has_stored_token
        self.fields["hub_token"].help_text = (
            "A token is stored, encrypted, and never shown. A new one replaces it; empty leaves it."
            if has_stored_token
            else "Hub only, for gated or private models. Stored encrypted and never shown again."
        )

    def values(self) -> dict[str, Any]:
        """Arguments for the actions; `hub_token` is None where the stored one stays."""
        data = dict(self.cleaned_data)
        token = data.pop("hub_token").strip()
        data["hub_token"] = "" if data.pop("clear_hub_token", False) and not token else token or None
        data["config"] = data["config"] or None
        return data

    def refuse(self, error: RaydeckError) -> None:
        """Put an action's refusal beside the field it is about, or above the form."""
        self.add_error(error.field if error.field in self.fields else None, error.message)


class RegisterForm(ModelForm):
    """A new model: the same, with its name."""

    name = forms.CharField(
        max_length=63,
        label="Name",
        help_text="Lower-case letters, digits, dots, hyphens and underscores, such as llama-3.1-8b-instruct",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off", "spellcheck": "false"}),
    )
    clear_hub_token = None  # type: ignore[assignment]  # nothing is stored yet
    field_order = ("name", "source_kind", "source", "hub_revision", "hub_token", "config", "note")


class EditForm(OpenedWith, ModelForm):
    """A model as it was when the form was opened; `expected_version` settles races between two people."""

    compared = ("source_kind", "source", "hub_revision", "note")
    expected_version = forms.IntegerField(widget=forms.HiddenInput)

    def values(self) -> dict[str, Any]:
        """Arguments for the action: what this person changed, and a token or config where one was typed."""
        unchanged = set(self.compared) - self.changed_fields()
        return {name: value for name, value in super().values().items() if name not in unchanged}

    @classmethod
    def of(cls, model: RegisteredModel) -> EditForm:
        """The form filled with what is stored, without the token."""
        return cls(
            initial={
                "source_kind": model.source_kind,
                "source": model.source,
                "hub_revision": model.hub_revision,
                "note": model.note,
                "expected_version": model.version,
            },
            has_stored_token=model.has_hub_token,
        )

    def meet(self, conflict: Conflict) -> Met:
        """Both edits side by side; sent again, the form is measured against what is stored now."""
        theirs = conflict.current.get("values")
        if not isinstance(theirs, dict):
            self.refuse(conflict)
            return Met()
        return self.rebase(conflict, theirs, {name: str(value) for name, value in theirs.items()}, shown)
