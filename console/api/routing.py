"""How operations are declared: one decorator that names role, answer and status; shared parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from django.http import HttpRequest, HttpResponse
from ninja import Header, Query, Router

from console.api.errors import invalid
from console.api.outputs import ErrorAnswer
from console.api.security import NEEDS

View = TypeVar("View", bound=Callable[..., Any])
Method = Literal["GET", "POST", "PATCH", "DELETE"]

Limit = Annotated[int, Query(ge=1, le=200, description="entries to give")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="entries to skip")]
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="a repeat with the same key creates nothing new (24 h)"),
]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="the version you have read, as its ETag says")
]
ETAG = re.compile(r'^(?:W/)?"?(\d{1,9})"?$')
WRITE_ERRORS = frozenset({400, 401, 403, 404, 409, 413})
READ_ERRORS = frozenset({400, 401, 403, 404})


def operation(
    router: Router,
    method: Method,
    path: str,
    *,
    role: str,
    answer: Any,
    status: int = 200,
    by_alias: bool = False,
    asks_ray: bool = False,
    as_csv: bool = False,
) -> Callable[[View], View]:
    """Declare an operation. `role` is the least that may call it; `asks_ray` adds the errors of an outage,
    `as_csv` that the answer may be a CSV file."""
    errors = READ_ERRORS if method == "GET" else WRITE_ERRORS
    if asks_ray:
        errors = errors | {502, 503}
    extra: dict[str, Any] = {"x-role": role}
    if as_csv:
        extra["responses"] = {status: {"content": {"text/csv": {"schema": {"type": "string"}}}}}

    def decorate(view: View) -> View:
        summary, _, rest = " ".join((view.__doc__ or "").split()).partition(". ")
        declared = router.api_operation(
            [method],
            path,
            auth=NEEDS[role],
            response={status: answer, errors: ErrorAnswer},
            operation_id=view.__name__,
            summary=summary.rstrip("."),
            description=rest or None,
            by_alias=by_alias,
            openapi_extra=extra,
        )
        return declared(view)

    return decorate


def expected_version(*, header: str | None, body: int | None) -> int:
    """The version a change is based on, from If-Match or the body; they must agree when both are given."""
    found = ETAG.match(header.strip()) if header is not None else None
    if header is not None and found is None:
        raise invalid('If-Match must be the version you have read, such as "3".', field="If-Match")
    from_header = int(found.group(1)) if found else None
    if from_header is not None and body is not None and from_header != body:
        raise invalid("If-Match and expected_version differ.", field="expected_version")
    version = body if from_header is None else from_header
    if version is None:
        raise invalid(
            "Say which version you have read, as expected_version or If-Match.", field="expected_version"
        )
    return version


def set_version(response: HttpResponse, version: int) -> None:
    """Give the version as ETag, to be sent back as If-Match."""
    response["ETag"] = f'"{version}"'


def method_and_path(request: HttpRequest) -> str:
    """What an Idempotency-Key is good for."""
    return f"{request.method} {request.path}"[:300]
