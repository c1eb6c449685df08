"""The admin's first page: it shows what waits, and to nobody more than they may see."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils import timezone

from billing.cases import open_case
from billing.enums import CaseKind
from reconciliation.models import ReconciliationRun

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def cards(client) -> dict[str, tuple[str, bool]]:
    shown = client.get(reverse("admin:index")).context["cards"]
    return {card.title: (card.figure, card.is_calm) for card in shown}


def test_an_empty_system_is_calm(admin_client):
    assert cards(admin_client) == {
        "Open cases": ("0", True),
        "Open discrepancies": ("0", True),
        "Held usage": ("0", True),
        "On their way to Stripe": ("0", True),
        "Last comparison": ("none", True),
    }


def test_what_waits_for_a_person_stands_out(admin_client):
    now = timezone.now()
    open_case(kind=CaseKind.DISCREPANCY, reference="acme", reason="more", deadline_at=now)
    ReconciliationRun.objects.create(
        window_start=now, window_end=now, finished_at=now, discrepancy_count=1
    )

    shown = cards(admin_client)

    assert shown["Open cases"] == ("1", False)
    assert shown["Last comparison"] == ("differs", False)


def test_staff_see_the_figures_of_lists_they_may_open(client):
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="view_case"))
    client.force_login(clerk)

    assert list(cards(client)) == ["Open cases"]
