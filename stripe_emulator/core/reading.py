"""What a request carries: forms on v1, JSON on v2, and query strings on both."""

from typing import Any

import msgspec

from stripe_emulator.core.errors import malformed
from stripe_emulator.core.forms import decode
from stripe_emulator.core.settings import Settings
from stripe_emulator.core.wire import Request


def raw_params(request: Request) -> dict[str, Any]:
    """Return the parameters as they were sent; those of a GET travel in its query alone."""
    query = decode(request.query) if request.query else {}
    if request.method == "GET":
        return query
    if request.path.startswith("/v2/"):
        return query | _json_object(request.body)
    return query | decode(request.body.decode("utf-8", "replace"))


def base_url(request: Request, settings: Settings) -> str:
    """Return where a browser reaches our pages: the setting, or where this request came to.

    In process there is no such place, and it is the address the caller meant.
    """
    host = request.headers.get("host") or request.host or "localhost"
    return settings.pages_base_url.rstrip("/") or f"http://{host}"


def cost_of(raw: dict[str, Any]) -> int:
    """Return how many events a rate limit counts this as."""
    events = raw.get("events")
    return max(1, len(events)) if isinstance(events, list) else 1


def _json_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise malformed(f"Invalid JSON: {error}", code="invalid_json") from None
    if not isinstance(decoded, dict):
        raise malformed("The body must be a JSON object.", code="invalid_json")
    return decoded
