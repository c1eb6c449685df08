"""Checks requests and answers against Stripe's description, where it is at hand."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema
import pytest

from stripe_emulator.core.route import Route

SPEC = Path(__file__).resolve().parents[3] / "shared" / "stripe" / "openapi" / "spec.json"


@cache
def description() -> dict[str, Any]:
    if not SPEC.exists():
        pytest.skip("Stripe's description is not at hand")
    return json.loads(SPEC.read_text())


@cache
def _schemas() -> dict[str, Any]:
    """OpenAPI 3.0's `nullable` said in JSON Schema."""
    return _translated(description()["components"]["schemas"])


def _translated(node: Any) -> Any:
    if isinstance(node, list):
        return [_translated(each) for each in node]
    if not isinstance(node, dict):
        return node
    out = {key: _translated(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") is True:
        return {"anyOf": [out, {"type": "null"}]}
    return out


def _validate(instance: Any, schema: Any) -> None:
    whole = {**_translated(schema), "components": {"schemas": _schemas()}}
    validator = jsonschema.Draft202012Validator(whole)
    errors = sorted(validator.iter_errors(instance), key=lambda error: list(error.path))
    if errors:
        best = jsonschema.exceptions.best_match(errors)
        raise AssertionError(
            f"{best.json_path}: {best.message[:400]} (schema {list(best.schema_path)[-6:]})"
        )


SETUP_INTENTS = "/v1/setup_intents"
"""The description knows these objects and leaves their calls out: answers are held to it alone."""


@cache
def paths() -> dict[str, Any]:
    one = {"$ref": "#/components/schemas/setup_intent"}
    several = {
        "type": "object",
        "properties": {
            "data": {"type": "array", "items": one},
            "has_more": {"type": "boolean"},
            "object": {"enum": ["list"]},
            "url": {"type": "string"},
        },
        "required": ["data", "has_more", "object", "url"],
    }
    return {
        **description()["paths"],
        SETUP_INTENTS: {"post": _undescribed(one), "get": _undescribed(several)},
        f"{SETUP_INTENTS}/{{intent}}": {"post": _undescribed(one), "get": _undescribed(one)},
        f"{SETUP_INTENTS}/{{intent}}/confirm": {"post": _undescribed(one)},
        f"{SETUP_INTENTS}/{{intent}}/cancel": {"post": _undescribed(one)},
    }


def _undescribed(answer: dict[str, Any]) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/error"}
    return {
        "responses": {
            "200": {"content": {"application/json": {"schema": answer}}},
            "default": {"content": {"application/json": {"schema": error}}},
        },
    }


def operation(method: str, path: str) -> tuple[str, dict[str, Any]]:
    """The path template and operation a request belongs to; templates without parameters first."""
    candidates = sorted(paths(), key=lambda template: template.count("{"))
    for template in candidates:
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template)
        if re.fullmatch(pattern, path) and method.lower() in paths()[template]:
            return template, paths()[template][method.lower()]
    raise AssertionError(f"the description has no {method} {path}")


def template_of(route: Route) -> tuple[str, str] | None:
    """The method and template of a route, or None for one the description has not."""
    try:
        template, _ = operation(route.method, re.sub(r"\{\w+\}", "x", route.path))
    except AssertionError:
        return None
    return route.method, template


def check_answer(method: str, path: str, status: int, body: Any) -> None:
    _, found = operation(method, path)
    answer = found["responses"].get(str(status), found["responses"]["default"])
    _validate(body, answer["content"]["application/json"]["schema"])


def check_schema(name: str, body: Any) -> None:
    _validate(body, {"$ref": f"#/components/schemas/{name}"})


def check_request(method: str, path: str, query: str, body: bytes) -> None:
    """Every parameter must be one the operation has, with a value of its kind."""
    template, found = operation(method, path)
    if template.startswith(SETUP_INTENTS):
        return
    for name, schema in _asked_schemas(found, query, body):
        tree, top = name
        if top == "page" and path.startswith("/v2/"):
            continue  # the token of a next_page_url, which is followed and not built
        if top not in schema:
            raise AssertionError(f"{method} {path} has no parameter {top}")
        _validate(_cast(tree, schema[top]), schema[top])


def _asked_schemas(found: dict[str, Any], query: str, body: bytes):
    content = found.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        if body:
            _validate(json.loads(body), content["application/json"]["schema"])
        return
    form = (
        content.get("application/x-www-form-urlencoded", {}).get("schema", {}).get("properties", {})
    )
    in_query = {p["name"]: p["schema"] for p in found.get("parameters", []) if p["in"] == "query"}
    body = b"" if body == b"{}" else body  # the SDK's way of sending nothing in v2
    for text, schema in ((query, {**form, **in_query}), (body.decode(), form)):
        for top, value in _tree(text).items():
            yield (value, top), schema


def _tree(text: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        parts = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name)
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1] or str(len(node))] = value
    return tree


def _cast(value: Any, schema: Any) -> Any:  # noqa: PLR0911  one way out for each kind
    """A form carries text only: read it as what the schema says."""
    if "$ref" in schema:
        schema = description()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        for option in schema["anyOf"]:
            cast = _cast(value, option)
            if jsonschema.Draft202012Validator(_translated(option)).is_valid(cast):
                return cast
        return value
    kind = schema.get("type")
    if kind == "array" and isinstance(value, dict):
        return [_cast(value[key], schema["items"]) for key in sorted(value, key=int)]
    if kind == "object" and isinstance(value, dict):
        fields = schema.get("properties", {})
        rest = schema.get("additionalProperties", {})
        rest = rest if isinstance(rest, dict) else {}
        return {key: _cast(each, fields.get(key, rest)) for key, each in value.items()}
    if isinstance(value, str):
        if kind == "integer" and re.fullmatch(r"-?\d+", value):
            return int(value)
        if kind == "boolean" and value in {"true", "false"}:
            return value == "true"
    return value
