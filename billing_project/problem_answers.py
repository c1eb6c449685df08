"""The errors any operation may answer with, for the API's description of itself."""

from __future__ import annotations

from typing import Any

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["status", "title"],
    "properties": {
        "status": {"type": "integer"},
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "reason"],
                "properties": {"field": {"type": "string"}, "reason": {"type": "string"}},
            },
        },
    },
}
_ALWAYS = {
    401: "No valid key.",
    403: "The key does not allow this, or is for other customers.",
    503: "Not now; repeat the request after Retry-After.",
}
_WITH_INPUT = {422: "A field is wrong; `errors` names it."}
_WITH_PATH = {404: "What the address names is not there."}
_WITH_BODY = {
    400: "The body cannot be read.",
    409: "It is there with other data, or its state does not allow this.",
    413: "The body is too large.",
}


def announce(paths: dict[str, Any]) -> None:
    """Add to each operation the problems it may answer with and does not describe itself."""
    for path in paths.values():
        for operation in path.values():
            kinds = {parameter["in"] for parameter in operation.get("parameters", [])}
            found = dict(_ALWAYS)
            if "requestBody" in operation:
                found |= _WITH_BODY
            if "path" in kinds:
                found |= _WITH_PATH
            if kinds or "requestBody" in operation:
                found |= _WITH_INPUT
            described = {str(status) for status in operation["responses"]}
            for status, description in found.items():
                if str(status) not in described:
                    operation["responses"][status] = {
                        "description": description,
                        "content": {"application/problem+json": {"schema": _PROBLEM}},
                    }
