"""Lists as CSV, for those who ask with `Accept: text/csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse

JSON = "application/json"
CSV = "text/csv"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""What a spreadsheet takes for the beginning of a formula, and the mark that prevents it."""


def wants_csv(request: HttpRequest) -> bool:
    """Return whether the caller prefers CSV to JSON."""
    return request.get_preferred_type([JSON, CSV]) == CSV


def csv_answer(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    texts: frozenset[str],
    name: str,
    next_page: str,
) -> HttpResponse:
    """Return rows as a file called `name`, a heading first; `next_page` goes into `Link`.

    A cell of a column in `texts`, whose words are others', gets an apostrophe in front where a
    spreadsheet would take it for a formula.
    """
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(row[column], is_text=column in texts) for column in columns)
    answer = HttpResponse(written.getvalue(), content_type=f"{CSV}; charset=utf-8")
    answer["Vary"] = "Accept"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    if next_page:
        answer["Link"] = f'<{next_page}>; rel="next"'
    return answer


def _cell(value: Any, *, is_text: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    text = str(value)
    return f"'{text}" if is_text and text.startswith(FORMULA) else text
