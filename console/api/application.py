"""The NinjaAPI object's own behaviour: strict bodies, and our error form also where the framework has none.

django-ninja answers a wrong method in plain text and leaves unknown addresses to Django's HTML page; here
both get the API's form.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, URLResolver, re_path
from ninja import NinjaAPI
from ninja.parser import Parser

from console.api.errors import ApiError, error_response, install_handlers, not_found
from serving.bounded_json import Unreadable, parse_object

BODY_LIMIT_BYTES = 1_000_000


class StrictParser(Parser):
    """JSON objects in UTF-8, without NaN, NUL characters or half surrogate pairs, which databases refuse."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        """The body as a map; raises Unreadable with what is wrong."""
        if len(request.body) > BODY_LIMIT_BYTES:
            raise Unreadable(f"is larger than {BODY_LIMIT_BYTES:,} bytes")
        value = parse_object(request.body)
        text = json.dumps(value, ensure_ascii=False)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Unreadable("holds half of a surrogate pair, which is no character") from None
        if "\\u0000" in text:
            raise Unreadable("holds a NUL character")
        return value


class AdminApi(NinjaAPI):
    """The API of the console."""

    def __init__(self, **options: Any) -> None:
        super().__init__(parser=StrictParser(), docs_url=None, **options)
        install_handlers(self)

    @property
    def urls(self) -> tuple[list[URLResolver | URLPattern], str, str]:
        """The framework's patterns, each guarded, and a last one for every other address."""
        patterns, app_name, namespace = super().urls
        for pattern in patterns:
            if isinstance(pattern, URLPattern):
                pattern.callback = _guarded(pattern.callback)
        return [*patterns[:-1], re_path(r"^", _nothing_here, name="api-root")], app_name, namespace


def _guarded(view: Callable[..., Any]) -> Callable[..., HttpResponse]:
    """`view` with NUL refused in the address and 405 in the API's form."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if "\0" in request.path or "\0" in "".join((*request.GET, *_all_values(request))):
            return error_response(ApiError(400, "invalid", "The address holds a NUL character."))
        response: HttpResponse = view(request, *args, **kwargs)
        if isinstance(response, HttpResponseNotAllowed):
            allowed = response.headers["Allow"]
            message = f"{request.method} is not possible here; {allowed} is."
            response = error_response(ApiError(405, "method_not_allowed", message))
            response["Allow"] = allowed
        # Figures and keys are for this caller and this moment; no proxy or browser keeps them.
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    guarded.csrf_exempt = True  # type: ignore[attr-defined]  # console/api/security.py checks sessions itself
    return guarded


def _all_values(request: HttpRequest) -> list[str]:
    return [str(value) for _, values in request.GET.lists() for value in values]


def _nothing_here(request: HttpRequest) -> HttpResponse:
    return error_response(
        not_found("There is nothing at this address; /api/v1/openapi.json lists what there is.")
    )


_nothing_here.csrf_exempt = True  # type: ignore[attr-defined]
