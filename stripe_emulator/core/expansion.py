"""From a stored object to the JSON a caller sees, with what `expand` asked for.

Which paths may be asked for stands in `expandable`.
Stored keys that begin with an underscore are hidden; some appear when expanded (`tiers`,
`confirmation_secret`).
"""

import copy
from collections.abc import Sequence
from typing import Any

from stripe_emulator.core.billing.pricing import as_plan
from stripe_emulator.core.collection import DEFAULT_PAGE, Object, Page
from stripe_emulator.core.world import EXPANDABLE_FIELDS, World


def render(world: World, obj: Object, expand: Sequence[str] = ()) -> Object:
    """Return a copy of `obj` as Stripe shows it."""
    shown = _present(world, obj)
    for path in expand:
        _expand(world, shown, path.split("."))
    _hide(shown)
    return shown


def render_page(world: World, page: Page, expand: Sequence[str] = ()) -> Object:
    """Return a list object; expansion paths in a list begin with `data.`."""
    return render(
        world,
        {
            "object": "list",
            "data": [_present(world, each) for each in page.data],
            "has_more": page.has_more,
            "url": page.url,
        },
        expand,
    )


def _present(world: World, obj: Object) -> Object:
    shown = copy.deepcopy(obj)
    for line in _sold(shown):
        line["price"] = copy.deepcopy(world.prices.find(line["price"]))
    if obj.get("object") == "subscription":
        waiting = (shown.get("pending_update") or {}).get("subscription_items") or []
        for item in [*shown["items"]["data"], *waiting]:
            price = world.prices.find(item["price"])
            if price is not None:
                item["price"] = copy.deepcopy(price)
                item["plan"] = as_plan(price)
    elif obj.get("object") == "search_result":
        shown["data"] = [_present(world, each) for each in obj["data"]]
    elif "lines" in obj:
        # Of many lines an object shows the first ones; they are a list of their own, too.
        lines = shown["lines"]
        lines["has_more"] = len(lines["data"]) > DEFAULT_PAGE
        del lines["data"][DEFAULT_PAGE:]
    return shown


def _sold(shown: Object) -> list[Object]:
    """Return the lines of Checkout in an object: they show their prices whole."""
    if shown.get("object") == "checkout.session":
        lines: list[Object] = shown["_line_items"]["data"]
        return lines
    return [shown] if shown.get("object") == "item" else []


def _expand(world: World, node: Any, parts: Sequence[str]) -> None:
    """Follow a path that `expandable` let pass; where it leads to nothing, it is ignored."""
    if isinstance(node, list):
        for each in node:
            _expand(world, each, parts)
        return
    if not isinstance(node, dict):
        return
    head, rest = parts[0], parts[1:]
    if node.get(f"_{head}") is not None:
        node[head] = node[f"_{head}"]
    value = node.get(head)
    if isinstance(value, str) and head in EXPANDABLE_FIELDS:
        found = world.find(head, value)
        if found is not None:
            value = node[head] = _present(world, found)
    if rest:
        _expand(world, value, rest)


def _hide(node: Any) -> None:
    if isinstance(node, list):
        for each in node:
            _hide(each)
    elif isinstance(node, dict):
        for key in [key for key in node if isinstance(key, str) and key.startswith("_")]:
            del node[key]
        for value in node.values():
            _hide(value)
