import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from billing import authentication
from billing.authentication import NotAuthenticated, authenticate
from billing.cases import open_case
from billing.customers import create_customer
from billing.enums import Arrival, CaseKind, Scope, WebhookState
from billing.models import (
    ApiKey,
    Case,
    Customer,
    Invoice,
    Meter,
    Plan,
    Source,
    Subscription,
    WebhookEvent,
    WebhookSweep,
)
from billing.subscriptions import subscribe
from billing_project import schedule
from tests.factories.billing import make_customer, make_webhook_event

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

LEDGERS = [Invoice, Meter, Plan, WebhookEvent, WebhookSweep, Source]
OURS = [Case, Customer, Subscription, ApiKey, *LEDGERS]


@pytest.fixture
def staff(client):
    user = get_user_model().objects.create_superuser("ada", "ada@us.test", "secret")
    client.force_login(user)
    return client


def fill(first, last):
    """Make rows of each of our tables, numbered from `first` up to `last`, not included."""
    now = timezone.now()
    plan = Plan.objects.get(slug="tokens-payg")
    for number in range(first, last):
        customer, _ = create_customer(external_id=f"customer-{number}")
        subscription = subscribe(customer=customer, plan=plan).subscription
        Invoice.objects.create(
            customer=customer,
            subscription=subscription,
            stripe_invoice_id=f"in_{number}",
            status="paid",
            currency="usd",
            total=2_000,
            created_at=now,
            mirrored_at=now,
        )
        make_webhook_event(f"evt_{number}")
        WebhookSweep.objects.create(
            live_mode=False, since=now, until=now, started_at=now, finished_at=now
        )
        authentication.issue(f"source-{number}", [Scope.READ])
        open_case(
            kind=CaseKind.HELD,
            reference=f"customer-{number}",
            reason="held " * 40,
            deadline_at=now + timedelta(hours=number - 1),
        )


def page(model, name="changelist", *arguments):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=arguments)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_pages_of_a_model_render(staff, catalogue, model):
    fill(0, 2)

    assert staff.get(page(model)).status_code == 200
    assert staff.get(page(model), {"q": "customer-1"}).status_code == 200
    change = staff.get(page(model, "change", model.objects.first().pk))
    assert change.status_code == 200
    add = staff.get(page(model, "add"))
    assert add.status_code == (200 if model in {Customer, Subscription, ApiKey} else 403)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_list_costs_the_same_for_many_rows(
    staff, catalogue, model, django_assert_num_queries, django_assert_max_num_queries
):
    fill(0, 1)
    staff.get(page(model))
    with django_assert_max_num_queries(12) as few:
        staff.get(page(model))

    fill(1, 8)

    with django_assert_num_queries(len(few.captured_queries)):
        staff.get(page(model))


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_filters_of_a_list_work(staff, catalogue, model):
    fill(0, 2)
    body = staff.get(page(model)).content.decode()
    links = {
        link.replace("&amp;", "&") for link in re.findall(r'href="(\?[^"]+)"', body) if "=" in link
    }

    for link in links:
        assert staff.get(page(model) + link).status_code == 200


