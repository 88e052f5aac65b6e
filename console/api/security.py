"""Who calls the API and what they may do: a bearer token, or the browser's session with its CSRF token.

401 means "we do not know you", 403 "we know you, and you may not". Every operation names the role it takes
through `needs`; the walk test reads `required_role` off each. Nothing here logs a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from ninja.security.base import AuthBase

from console.api.errors import ApiError
from console.auth import RANK, role_allows, token_of
from console.events import Actor
from console.models import ApiToken, User

LONGEST_TOKEN_CHARACTERS = 500


@dataclass(frozen=True)
class Caller:
    """Who called, with the role that counts for this call."""

    user: User
    role: str
    token: ApiToken | None

    @property
    def actor(self) -> Actor:
        """The name under which what this call does is recorded."""
        return Actor(self.user, "page" if self.token is None else "api")


class BearerToken(AuthBase):
    """Lets a caller through whose role includes `required_role`; one object per role."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_description = "A token from the page “API keys”, POST /api/v1/me/tokens or manage.py createtoken."

    def __init__(self, required_role: str) -> None:
        super().__init__()
        self.required_role = required_role

    def __call__(self, request: HttpRequest) -> Caller:
        caller = _caller_of(request)
        if not role_allows(caller.role, self.required_role):
            raise ApiError(
                403, "forbidden", f"This takes the role {self.required_role}; yours is {caller.role}."
            )
        return caller


NEEDS = {role: BearerToken(role) for role in RANK}


def caller_of(request: HttpRequest) -> Caller:
    """The caller of an operation that `BearerToken` has let through."""
    caller: Caller = request.auth  # type: ignore[attr-defined]
    return caller


def _caller_of(request: HttpRequest) -> Caller:
    header = request.headers.get("Authorization")
    if header is not None:
        return _by_token(header)
    if not request.user.is_authenticated:
        raise _unknown("Log in, or send a token as “Authorization: Bearer …”.")
    if not _has_csrf_token(request):
        raise ApiError(403, "csrf", "The request lacks this session's CSRF token (header X-CSRFToken).")
    return Caller(user=request.user, role=request.user.role, token=None)


def _by_token(header: str) -> Caller:
    scheme, _, plaintext = header.strip().partition(" ")
    plaintext = plaintext.strip()
    if scheme.lower() != "bearer" or not 0 < len(plaintext) <= LONGEST_TOKEN_CHARACTERS:
        raise _unknown("The Authorization header must be “Bearer” and a token.")
    token = token_of(plaintext)
    if token is None:
        raise _unknown("This token is not known, or was revoked.")
    # A token never outgrows its owner: whoever loses a role loses it in all their tokens at once.
    role = min(token.role, token.user.role, key=lambda name: RANK.get(name, -1))
    return Caller(user=token.user, role=role, token=token)


def _has_csrf_token(request: HttpRequest) -> bool:
    """Whether a write comes from this session's own pages. Django's middleware leaves this to us: a token
    in a header needs no such proof."""
    request.csrf_processing_done = False  # type: ignore[attr-defined]
    check = _CsrfCheck(lambda _: HttpResponse())
    check.process_request(request)
    return check.process_view(request, HttpResponse, (), {}) is None


class _CsrfCheck(CsrfViewMiddleware):
    """Answers with nothing but a status: the page for people is not ours to render."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        return HttpResponse(status=403)


def _unknown(message: str) -> ApiError:
    return ApiError(401, "unauthenticated", message)
