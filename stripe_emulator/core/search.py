"""Stripe's search calls over customers, products, prices, subscriptions and invoices.

Here are its small query language and its pages by token.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from stripe_emulator.core.billing.invoices import subscription_of
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import DEFAULT_PAGE, Collection, Object, mode
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Integer, String
from stripe_emulator.core.params import EXPAND, Hash

SEARCH = Hash(
    {"expand": EXPAND, "limit": Integer(1, 100), "page": String(), "query": String()}, "query"
)
_CLAUSE = re.compile(
    r"""\s*(?P<not>-)?(?P<field>[a-z_]+)(?:\[(?P<q>["'])(?P<key>.+?)(?P=q)\])?\s*"""
    r"""(?P<test>>=|<=|[:~<>])\s*(?:(?P<q2>["'])(?P<text>.*?)(?P=q2)|(?P<bare>-?[\w.]+))\s*"""
)
_JOINT = re.compile(r"(AND|OR)\b", re.IGNORECASE)
_SHORTEST = 3
"""Characters a substring search needs."""

Test = Callable[[Object], bool]


def search(
    call: Call, collection: Collection, seen: Callable[[Object], Object] = lambda obj: obj
) -> Object:
    """Return one page of what matches, newest first; queries look at an object as `seen` shows it.

    Unlike Stripe's, this index is never behind; a client that needs that finds out elsewhere.
    """
    wanted = _query(call.params["query"])
    found = [
        each
        for each in reversed(list(collection))
        if mode(each) == call.livemode and not each.get("deleted") and wanted(seen(each))
    ]
    limit, start = call.given("limit", DEFAULT_PAGE), _offset(call.given("page"))
    more = start + limit < len(found)
    return {
        "object": "search_result",
        "data": found[start : start + limit],
        "has_more": more,
        "next_page": str(start + limit) if more else None,
        "url": call.url,
    }


def customers(call: Call) -> Object:
    return search(call, call.world.customers)


def products(call: Call) -> Object:
    return search(call, call.world.products)


def prices(call: Call) -> Object:
    return search(call, call.world.prices)


def subscriptions(call: Call) -> Object:
    return search(call, call.world.subscriptions)


def invoices(call: Call) -> Object:
    """Search invoices; by subscription, too, which is not a field of theirs any more."""
    return search(
        call, call.world.invoices, lambda each: each | {"subscription": subscription_of(each)}
    )


def _query(text: str) -> Test:
    """Read clauses joined by AND or by OR; Stripe does not take both in one query."""
    tests: list[Test] = []
    joints: set[str] = set()
    position = 0
    while True:
        clause = _CLAUSE.match(text, position)
        if clause is None:
            raise _unreadable(text)
        tests.append(_test(clause))
        position = clause.end()
        if position == len(text):
            break
        joint = _JOINT.match(text, position)
        # Clauses side by side mean AND.
        joints.add(joint[1].upper() if joint else "AND")
        position = joint.end() if joint else position
    if len(joints) > 1:
        raise invalid("AND and OR cannot be combined in one search query.", param="query")
    combine = any if joints == {"OR"} else all
    return lambda obj: combine(test(obj) for test in tests)


def _test(clause: re.Match[str]) -> Test:
    value = clause["text"] if clause["text"] is not None else clause["bare"]
    if clause["test"] == "~" and len(value) < _SHORTEST:
        raise invalid(f"A substring search needs at least {_SHORTEST} characters.", param="query")
    holds = partial(
        _holds, field=clause["field"], key=clause["key"], how=clause["test"], value=value
    )
    if clause["not"]:
        return lambda obj: not holds(obj)
    return holds


def _holds(obj: Object, *, field: str, key: str | None, how: str, value: str) -> bool:
    stored: Any = obj.get(field)
    if key is not None:
        stored = (stored or {}).get(key)
    if value == "null" and how == ":":
        return stored is None
    if stored is None:
        return False
    if how in {":", "~"}:
        shown = str(stored).lower()
        return value.lower() == shown if how == ":" else value.lower() in shown
    try:
        left, right = int(stored), int(value)
    except (TypeError, ValueError):
        raise invalid(f"{field} cannot be compared with {how}.", param="query") from None
    return {"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}[how]


def _offset(page: str | None) -> int:
    if page is None:
        return 0
    if not page.isdecimal():
        raise invalid("Invalid page token.", param="page")
    return int(page)


def _unreadable(text: str) -> Exception:
    return invalid(f"This search query cannot be read: {text[:100]}", param="query")