@pytest.mark.parametrize("model", LEDGERS, ids=lambda model: model.__name__)
def test_ledger_is_not_added_to_changed_or_deleted(staff, catalogue, model):
    fill(0, 1)
    row = model.objects.first()
    before = list(model.objects.values())

    answers = [
        staff.post(page(model, "add"), {}),
        staff.post(page(model, "change", row.pk), {"status": "void"}),
        staff.post(page(model, "delete", row.pk), {"post": "yes"}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 3
    assert list(model.objects.values()) == before


@pytest.mark.parametrize("model", [Customer, Subscription, ApiKey], ids=lambda m: m.__name__)
def test_row_made_by_an_operation_is_not_changed_or_deleted(staff, catalogue, model):
    fill(0, 1)
    row = model.objects.first()

    assert staff.post(page(model, "change", row.pk), {}).status_code == 403
    assert staff.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403


def test_pages_of_the_schedule_and_staff_render(staff):
    schedule.seed()
    user = get_user_model().objects.get()
    job = PeriodicTask.objects.first()
    for name, arguments in [
        ("admin:index", []),
        ("admin:auth_user_changelist", []),
        ("admin:auth_user_add", []),
        ("admin:auth_user_change", [user.pk]),
        ("admin:auth_user_password_change", [user.pk]),
        ("admin:auth_group_changelist", []),
        ("admin:auth_group_add", []),
        ("admin:django_celery_beat_periodictask_changelist", []),
        ("admin:django_celery_beat_periodictask_add", []),
        ("admin:django_celery_beat_periodictask_change", [job.pk]),
        ("admin:django_celery_beat_intervalschedule_changelist", []),
        ("admin:django_celery_beat_crontabschedule_changelist", []),
        ("admin:django_celery_beat_clockedschedule_add", []),
        ("admin:django_celery_beat_solarschedule_add", []),
    ]:
        assert staff.get(reverse(name, args=arguments)).status_code == 200, name


def test_login_page_renders_and_strangers_see_nothing_else(client):
    assert client.get("/admin/login/").status_code == 200
    assert client.get(page(Customer)).status_code == 302


# --- customers and subscriptions ------------------------------------------------------------------


def test_customer_added_is_created_at_stripe(staff, emulator):
    answer = staff.post(
        page(Customer, "add"), {"external_id": "acme", "email": "a@acme.test", "name": "Acme"}
    )

    customer = Customer.objects.get()
    [theirs] = emulator.world.customers
    assert answer.status_code == 302
    assert customer.stripe_customer_id == theirs["id"]
    assert LogEntry.objects.get().object_id == str(customer.pk)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"external_id": ""}, "This field is required"),
        ({"external_id": "acme", "email": "nobody"}, "valid email"),
        ({"external_id": "known", "email": "b@acme.test"}, "already exists"),
    ],
)
def test_customer_form_tells_what_is_wrong(staff, emulator, data, told):
    make_customer("known")

    answer = staff.post(page(Customer, "add"), data)

    assert answer.status_code == 200
    assert told in answer.content.decode()
    assert Customer.objects.count() == 1


def test_customer_refused_by_stripe_is_told_at_the_form(staff, emulator, settings):
    settings.DEPLOYMENT = "longer than metadata may be" * 20

    answer = staff.post(page(Customer, "add"), {"external_id": "acme"})

    assert answer.status_code == 200
    assert "metadata" in answer.content.decode()
    assert Customer.objects.count() == 0


def test_customer_is_added_while_stripe_is_away(staff, emulator):
    emulator.faults.switch_on("503")

    answer = staff.post(page(Customer, "add"), {"external_id": "acme"}, follow=True)

    assert "Stripe has not answered yet" in answer.content.decode()
    assert Customer.objects.get().stripe_customer_id is None


def test_subscription_added_subscribes_at_stripe(staff, catalogue, emulator):
    customer, _ = create_customer(external_id="acme")
    plan = Plan.objects.get(slug="tokens-payg")

    staff.post(page(Subscription, "add"), {"customer": customer.pk, "plan": plan.pk})

    [theirs] = emulator.world.subscriptions
    assert Subscription.objects.get().stripe_subscription_id == theirs["id"]


def test_overlapping_plan_is_told_at_the_form(staff, catalogue):
    customer, _ = create_customer(external_id="acme")
    subscribe(customer=customer, plan=Plan.objects.get(slug="tokens-payg"))
    split = Plan.objects.get(slug="tokens-split")

    answer = staff.post(page(Subscription, "add"), {"customer": customer.pk, "plan": split.pk})

    assert "which bills" in answer.content.decode()
    assert Subscription.objects.count() == 1


# --- keys, webhooks, cases ------------------------------------------------------------------------


def test_key_added_is_shown_once_and_kept_nowhere(staff):
    added = staff.post(
        page(ApiKey, "add"),
        {"source_name": "gateway", "scopes": ["ingest", "read"]},
        follow=True,
    )

    [plain] = re.findall(r"mk_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", added.content.decode())
    assert authenticate(f"Bearer {plain}", scope=Scope.READ).source == "gateway"
    again = staff.get(page(ApiKey)).content.decode()
    assert plain not in again
    assert plain.rpartition("_")[2] not in repr(list(ApiKey.objects.values()))
    assert plain not in repr(list(LogEntry.objects.values()))


