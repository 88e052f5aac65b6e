"""Every refusal of the API in one form: {"error": {"code", "message", "field", "details"}}.

`code` is for programs, `message` for people, `field` the dotted name of the input at fault or null, `details`
a map or null. It must not let a traceback, a path or a secret out: what is not foreseen becomes a plain 500.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError

from serving.bounded_json import Unreadable
from serving.errors import (
    ConfigRejected,
    Conflict,
    InUse,
    NotFound,
    NotPlaceable,
    RaydeckError,
    RayRefused,
    RayUnavailable,
)

log = logging.getLogger(__name__)

DOMAIN_ERRORS: tuple[tuple[type[RaydeckError], int, str], ...] = (
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (InUse, 409, "in_use"),
    (NotPlaceable, 409, "not_placeable"),
    (ConfigRejected, 409, "config_rejected"),
    (RayUnavailable, 503, "ray_unavailable"),
    (RayRefused, 502, "ray_refused"),
)
PLAINER = {
    "missing": "This is required.",
    "extra_forbidden": "There is no such field.",
    "json_invalid": "This is not valid JSON.",
}
NO_BODY = {"field": None, "message": "Send a JSON object."}
"""What a missing body is answered with: there is no field to name."""
PARAMETER_SOURCES = ("query", "path", "header", "cookie", "form", "file")


class ApiError(Exception):
    """A refusal by the API itself."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.details = details


def invalid(message: str, *, field: str | None = None) -> ApiError:
    """A 400 for one input."""
    return ApiError(400, "invalid", message, field=field)


def not_found(message: str) -> ApiError:
    """A 404 for a named thing."""
    return ApiError(404, "not_found", message)


def error_response(error: ApiError) -> JsonResponse:
    """The answer that carries the error."""
    body = {"code": error.code, "message": error.message, "field": error.field, "details": error.details}
    response = JsonResponse({"error": body}, status=error.status)
    if error.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="raydeck"'
    if error.status == 503:
        response["Retry-After"] = "5"
    return response


def install_handlers(api: NinjaAPI) -> None:
    """Make `api` answer every exception in the one form."""
    for kind in (
        ApiError,
        RaydeckError,
        ValidationError,
        HttpError,
        Http404,
        RequestDataTooBig,
        UnreadablePostError,
        Exception,
    ):
        api.add_exception_handler(kind, _answer)


def _answer(request: HttpRequest, error: Any) -> HttpResponse:
    known = _as_api_error(error)
    if known is None:
        log.error("api failed method=%s path=%s", request.method, request.path, exc_info=error)
        known = ApiError(500, "internal", "Something failed here; the server's log says what.")
    return error_response(known)


def _as_api_error(error: Exception) -> ApiError | None:
    """The refusal behind an exception; None for what was not foreseen."""
    match error:
        case ApiError():
            return error
        case RaydeckError():
            return _from_domain(error)
        case ValidationError():
            return _from_validation(error.errors)
        case HttpError():
            return _from_http(error)
        case Http404():
            return not_found("There is nothing at this address.")
        case RequestDataTooBig():
            return ApiError(413, "too_large", "The body is larger than this API takes.")
        case UnreadablePostError():
            return invalid("The body ended early.")
    return None


def _from_domain(error: RaydeckError) -> ApiError:
    details: dict[str, Any] | None = None
    if isinstance(error, NotPlaceable):
        details = {"arithmetic": error.arithmetic}
    if isinstance(error, Conflict):
        details = {"current": error.current}
    for kind, status, code in DOMAIN_ERRORS:
        if isinstance(error, kind):
            return ApiError(status, code, error.message, field=error.field, details=details)
    return ApiError(400, "invalid", error.message, field=error.field, details=details)


def _from_validation(problems: Iterable[dict[str, Any]]) -> ApiError:
    """The first problem as the message, all of them in the details."""
    rows = [{"field": _field_of(problem["loc"]), "message": _words_of(problem)} for problem in problems]
    rows = [NO_BODY if row == {"field": None, "message": PLAINER["missing"]} else row for row in rows]
    first = rows[0] if rows else {"field": None, "message": "The request is not valid."}
    return ApiError(
        400, "invalid", str(first["message"]), field=first["field"], details={"problems": rows[:50]}
    )


def _field_of(location: tuple[Any, ...]) -> str | None:
    """("body", "body", "engine", "dtype") -> "engine.dtype". The parameter's own name says nothing."""
    parts = [str(part) for part in location]
    if parts and parts[0] in PARAMETER_SOURCES:
        parts = parts[1:]
    elif parts and parts[0] == "body":
        parts = parts[2:]
    return ".".join(parts)[:200] or None


def _words_of(problem: dict[str, Any]) -> str:
    plainer = PLAINER.get(str(problem.get("type")))
    if plainer:
        return plainer
    text = str(problem.get("msg", "This is not valid")).removeprefix("Value error, ")[:500]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _from_http(error: HttpError) -> ApiError:
    if isinstance(error, AuthenticationError):
        return ApiError(401, "unauthenticated", "Log in, or send a token as “Authorization: Bearer …”.")
    if isinstance(error.__cause__, Unreadable):
        return invalid(f"The body {error.__cause__}.")
    code = {400: "invalid", 403: "forbidden", 404: "not_found"}.get(error.status_code, "refused")
    return ApiError(error.status_code, code, str(error))
