from datetime import timedelta
from decimal import Decimal

import pytest

from billing.cases import close_case, open_case
from billing.enums import CaseKind
from billing.models import Case

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def test_case_repeated_while_open_is_one_row_with_the_latest_reason(now):
    first = open_case(
        kind=CaseKind.HELD, reference="acme", reason="3 events", quantity=3, deadline_at=now
    )

    again = open_case(
        kind=CaseKind.HELD,
        reference="acme",
        reason="5 events",
        quantity=Decimal(5),
        deadline_at=now + timedelta(days=1),
    )

    assert again.pk == first.pk
    assert list(Case.objects.values_list("reason", "quantity", "deadline_at")) == [
        ("5 events", Decimal(5), now)
    ]


def test_case_of_another_kind_or_reference_is_another_row(now):
    open_case(kind=CaseKind.HELD, reference="acme", reason="held", deadline_at=now)
    open_case(kind=CaseKind.HELD, reference="globex", reason="held", deadline_at=now)
    open_case(kind=CaseKind.REJECTED, reference="acme", reason="refused", deadline_at=now)

    assert Case.objects.count() == 3


def test_case_closed_is_not_opened_again_but_followed_by_a_new_one(now):
    first = open_case(kind=CaseKind.HELD, reference="acme", reason="held", deadline_at=now)

    assert close_case(CaseKind.HELD, "acme", "customer created")
    assert not close_case(CaseKind.HELD, "acme", "again")
    second = open_case(kind=CaseKind.HELD, reference="acme", reason="held", deadline_at=now)

    first.refresh_from_db()
    assert first.resolution == "customer created"
    assert first.closed_at is not None
    assert second.pk != first.pk
    assert second.closed_at is None
