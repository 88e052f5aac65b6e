"""Edits that meet: a form says what it was opened with, so that only what this person changed is compared
with what another has stored meanwhile, and saved; the rest keeps what the other wrote.

What it was opened with travels in the page as Django's hidden initial values, so it works without JavaScript
and needs no history of capacities, which are not kept in revisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django import forms
from django.utils.safestring import SafeString

from console.differences import is_same
from serving.errors import Conflict

Shown = Callable[[str, Any], str]


@dataclass(frozen=True)
class Meeting:
    """One field on which two edits meet, as people read it."""

    label: str
    opened: str
    theirs: str
    yours: str = ""


@dataclass(frozen=True)
class Met:
    """`clashes`: fields that this person changed and that are stored otherwise now. `kept`: fields that only
    the other changed; saving leaves them as the other wrote them."""

    clashes: list[Meeting] = field(default_factory=list)
    kept: list[Meeting] = field(default_factory=list)


class OpenedWith(forms.Form):
    """A form for what exists, edited by several people; `expected_version` settles races between them."""

    compared: tuple[str, ...] = ()
    """Fields that are compared and carried."""

    def opening_inputs(self) -> list[SafeString]:
        """Hidden inputs with the values that the form was opened with; the page puts them into the form."""
        return [self[name].as_hidden(only_initial=True) for name in self._compared()]

    def changed_fields(self) -> set[str]:
        """The fields that this person changed, unreadable ones included; all of them where the form does not
        say what it was opened with. For a form that was checked."""
        opened, given = self._opened(), self.cleaned_data
        return {
            name
            for name in self._compared()
            if name not in opened
            or name not in given
            or not is_same(opened[name] or None, given[name] or None)
        }

    def rebase(self, conflict: Conflict, theirs: dict[str, Any], texts: dict[str, str], shown: Shown) -> Met:
        """Say that somebody was faster and take their version as the base: saving again is then a decision
        about this person's own changes alone.

        `theirs` are the values as they are now, `texts` the same as the form shows them.
        """
        self.add_error(None, conflict.message)
        opened, changed = self._opened(), self.changed_fields()
        met = Met()
        for name in self._compared():
            before, now, yours = opened.get(name), theirs.get(name), self.cleaned_data[name]
            label = str(self.fields[name].label)
            if name in changed and not is_same(now or None, yours or None):
                was = shown(name, before) if name in opened else ""
                met.clashes.append(Meeting(label, was, shown(name, now), shown(name, yours)))
            elif name not in changed and not is_same(before or None, now or None):
                met.kept.append(Meeting(label, shown(name, before), shown(name, now)))
        self._take_as_base(texts, changed, version=str(conflict.current.get("version", "")))
        return met

    def _take_as_base(self, texts: dict[str, str], changed: set[str], *, version: str) -> None:
        based = {name: self.data[name] for name in self.data} | {"expected_version": version}
        for name in self._compared():
            based[self[name].html_initial_name] = texts.get(name, "")
            if name not in changed:
                based[name] = texts.get(name, "")
        self.data = based

    def _compared(self) -> list[str]:
        return [name for name in self.compared if name in self.fields]

    def _opened(self) -> dict[str, Any]:
        """The values that the form was opened with, as far as it says so and they can be read."""
        values = {}
        for name in self._compared():
            given = self.data.get(self[name].html_initial_name)
            if given is None:
                continue
            try:
                values[name] = self.fields[name].clean(given)
            except forms.ValidationError:
                continue
        return values
