"""How metadata is merged.

Keys are added or replaced, an empty value removes its key, null removes all.
"""

from collections.abc import Mapping

from stripe_emulator.core.errors import invalid

KEYS = 50


def merged(before: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    """Return `before` changed by what was sent; None, an emptied parameter, leaves nothing."""
    if given is None:
        return {}
    after = {**before, **given}
    kept = {key: value for key, value in after.items() if value != ""}
    if len(kept) > KEYS:
        raise invalid(f"You can have at most {KEYS} metadata keys.", param="metadata")
    return kept
