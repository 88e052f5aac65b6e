"""Keys for the gateway, tokens for the REST API, and the people of this console."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from console import actions, limit_use, people
from console.auth import require, role_allows
from console.differences import differences
from console.limit_forms import EditKeyForm, KeyForm, limit_values
from console.limit_rows import key_rows
from console.models import ApiKey, ApiToken, Deployment, KeyKind, Role, User
from serving.errors import Conflict, NotFound, RaydeckError


class NameForm(forms.Form):
    """The name of a new token."""

    name = forms.CharField(
        max_length=80,
        label="Name",
        help_text="Who or what will use it, such as “support-bot”.",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off"}),
    )


class TokenForm(NameForm):
    """Name and role of a new token; only roles up to one's own are offered."""

    role = forms.ChoiceField(label="Role", choices=Role.choices, widget=forms.Select(attrs={"class": "sel"}))

    def __init__(self, *args: Any, own_role: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        role = self.fields["role"]
        assert isinstance(role, forms.ChoiceField)
        role.choices = [choice for choice in Role.choices if role_allows(own_role, choice[0])]


class PersonForm(forms.Form):
    """A new account."""

    username = forms.CharField(
        max_length=150,
        label="Name",
        widget=forms.TextInput(attrs={"class": "inp", "autocomplete": "off", "autocapitalize": "none"}),
    )
    role = forms.ChoiceField(
        label="Role", choices=Role.choices, initial="viewer", widget=forms.Select(attrs={"class": "sel"})
    )
    password = forms.CharField(
        label="First password",
        strip=False,
        help_text="At least 10 characters. The person can change it under “My account”.",
        widget=forms.PasswordInput(attrs={"class": "inp", "autocomplete": "new-password"}),
    )


@require("viewer")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def keys(request: HttpRequest) -> HttpResponse:
    """The gateway's keys; POST makes one (operators) and shows it this once."""
    form = KeyForm(request.POST or None)
    if request.method != "POST":
        return _keys_page(request, form)
    if not role_allows(request.user.role, "operator"):  # type: ignore[union-attr]
        return render(request, "403.html", {"needed": "operator"}, status=403)
    if form.is_valid():
        name = form.cleaned_data["name"].strip()
        # A page sent twice (reload) must not make a second key that nobody remembers.
        if ApiKey.objects.filter(name=name, kind=KeyKind.USER, revoked_at=None).exists():
            form.add_error(
                "name", f"A key called {name} exists already; choose another name or revoke that one."
            )
            return _keys_page(request, form, status=400)
        try:
            key, plaintext = actions.create_key(actor=_actor(request), name=name, limits=form.limits())
        except RaydeckError as error:
            _refuse(form, error)
        else:
            made = {"name": key.name, "plaintext": plaintext}
            return _keys_page(request, KeyForm(), made=made, status=201)
    return _keys_page(request, form, status=400)


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def key_edit(request: HttpRequest, key_id: int) -> HttpResponse:
    """Change a key's name and limits. Who comes second is shown both versions; what was typed stays."""
    key = get_object_or_404(ApiKey, pk=key_id, kind=KeyKind.USER, revoked_at=None)
    held = tuple(key.limits.get("deployments") or ())
    if request.method != "POST":
        initial = {**limit_values(key.limits), "name": key.name, "expected_version": key.version}
        return _key_page(request, EditKeyForm(initial=initial, held=held), key)
    form = EditKeyForm(request.POST, held=held)
    if not form.is_valid():
        return _key_page(request, form, key, status=400)
    try:
        actions.edit_key(
            actor=_actor(request),
            key_id=key_id,
            expected_version=form.cleaned_data["expected_version"],
            name=form.cleaned_data["name"],
            limits=form.limits(),
        )
    except Conflict as error:
        return _key_conflict(request, form, key, error)
    except RaydeckError as error:
        _refuse(form, error)
        return _key_page(request, form, key, status=400)
    messages.success(request, f"Key “{form.cleaned_data['name']}” is saved; in force in about a second.")
    return redirect("keys")


@require("operator")
@require_http_methods(["GET", "HEAD", "POST"])
def key_revoke(request: HttpRequest, key_id: int) -> HttpResponse:
    """Revoke a key after its name was typed."""
    key = get_object_or_404(ApiKey, pk=key_id, kind=KeyKind.USER, revoked_at=None)
    context = {
        "what": "key",
        "name": key.name,
        "prefix": key.prefix,
        "tab": "keys",
        "effect": "Callers that use it get 401 within about a second. This cannot be undone.",
    }
    if request.method != "POST":
        return render(request, "keys/revoke.html", context)
    if request.POST.get("typed_name", "").strip() != key.name:
        context["error"] = f"Type {key.name} to confirm; it was not revoked."
        return render(request, "keys/revoke.html", context, status=400)
    actions.revoke_key(actor=_actor(request), key_id=key_id)
    messages.success(request, f"Key “{key.name}” is revoked.")
    return redirect("keys")


@require("viewer")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """Tokens for the REST API: one's own, or everybody's for administrators; POST makes one."""
    own_role = request.user.role  # type: ignore[union-attr]
    form = TokenForm(request.POST or None, own_role=own_role)
    if request.method != "POST":
        return _tokens_page(request, form)
    if form.is_valid():
        name, role = form.cleaned_data["name"].strip(), form.cleaned_data["role"]
        if ApiToken.objects.filter(user=_actor(request).user, name=name, revoked_at=None).exists():
            form.add_error("name", f"You have a token called {name}; choose another name or revoke that one.")
            return _tokens_page(request, form, status=400)
        try:
            token, plaintext = people.create_token(actor=_actor(request), name=name, role=role)
        except RaydeckError as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            made = {"name": token.name, "plaintext": plaintext, "role": token.role}
            return _tokens_page(request, TokenForm(own_role=own_role), made=made, status=201)
    return _tokens_page(request, form, status=400)


@require("viewer")
@require_http_methods(["GET", "HEAD", "POST"])
def token_revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Revoke one's own token (administrators: anybody's) after its name was typed."""
    token = get_object_or_404(_visible_tokens(request), pk=token_id, revoked_at=None)
    context = {
        "what": "token",
        "name": token.name,
        "prefix": token.prefix,
        "tab": "tokens",
        "effect": "Scripts that use it get 401 at once. This cannot be undone.",
    }
    if request.method != "POST":
        return render(request, "keys/revoke.html", context)
    if request.POST.get("typed_name", "").strip() != token.name:
        context["error"] = f"Type {token.name} to confirm; it was not revoked."
        return render(request, "keys/revoke.html", context, status=400)
    people.revoke_token(actor=_actor(request), token_id=token_id)
    messages.success(request, f"Token “{token.name}” is revoked.")
    return redirect("tokens")


@require("admin")
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def users(request: HttpRequest) -> HttpResponse:
    """Everybody who can log in; POST adds a person."""
    form = PersonForm(request.POST or None)
    if request.method != "POST":
        return _users_page(request, form)
    if form.is_valid():
        try:
            user = people.add_person(actor=_actor(request), **form.cleaned_data)
        except RaydeckError as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            messages.success(request, f"{user.username} can log in now.")
            return redirect("users")
    return _users_page(request, form, status=400)


@require("admin")
@require_POST
def user_change(request: HttpRequest, user_id: int) -> HttpResponse:
    """Another role, or the account off or on: `role=` or `active=1|0`."""
    actor = _actor(request)
    try:
        if "role" in request.POST:
            user = people.change_role(actor=actor, user_id=user_id, role=request.POST["role"])
            done = f"{user.username} is {user.get_role_display().lower()} now."
        elif request.POST.get("active") in ("0", "1"):
            user = people.set_active(actor=actor, user_id=user_id, active=request.POST["active"] == "1")
            done = f"The account of {user.username} is {'on' if user.is_active else 'off'}."
        else:
            return _users_page(request, PersonForm(), refusal="Nothing to change was given.", status=400)
    except NotFound as error:
        raise Http404(error.message) from error
    except RaydeckError as error:
        return _users_page(request, PersonForm(), refusal=error.message, status=400)
    messages.success(request, done)
    return redirect("users")


def _keys_page(
    request: HttpRequest, form: forms.Form, *, made: dict[str, str] | None = None, status: int = 200
) -> HttpResponse:
    rows = (
        ApiKey.objects.filter(kind=KeyKind.USER)
        .select_related("created_by")
        .annotate(request_count=Count("requests"))
        .order_by("revoked_at", "-created_at")
    )
    example = Deployment.objects.values_list("name", flat=True).first() or "your-deployment"
    live = [row for row in rows if row.revoked_at is None]
    context = {
        "form": form,
        "rows": key_rows(live),
        "trouble": limit_use.gateway_trouble(),
        "revoked": [row for row in rows if row.revoked_at is not None],
        "made": made,
        "tab": "keys",
        "base_url": f"{settings.GATEWAY_URL.rstrip('/')}/v1",
        "example_model": example,
        "may_change": role_allows(request.user.role, "operator"),  # type: ignore[union-attr]
    }
    return render(request, "keys/keys.html", context, status=status)


def _key_page(
    request: HttpRequest, form: forms.Form, key: ApiKey, *, status: int = 200, **more: Any
) -> HttpResponse:
    context = {
        "form": form,
        "key": key,
        "row": key_rows([key])[0],
        "tab": "keys",
        "trouble": limit_use.gateway_trouble(),
        **more,
    }
    return render(request, "keys/edit.html", context, status=status)


def _key_conflict(request: HttpRequest, form: EditKeyForm, key: ApiKey, error: Conflict) -> HttpResponse:
    """Theirs beside yours; the form keeps yours and, sent again, is measured against their version."""
    form.add_error(None, error.message)
    theirs: dict[str, Any] = dict(error.current.get("values") or {})  # type: ignore[call-overload]
    yours = {**form.limits(), "name": form.cleaned_data["name"]}
    if yours["expires_at"] is not None:
        yours["expires_at"] = yours["expires_at"].isoformat().replace("+00:00", "Z")
    rows = differences({name: theirs.get(name) for name in yours}, yours)
    form.data = {**form.data.dict(), "expected_version": str(error.current.get("version", ""))}  # type: ignore[attr-defined]
    return _key_page(request, form, key, status=409, conflict=error.current, conflict_rows=rows)


def _refuse(form: forms.Form, error: RaydeckError) -> None:
    field = (error.field or "").split(".", 1)[0]
    form.add_error(field if field in form.fields else None, error.message)


def _tokens_page(
    request: HttpRequest, form: forms.Form, *, made: dict[str, str] | None = None, status: int = 200
) -> HttpResponse:
    rows = list(_visible_tokens(request).filter(revoked_at=None))
    context = {
        "form": form,
        "rows": rows,
        "made": made,
        "tab": "tokens",
        "api_url": request.build_absolute_uri("/api/v1/"),
        "everybody": request.user.role == Role.ADMIN,  # type: ignore[union-attr]
    }
    return render(request, "keys/tokens.html", context, status=status)


def _users_page(
    request: HttpRequest, form: forms.Form, *, refusal: str = "", status: int = 200
) -> HttpResponse:
    context = {
        "form": form,
        "rows": User.objects.order_by("-is_active", "username"),
        "roles": Role.choices,
        "refusal": refusal,
        "tab": "users",
    }
    return render(request, "keys/users.html", context, status=status)


def _visible_tokens(request: HttpRequest) -> QuerySet[ApiToken]:
    tokens = ApiToken.objects.select_related("user")
    if request.user.role == Role.ADMIN:  # type: ignore[union-attr]
        return tokens
    return tokens.filter(user=_actor(request).user)


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor(request.user, "page")  # type: ignore[arg-type]


urlpatterns = [
    path("keys/", keys, name="keys"),
    path("keys/<int:key_id>/edit/", key_edit, name="key-edit"),
    path("keys/<int:key_id>/revoke/", key_revoke, name="key-revoke"),
    path("settings/tokens/", tokens, name="tokens"),
    path("settings/tokens/<int:token_id>/revoke/", token_revoke, name="token-revoke"),
    path("settings/users/", users, name="users"),
    path("settings/users/<int:user_id>/", user_change, name="user-change"),
]
