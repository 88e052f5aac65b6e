"""The API's documentation page: rendered here from the OpenAPI document, without a script of anybody else's.

It must not describe anything by hand: what stands there is what the operations declare.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from console.api import api
from console.auth import require

TAGS = {
    "models": "Models",
    "deployments": "Deployments",
    "objectives": "Objectives, alerts and their webhook",
    "aliases": "Aliases: several deployments behind one name",
    "plan": "Plans: memory, times and money before anything starts",
    "accelerators": "Accelerators and their prices",
    "access": "Keys, you and your tokens",
    "cluster": "Cluster",
    "cost": "Cost",
    "activity": "Events, requests and fleet metrics",
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "register_model": {"name": "llama", "source_kind": "folder", "source": "/srv/models/llama"},
    "edit_model": {"note": "checked", "expected_version": 1},
    "register_adapter": {"name": "french", "source": "/srv/adapters/french"},
    "create_alias": {"name": "best", "targets": [{"deployment": "chat", "weight": 1}]},
    "edit_alias": {"fallback": [], "expected_version": 1},
    "create_deployment": {"name": "chat", "model": "demo", "capacity": {"max_replicas": 2}},
    "edit_deployment": {"capacity": {"max_replicas": 3}, "expected_version": 1},
    "roll_back": {"revision": 1},
    "edit_slo": {"ttft_s": 0.5, "success_target": 0.99, "expected_version": 1},
    "edit_webhook": {"url": "https://hooks.example/raydeck", "sends_slow": False, "expected_version": 1},
    "make_plan_of": {"model": "demo", "accelerator": "L4", "concurrency": 8},
    "rank_topologies_of": {"model": "demo", "accelerator": "L4"},
    "ask_for_exact_plan": {"model": "demo", "accelerator": "L4"},
    "add_accelerator": {"name": "Our-Card", "usable_bytes": 25_769_803_776, "supply": "owned"},
    "edit_accelerator": {"supply": "rented", "tflops_16bit": 756, "expected_version": 1},
    "reset_accelerator": {"expected_version": 1},
    "add_accelerator_price": {"usd_per_hour": "2.18", "from_date": "2026-12-01", "source": "contract 7"},
    "create_key": {"name": "support-bot", "limits": {"requests_per_minute": 600}},
    "edit_key": {"limits": {"budget_usd_per_day": "5", "tokens_per_minute": None}, "expected_version": 1},
    "create_token": {"name": "ci", "role": "operator"},
}
"""Bodies of the examples; a test sends each of them to the API."""


@require("viewer")
@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """Every operation with its role, parameters, body, answer and an example with curl."""
    base_url = request.build_absolute_uri("/").rstrip("/")
    context = {
        "sections": sections(),
        "base_url": base_url,
        "document_url": reverse("api-v1:openapi-json"),
        "error_example": json.dumps(
            {
                "error": {
                    "code": "conflict",
                    "message": "…",
                    "field": None,
                    "details": {"current": {"version": 4}},
                }
            },
            ensure_ascii=False,
            indent=2,
        ),
    }
    return render(request, "api/docs.html", context)


@lru_cache(maxsize=1)
def sections() -> list[dict[str, Any]]:
    """Groups of operations in the order of TAGS, as the template shows them."""
    document = api.get_openapi_schema()
    found: dict[str, list[dict[str, Any]]] = {tag: [] for tag in TAGS}
    for path, methods in document["paths"].items():
        for method, details in methods.items():
            found[details["tags"][0]].append(_operation(document, path, method, details))
    return [{"tag": tag, "title": title, "operations": found[tag]} for tag, title in TAGS.items()]


def example_name(path: str) -> str:
    """What stands for {name} in an example of this path."""
    if "/accelerators/" in path:
        return "H100"
    if "/aliases/" in path:
        return "best"
    return "demo" if "/models/" in path else "chat"


def _operation(document: dict[str, Any], path: str, method: str, details: dict[str, Any]) -> dict[str, Any]:
    body = details.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    status, answer = next(
        (status, answer) for status, answer in details["responses"].items() if int(status) < 300
    )
    answer_schema = answer.get("content", {}).get("application/json", {}).get("schema")
    return {
        "id": details["operationId"],
        "method": method.upper(),
        "path": path,
        "role": details["x-role"],
        "summary": details["summary"].rstrip("."),
        "description": details.get("description", "").replace("`", ""),
        "parameters": [_parameter(parameter) for parameter in details["parameters"]],
        "body": _fields(document, body) if body else [],
        "status": status,
        "answer": _fields(document, answer_schema) if answer_schema else [],
        "example": _example(path, method.upper(), EXAMPLES.get(details["operationId"])),
    }


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    schema = parameter["schema"]
    return {
        "name": parameter["name"],
        "where": parameter["in"],
        "type": _type_words(schema),
        "required": parameter["required"],
        "description": schema.get("description", ""),
        "default": schema.get("default"),
    }


def _fields(document: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """The properties of an object schema as rows; those of nested objects follow with a dotted name."""
    resolved = _resolved(document, schema)
    rows = []
    for name, field in resolved.get("properties", {}).items():
        rows.append(
            {
                "name": f"{prefix}{name}",
                "type": _type_words(field),
                "required": name in resolved.get("required", []),
                "description": field.get("description", ""),
            }
        )
        inner, dots = _inner(field)
        if inner is not None and prefix.count(".") < 2:
            rows += _fields(document, inner, f"{prefix}{name}{dots}.")
    return rows


def _inner(field: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The schema that a field refers to, itself, in a list, or beside null."""
    choices = [field, *field.get("anyOf", [])]
    for choice in choices:
        if "$ref" in choice and not choice["$ref"].endswith("/JsonValue"):
            return choice, ""
        if "$ref" in choice.get("items", {}):
            return choice["items"], "[]"
    return None, ""


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    found: dict[str, Any] = document["components"]["schemas"].get(name, schema)
    return found


def _type_words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type_words(choice) for choice in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "$ref" in schema:
        return "any" if schema["$ref"].endswith("/JsonValue") else "object"
    if schema.get("type") == "array":
        return f"list of {_type_words(schema.get('items', {}))}"
    words = str(schema.get("format") or schema.get("type") or "any")
    bounds = [
        f"{sign} {schema[key]:,}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in schema
    ]
    return f"{words} {', '.join(bounds)}".strip()


def _example(path: str, method: str, body: dict[str, Any] | None) -> str:
    filled = path.format(
        name=example_name(path),
        adapter="french",
        number=1,
        key_id=1,
        token_id=1,
        digest="0" * 64,
        request_id="0" * 32,
    )
    lines = [f'curl -X {method} "$RAYDECK{filled}" \\', '  -H "Authorization: Bearer $TOKEN"']
    if method == "GET":
        lines[0] = f'curl "$RAYDECK{filled}" \\'
    if body is not None:
        lines[-1] += " \\"
        lines += ['  -H "Content-Type: application/json" \\', f"  -d '{json.dumps(body)}'"]
    return "\n".join(lines)
