"""Who may do what: roles on pages, bearer tokens on the API. ORM only; nothing here logs a secret."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from console import secrets
from console.models import ApiToken, Role, User
from serving import keys

RANK = {Role.VIEWER.value: 0, Role.OPERATOR.value: 1, Role.ADMIN.value: 2}

View = Callable[..., HttpResponse]


def role_allows(role: str, needed: str) -> bool:
    """Whether `role` includes `needed`."""
    return RANK.get(role, -1) >= RANK[needed]


def require(needed: str) -> Callable[[View], View]:
    """Decorate a page view: anonymous people go to the login page, a lower role gets a 403 page that says
    which role it takes. The walk test reads `required_role` off every view."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not request.user.is_authenticated:
                return redirect_to_login(request.get_full_path())
            if not role_allows(request.user.role, needed):
                return render(request, "403.html", {"needed": needed}, status=403)
            return view(request, *args, **kwargs)

        guarded.required_role = needed  # type: ignore[attr-defined]
        return guarded

    return decorate


def create_token(*, user: User, name: str, role: str) -> tuple[ApiToken, str]:
    """A new bearer token and its plaintext, which is shown once and not stored."""
    plaintext = keys.new_key(keys.TOKEN_PREFIX)
    token = ApiToken.objects.create(
        user=user,
        name=name,
        role=role,
        prefix=keys.shown_prefix(plaintext),
        digest=keys.digest_of(key=plaintext, pepper=secrets.key_pepper()),
    )
    return token, plaintext


def token_of(plaintext: str) -> ApiToken | None:
    """The live token with this plaintext, or None; its last use is noted to the minute."""
    digest = keys.digest_of(key=plaintext, pepper=secrets.key_pepper())
    token = (
        ApiToken.objects.select_related("user")
        .filter(digest=digest, revoked_at=None, user__is_active=True)
        .first()
    )
    if token is None:
        return None
    now = timezone.now()
    if token.last_used_at is None or (now - token.last_used_at).total_seconds() > 60:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token
