"""Cursors: where a list goes on, told as a text that means nothing to its reader.

Lists go by id, newest first, so a page costs the same however far down it is, and rows that come
in meanwhile neither repeat nor hide any.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from django.db.models import Model, QuerySet
from ninja import Query

PER_PAGE = 50
PER_PAGE_MOST = 1_000
LARGEST_ID = 2**63 - 1

Limit = Annotated[int, Query(ge=1, le=PER_PAGE_MOST, description="Rows on a page.")]
CursorText = Annotated[
    str, Query(max_length=100, description="`next_cursor` of the page before; empty: the first.")
]
Row = TypeVar("Row", bound=Model)


class InvalidCursor(ValueError):
    """The text is no cursor of this list."""

    def __init__(self) -> None:
        super().__init__("is no cursor of this list; take `next_cursor` of the page before")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows, newest first, and the cursor of the next page; empty on the last."""

    rows: list[Row]
    next_cursor: str


def page(rows: QuerySet[Row], *, of: str, cursor: str, limit: int) -> Page[Row]:
    """Return a page of `rows`; `of` names the list, so that no other list's cursor is taken.

    Raises:
        InvalidCursor: `cursor` is none of this list.
    """
    if cursor:
        rows = rows.filter(pk__lt=_read(cursor, of=of))
    found = list(rows.order_by("-pk")[: limit + 1])
    has_more = len(found) > limit
    found = found[:limit]
    return Page(found, _write(int(found[-1].pk), of=of) if has_more else "")


def _write(row_id: int, *, of: str) -> str:
    return base64.urlsafe_b64encode(f"{of}:{row_id}".encode()).decode().rstrip("=")


def _read(cursor: str, *, of: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor from error
    name, _, row_id = text.partition(":")
    if name != of or not (row_id.isascii() and row_id.isdecimal()) or int(row_id) > LARGEST_ID:
        raise InvalidCursor
    return int(row_id)
