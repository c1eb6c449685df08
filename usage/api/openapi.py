"""How `POST /api/v1/events` describes itself on the API's page."""

from __future__ import annotations

from typing import Any

from usage.api.bodies import BATCH, ONE, PLAIN

_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "type", "subject", "data"],
    "properties": {
        "id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "Yours, unique within your key's source for ever; a repetition adds"
            " nothing.",
        },
        "type": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "examples": ["llm.call"],
            "description": "What was used; the catalogue says which meters read it.",
        },
        "subject": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "The customer's external id.",
        },
        "time": {
            "type": "string",
            "format": "date-time",
            "description": "When it was used, with an offset: at most 34 days ago and 120 seconds"
            " ahead. Without it, the moment we store it.",
        },
        "data": {
            "type": "object",
            "description": "The values the meters read, and what you want to keep beside them.",
            "examples": [{"model": "m-1", "input_tokens": 900, "output_tokens": 100}],
        },
        "specversion": {"type": "string", "const": "1.0"},
        "source": {"type": "string", "description": "Ignored: the source is your key's."},
    },
}
_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "accepted": {"type": "integer", "description": "Events stored by this request."},
        "duplicates": {"type": "integer", "description": "Events that were stored before."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                },
            },
        },
    },
}
_EACH_SCHEMA: dict[str, Any] = {
    "type": "array",
    "description": "Each event's outcome, when it was asked for.",
    "items": {
        "type": "object",
        "required": ["index", "outcome"],
        "properties": {
            "index": {"type": "integer"},
            "outcome": {"enum": ["accepted", "held", "duplicate", "conflict", "refused"]},
            "field": {"type": "string", "description": "At fault; of a conflict or refusal."},
            "reason": {"type": "string"},
        },
    },
}
_PROBLEM_SCHEMA["properties"]["events"] = _EACH_SCHEMA
_BATCH_SCHEMA = {"type": "array", "maxItems": 1000, "items": _EVENT_SCHEMA}
_PROBLEM_CONTENT = {"application/problem+json": {"schema": _PROBLEM_SCHEMA}}

OPENAPI_PATHS: dict[str, Any] = {
    "/api/v1/events": {
        "post": {
            "tags": ["usage"],
            "summary": "Report usage",
            "description": "Takes one CloudEvent or a batch of up to 1,000. Each event is judged on"
            " its own: the valid ones are stored, a refused one is named with its field and reason,"
            " and a repetition is a duplicate that adds nothing. A success says the events are"
            " durable.",
            "operationId": "report_usage",
            "parameters": [
                {
                    "in": "header",
                    "name": "Prefer",
                    "schema": {"type": "string", "enum": ["return=representation"]},
                    "description": "Asks for the outcome of each event by index.",
                },
                {
                    "in": "header",
                    "name": "Content-Encoding",
                    "schema": {"type": "string", "enum": ["gzip"]},
                    "description": "When the body is compressed.",
                },
            ],
            "requestBody": {
                "required": True,
                "content": {
                    ONE: {"schema": _EVENT_SCHEMA},
                    BATCH: {"schema": _BATCH_SCHEMA},
                    PLAIN: {"schema": {"oneOf": [_EVENT_SCHEMA, _BATCH_SCHEMA]}},
                },
            },
            "responses": {
                "204": {"description": "Every event is stored, or was before."},
                "200": {
                    "description": "The same, with each outcome (`Prefer: return=representation`).",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "accepted": {"type": "integer"},
                                    "duplicates": {"type": "integer"},
                                    "events": _EACH_SCHEMA,
                                },
                            }
                        }
                    },
                },
                "400": {
                    "description": "Some events are refused, each named with its reason; the others"
                    " are stored, and counted in `accepted` and `duplicates`.",
                    "content": _PROBLEM_CONTENT,
                },
                "401": {"description": "No valid key.", "content": _PROBLEM_CONTENT},
                "403": {
                    "description": "The key may not report usage.",
                    "content": _PROBLEM_CONTENT,
                },
                "413": {
                    "description": "More than 1 MiB or 1,000 events, or more than the key may ever"
                    " report in a minute; nothing is stored.",
                    "content": _PROBLEM_CONTENT,
                },
                "429": {
                    "description": "The key's limit for this minute is reached; nothing is stored.",
                    "content": _PROBLEM_CONTENT,
                },
                "415": {
                    "description": "Another content type or encoding.",
                    "content": _PROBLEM_CONTENT,
                },
                "503": {
                    "description": "We cannot store now; send the same again after Retry-After.",
                    "content": _PROBLEM_CONTENT,
                },
            },
            "security": [{"ApiKey": []}],
        }
    }
}