def test_key_is_issued_for_some_customers_with_limits(staff):
    staff.post(
        page(ApiKey, "add"),
        {
            "source_name": "gateway",
            "scopes": ["ingest"],
            "customers": "globex, acme",
            "events_per_minute": "600",
        },
    )

    key = ApiKey.objects.get()
    assert (key.customers, key.events_per_minute, key.units_per_minute) == (
        ["acme", "globex"],
        600,
        None,
    )


def test_key_without_scopes_is_not_issued(staff):
    answer = staff.post(page(ApiKey, "add"), {"source_name": "gateway"})

    assert "This field is required" in answer.content.decode()
    assert ApiKey.objects.count() == Source.objects.count() == 0


def test_keys_are_revoked_by_action_and_leave_an_audit_line(staff):
    row, plain = authentication.issue("gateway", [Scope.READ])

    staff.post(page(ApiKey), {"action": "revoke", "_selected_action": [row.pk]})

    with pytest.raises(NotAuthenticated):
        authenticate(f"Bearer {plain}", scope=Scope.READ)
    assert LogEntry.objects.get().change_message == "Revoked."


def test_failed_webhook_is_put_back_in_line(staff):
    event = make_webhook_event(
        state=WebhookState.FAILED, attempt_count=32, next_attempt_at=None, last_error="KeyError"
    )

    staff.post(page(WebhookEvent), {"action": "handle_again", "_selected_action": [event.pk]})

    event.refresh_from_db()
    assert (event.state, event.attempt_count) == (WebhookState.PENDING, 0)


def test_what_a_sweep_fetched_is_told_apart_and_found_from_its_case(staff, now):
    make_webhook_event("evt_arrived", type="invoice.paid")
    make_webhook_event("evt_fetched", type="invoice.voided", arrived_by=Arrival.SWEEP)
    case = open_case(
        kind=CaseKind.WEBHOOKS_MISSING, reference="events", reason="1 of 2", deadline_at=now
    )

    change = staff.get(page(Case, "change", case.pk)).content.decode()
    [link] = re.findall(r'href="([^"]+)"[^>]*>what was fetched', change)
    shown = staff.get(link).content.decode()

    assert "invoice.voided" in shown
    assert "invoice.paid" not in shown


def test_a_sweep_says_whether_stripe_answered(staff, now):
    started = {"live_mode": False, "since": now, "until": now, "started_at": now}
    WebhookSweep.objects.create(**started, finished_at=now)
    assert "finished" in staff.get(page(WebhookSweep)).content.decode()

    WebhookSweep.objects.create(**started, last_error="503")

    assert "not answered" in staff.get(page(WebhookSweep)).content.decode()


def test_case_is_taken_and_closed_with_a_resolution(staff, now):
    case = open_case(kind=CaseKind.HELD, reference="acme", reason="3 events", deadline_at=now)

    staff.post(page(Case), {"action": "take", "_selected_action": [case.pk]})
    case.refresh_from_db()
    assert case.owner.username == "ada"
    staff.post(
        page(Case, "change", case.pk), {"owner": case.owner_id, "resolution": "Customer created."}
    )

    case.refresh_from_db()
    assert case.closed_at is not None
    assert (case.resolution, case.owner.username) == ("Customer created.", "ada")
    assert staff.post(page(Case, "change", case.pk), {"resolution": ""}).status_code == 403


def test_case_list_shows_open_ones_unless_asked(staff, now):
    make = {"kind": CaseKind.HELD, "reason": "held", "deadline_at": now}
    open_case(reference="still-open", **make)
    closed = open_case(reference="long-closed", **make)
    Case.objects.filter(pk=closed.pk).update(closed_at=now)

    shown = staff.get(page(Case)).content.decode()
    all_of_them = staff.get(page(Case), {"state": "all"}).content.decode()

    assert ("still-open" in shown, "long-closed" in shown) == (True, False)
    assert ("still-open" in all_of_them, "long-closed" in all_of_them) == (True, True)


def test_plan_page_says_prices_in_words(staff, catalogue):
    shown = {
        slug: staff.get(page(Plan, "change", pk)).content.decode()
        for slug, pk in Plan.objects.values_list("slug", "pk")
    }

    assert "0.04 usd per 1,000, rounded up" in shown["tokens-payg"]
    assert "up to 500,000: 0 usd each" in shown["team"]
    assert "above: 0.00002 usd each" in shown["team"]
