"""GET /api/v1/reconciliation-runs and /discrepancies."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing.authentication import Limits, issue
from billing.enums import Scope
from reconciliation.models import Discrepancy, ReconciliationRun
from tests.factories.billing import make_customer
from tests.factories.usage import make_meter

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def key_of(**limits) -> str:
    return issue("console", [Scope.READ], limits=Limits(**limits))[1]


@pytest.fixture
def get(client):
    def get(path, query=None, *, key=None, status=200):
        answer = client.get(
            f"/api/v1/{path}", query or {}, headers={"Authorization": f"Bearer {key or key_of()}"}
        )
        assert answer.status_code == status, answer.content
        return answer.json()

    return get


@pytest.fixture
def runs(db, now) -> list[ReconciliationRun]:
    kinds = (
        {"finished_at": now, "cell_count": 4, "equal_count": 3, "discrepancy_count": 1},
        {"finished_at": now, "cell_count": 2, "equal_count": 1, "waiting_count": 1},
        {"cell_count": 1, "equal_count": 1},
    )
    return [
        ReconciliationRun.objects.create(
            window_start=now - DAY, window_end=now, started_at=now, **fields
        )
        for fields in kinds
    ]


def test_runs_are_listed_newest_first_in_words(get, runs):
    page = get("reconciliation-runs", {"limit": 2})
    last = get("reconciliation-runs", {"limit": 2, "cursor": page["next_cursor"]})

    told = [(row["id"], row["meaning"]) for row in page["data"] + last["data"]]
    assert told == [
        (runs[2].pk, "Under way, or interrupted. So far 1 cells compared: 1 equal."),
        (runs[1].pk, "2 cells compared: 1 equal, none different, 1 not due yet."),
        (
            runs[0].pk,
            "4 cells compared: 3 equal, 1 different; 0 customers and meters could not be compared.",
        ),
    ]
    assert last["next_cursor"] is None


def test_discrepancies_are_listed_with_both_figures(get, runs, now):
    meter = make_meter(scale=2)
    hour = now.replace(minute=0, second=0)
    for name, resolved_at in (("acme", None), ("globex", now)):
        Discrepancy.objects.create(
            run=runs[0],
            customer=make_customer(name),
            meter=meter,
            window_start=hour,
            ours=100,
            stripe="90.5",
            reason="missing",
            found_at=now,
            resolved_at=resolved_at,
        )

    [resolved, standing] = get("discrepancies")["data"]

    assert standing == {
        "customer": "acme",
        "meter": "input_tokens",
        "unit": "0.01 token",
        "hour": "2026-11-20T12:00:00Z",
        "ours": "100",
        "stripe": "90.5",
        "difference": "-9.5",
        "reason": "missing",
        "meaning": standing["meaning"],
        "run": runs[0].pk,
        "found_at": "2026-11-20T12:30:15Z",
        "resolved_at": None,
    }
    assert standing["meaning"].startswith("Stripe's total of the hour is not ours: ")
    assert resolved["meaning"] == "A later run found both totals equal."

    def customers(**query):
        return [row["customer"] for row in get("discrepancies", query)["data"]]

    assert customers(resolved="false") == ["acme"]
    assert customers(resolved="true") == ["globex"]
    assert customers(customer="globex", meter="input_tokens") == ["globex"]
    get("discrepancies", {"meter": "none"}, status=422)
    page = get("discrepancies", {"limit": 1})
    following = get("discrepancies", {"limit": 1, "cursor": page["next_cursor"]})
    assert [row["customer"] for row in following["data"]] == ["acme"]
    # A cursor of another list is none of this one.
    runs_page = get("reconciliation-runs", {"limit": 1})
    get("discrepancies", {"cursor": runs_page["next_cursor"]}, status=422)


def test_a_limited_key_sees_its_own_discrepancies_and_no_runs(get, runs, now):
    meter = make_meter()
    for name in ("acme", "globex"):
        Discrepancy.objects.create(
            run=runs[0],
            customer=make_customer(name),
            meter=meter,
            window_start=now,
            ours=1,
            stripe=2,
            reason="excess",
        )
    key = key_of(customers=frozenset({"acme"}))

    assert [row["customer"] for row in get("discrepancies", key=key)["data"]] == ["acme"]
    get("discrepancies", {"customer": "globex"}, key=key, status=403)
    assert get("reconciliation-runs", key=key, status=403)["title"] == "Not allowed"
