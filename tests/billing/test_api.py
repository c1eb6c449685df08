import base64
import json

import pytest
from django.db import OperationalError, connection

from billing import authentication
from billing.customers import create_customer
from billing.enums import Scope
from billing.models import Customer, Plan, Subscription
from billing.subscriptions import subscribe
from tests.factories.billing import make_customer

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

CUSTOMERS = "/api/v1/customers"


@pytest.fixture
def keys():
    return {scope: authentication.issue("console", [scope])[1] for scope in Scope}


@pytest.fixture
def api(client, keys):
    """Call the API with the key its method needs; return the answer."""

    def api(method, path, body=None, *, scope=None, raw=None):
        scope = scope or (Scope.READ if method == "GET" else Scope.MANAGE)
        return client.generic(
            method,
            path,
            raw if raw is not None else (json.dumps(body) if body is not None else ""),
            content_type="application/json",
            HTTP_AUTHORIZATION=f"Bearer {keys[scope]}",
        )

    return api


def problem_of(answer, status):
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    return body


# --- keys for some customers ----------------------------------------------------------------------


def test_key_for_one_customer_sees_and_changes_no_other(client, emulator):
    for name in ("acme", "globex"):
        make_customer(name)
    limits = authentication.Limits(customers=frozenset({"acme"}))
    _, key = authentication.issue("portal", [Scope.READ, Scope.MANAGE], limits=limits)

    def ask(method, path, body=""):
        return client.generic(
            method,
            f"{CUSTOMERS}{path}",
            body and json.dumps(body),
            content_type="application/json",
            HTTP_AUTHORIZATION=f"Bearer {key}",
        )

    assert [each["external_id"] for each in ask("GET", "").json()["data"]] == ["acme"]
    assert ask("GET", "/acme").status_code == 200
    for refused in (
        ask("GET", "/globex"),
        ask("GET", "/globex/subscriptions"),
        ask("GET", "/nobody"),
        ask("POST", "/globex/subscriptions", {"plan": "tokens-payg"}),
        ask("POST", "", {"external_id": "initech"}),
    ):
        assert "not for customer" in problem_of(refused, 403)["detail"]
    assert Customer.objects.count() == 2


# --- customers ------------------------------------------------------------------------------------


def test_customer_is_created_then_repeated_then_contradicted(api, emulator):
    body = {"external_id": "acme", "email": "a@acme.test", "name": "Acme"}

    made, again = api("POST", CUSTOMERS, body), api("POST", CUSTOMERS, body)
    other = api("POST", CUSTOMERS, body | {"name": "Other"})

    customer = Customer.objects.get()
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert made.json() == body | {
        "stripe_customer_id": customer.stripe_customer_id,
        "created_at": made.json()["created_at"],
    }
    assert customer.stripe_customer_id.startswith("cus_")
    assert "acme" in problem_of(other, 409)["detail"]
    assert len(emulator.world.customers) == 1


def test_customer_is_taken_while_stripe_is_away(api, emulator):
    emulator.faults.switch_on("503")

    answer = api("POST", CUSTOMERS, {"external_id": "acme"})

    assert (answer.status_code, answer.json()["stripe_customer_id"]) == (201, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "external_id"),
        ({"external_id": ""}, "external_id"),
        ({"external_id": "a" * 201}, "external_id"),
        ({"external_id": 7}, "external_id"),
        ({"external_id": None}, "external_id"),
        ({"external_id": "a\u0000b"}, "external_id"),
        ({"external_id": "a", "email": "nobody"}, "email"),
        ({"external_id": "a", "email": True}, "email"),
        ({"external_id": "a", "name": "n" * 201}, "name"),
        ({"external_id": "a", "name": "a\nb"}, "name"),
        ({"external_id": "a", "stripe_customer_id": "cus_1"}, "stripe_customer_id"),
        ({"external_id": "a", "created_at": "2020-01-01T00:00:00Z"}, "created_at"),
    ],
)
def test_invalid_customer_is_refused_by_field(api, emulator, body, field):
    found = problem_of(api("POST", CUSTOMERS, body), 422)

    assert [each["field"] for each in found["errors"]] == [field]
    assert found["detail"].startswith(f"{field}: ")
    assert Customer.objects.count() == 0
    assert len(list(emulator.arrivals)) == 0


@pytest.mark.parametrize("raw", ["", "{", "[]", "7", '{"external_id": NaN}', b"\xff"])
def test_body_that_is_no_object_is_refused(api, emulator, raw):
    answer = api("POST", CUSTOMERS, raw=raw)

    assert answer.status_code in {400, 422}
    problem_of(answer, answer.status_code)
    assert Customer.objects.count() == 0


def test_customers_are_listed_by_page(api):
    for number in range(5):
        make_customer(f"c-{number}")

    first = api("GET", f"{CUSTOMERS}?limit=2").json()
    rest = api("GET", f"{CUSTOMERS}?limit=100&after=c-1").json()

    assert ([each["external_id"] for each in first["data"]], first["has_more"]) == (
        ["c-0", "c-1"],
        True,
    )
    assert ([each["external_id"] for each in rest["data"]], rest["has_more"]) == (
        ["c-2", "c-3", "c-4"],
        False,
    )


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=all"])
def test_page_size_is_bounded(api, query):
    found = problem_of(api("GET", f"{CUSTOMERS}?{query}"), 422)

    assert found["errors"][0]["field"] == "limit"


@pytest.mark.parametrize("external_id", ["acme", "team/42", "ä b", "a?b"])
def test_customer_is_shown_by_any_external_id(api, external_id):
    make_customer(external_id)

    from urllib.parse import quote  # noqa: PLC0415

    answer = api("GET", f"{CUSTOMERS}/{quote(external_id)}")

    assert answer.json()["external_id"] == external_id


def test_names_that_cannot_be_stored_are_answered_too(api):
    assert problem_of(api("GET", f"{CUSTOMERS}?after=%00"), 422)
    assert problem_of(api("GET", f"{CUSTOMERS}/a%00b"), 404)
    assert problem_of(api("GET", f"{CUSTOMERS}/a%00b/subscriptions"), 404)
    make_customer("acme")
    assert problem_of(api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "\0"}), 422)


def test_a_database_that_does_not_answer_is_no_error_of_the_caller(api):
    def unreachable(execute, sql, *rest):
        if "billing_plan" in sql:
            raise OperationalError("the connection is gone")
        return execute(sql, *rest)

    with connection.execute_wrapper(unreachable):
        answer = api("GET", "/api/v1/plans")

    assert problem_of(answer, 503)["title"] == "Not available"
    assert answer["Retry-After"] == "5"


def test_unknown_customer_is_not_found(api):
    assert "nobody" in problem_of(api("GET", f"{CUSTOMERS}/nobody"), 404)["detail"]
    assert problem_of(api("GET", f"{CUSTOMERS}/nobody/subscriptions"), 404)
    assert problem_of(api("POST", f"{CUSTOMERS}/nobody/subscriptions", {"plan": "p"}), 404)


# --- subscriptions and plans ----------------------------------------------------------------------


def test_subscription_tells_its_periods_and_the_secret(api, catalogue, emulator):
    create_customer(external_id="acme")

    made = api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "tokens-payg"})
    again = api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "tokens-payg"})
    listed = api("GET", f"{CUSTOMERS}/acme/subscriptions").json()

    [theirs] = emulator.world.subscriptions
    [intent] = emulator.world.setup_intents
    told = made.json()
    assert (made.status_code, again.status_code, again.json()) == (201, 200, told)
    assert (told["plan"], told["status"]) == ("tokens-payg", "active")
    assert told["stripe_subscription_id"] == theirs["id"]
    assert told["setup_client_secret"] == intent["client_secret"]
    assert told["payment_client_secret"] is None
    [item] = told["items"]
    assert (item["meter"], item["price"]) == ("ai_tokens", "default:tokens-payg:ai_tokens")
    assert item["current_period_start"].endswith("Z")
    [entry] = listed
    assert entry == {key: told[key] for key in entry}
    assert "setup_client_secret" not in entry


def test_base_fee_tells_the_payment_secret(api, catalogue):
    create_customer(external_id="acme")

    told = api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "team"}).json()

    assert told["status"] == "incomplete"
    assert told["payment_client_secret"]
    assert [item["meter"] for item in told["items"]] == [None, "ai_tokens"]


def test_unknown_and_overlapping_plans_are_refused(api, catalogue):
    create_customer(external_id="acme")
    api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "tokens-payg"})

    unknown = api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "nothing"})
    overlapping = api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "tokens-split"})

    assert problem_of(unknown, 422)["errors"][0]["field"] == "plan"
    assert "bills" in problem_of(overlapping, 409)["detail"]
    assert Subscription.objects.count() == 1


def test_subscription_without_an_answer_asks_to_be_repeated(api, catalogue, emulator):
    create_customer(external_id="acme")
    emulator.faults.switch_on("answer_lost", path="/v1/subscriptions", method="POST", count=1)

    answer = api("POST", f"{CUSTOMERS}/acme/subscriptions", {"plan": "tokens-payg"})

    assert "being created" in problem_of(answer, 503)["detail"]
    assert answer["Retry-After"]


def test_plans_are_listed_with_their_prices(api, catalogue, django_assert_num_queries):
    with django_assert_num_queries(3):
        plans = api("GET", "/api/v1/plans").json()

    assert {plan["slug"]: len(plan["prices"]) for plan in plans} == {
        "team": 2,
        "tokens-payg": 1,
        "tokens-split": 3,
    }
    [payg] = [plan for plan in plans if plan["slug"] == "tokens-payg"]
    assert payg["prices"] == [
        {
            "lookup_key": "default:tokens-payg:ai_tokens",
            "name": "AI tokens",
            "kind": "metered",
            "meter": "ai_tokens",
            "currency": "usd",
            "interval": "month",
            "rule": {
                "unit_amount_decimal": "4",
                "transform_quantity": {"divide_by": 1000, "round": "up"},
            },
        }
    ]


def test_listing_subscriptions_costs_the_same_for_many(api, catalogue, django_assert_num_queries):
    customer, _ = create_customer(external_id="acme")
    subscribe(customer=customer, plan=Plan.objects.get(slug="tokens-split"))

    with django_assert_num_queries(6):
        api("GET", f"{CUSTOMERS}/acme/subscriptions")


# --- who may --------------------------------------------------------------------------------------


ROUTES = [
    ("GET", CUSTOMERS, Scope.READ),
    ("POST", CUSTOMERS, Scope.MANAGE),
    ("GET", f"{CUSTOMERS}/acme", Scope.READ),
    ("GET", f"{CUSTOMERS}/acme/subscriptions", Scope.READ),
    ("POST", f"{CUSTOMERS}/acme/subscriptions", Scope.MANAGE),
    ("GET", "/api/v1/plans", Scope.READ),
    ("GET", "/api/v1/events/e-1", Scope.READ),
    ("GET", "/api/v1/submissions", Scope.READ),
    ("GET", "/api/v1/submissions/one", Scope.READ),
    ("POST", "/api/v1/submissions/one/cancel", Scope.MANAGE),
    ("GET", "/api/v1/held-usage", Scope.READ),
    ("GET", "/api/v1/books?customer=acme", Scope.READ),
    ("POST", "/api/v1/voids", Scope.MANAGE),
    ("POST", "/api/v1/backfills", Scope.MANAGE),
    ("GET", "/api/v1/reconciliation-runs", Scope.READ),
    ("GET", "/api/v1/discrepancies", Scope.READ),
]


@pytest.mark.parametrize(("method", "path", "needed"), ROUTES)
@pytest.mark.parametrize("scope", list(Scope))
def test_each_route_takes_exactly_its_scope(api, method, path, needed, scope):
    make_customer("acme")

    answer = api(method, path, scope=scope)

    if scope is needed:
        assert answer.status_code not in {401, 403}
    else:
        assert f"`{needed.value}`" in problem_of(answer, 403)["detail"]


@pytest.mark.parametrize(("method", "path", "needed"), ROUTES)
@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic ???"])
def test_each_route_refuses_without_a_key(client, method, path, needed, header):
    headers = {"HTTP_AUTHORIZATION": header} if header else {}

    answer = client.generic(method, path, **headers)

    problem_of(answer, 401)
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_key_works_as_the_user_of_basic_auth(client, keys):
    credentials = base64.b64encode(f"{keys[Scope.READ]}:".encode()).decode()

    answer = client.get("/api/v1/plans", HTTP_AUTHORIZATION=f"Basic {credentials}")

    assert (answer.status_code, answer.json()) == (200, [])


# --- around it ------------------------------------------------------------------------------------


def test_description_holds_every_route_and_usages_own(client):
    description = client.get("/api/openapi.json").json()

    assert description["info"]["title"] == "Meterkeeper"
    assert sorted(description["paths"]) == [
        "/api/v1/backfills",
        "/api/v1/books",
        "/api/v1/customers",
        "/api/v1/customers/{external_id}",
        "/api/v1/customers/{external_id}/cost-to-date",
        "/api/v1/customers/{external_id}/subscriptions",
        "/api/v1/discrepancies",
        "/api/v1/events",
        "/api/v1/events/{event_id}",
        "/api/v1/held-usage",
        "/api/v1/plans",
        "/api/v1/reconciliation-runs",
        "/api/v1/submissions",
        "/api/v1/submissions/{identifier}",
        "/api/v1/submissions/{identifier}/cancel",
        "/api/v1/usage",
        "/api/v1/usage/top-customers",
        "/api/v1/voids",
    ]
    schemes = description["components"]["securitySchemes"]
    assert list(schemes) == ["ApiKey"]
    for path in description["paths"].values():
        for operation in path.values():
            assert operation["security"] == [{"ApiKey": []}]


def test_description_announces_the_problems_of_each_operation(client):
    paths = client.get("/api/openapi.json").json()["paths"]

    def announced(path, method):
        return sorted(paths[path][method]["responses"])

    assert announced("/api/v1/plans", "get") == ["200", "401", "403", "503"]
    assert announced("/api/v1/customers", "get") == ["200", "401", "403", "422", "503"]
    assert announced("/api/v1/customers", "post") == [
        *("200", "201", "400", "401", "403", "409", "413", "422", "503")
    ]
    assert announced("/api/v1/customers/{external_id}", "get") == [
        *("200", "401", "403", "404", "422", "503")
    ]
    problem = paths["/api/v1/plans"]["get"]["responses"]["401"]["content"]
    assert list(problem) == ["application/problem+json"]


def test_documentation_is_served_from_here_alone(client):
    page = client.get("/api/docs")

    assert page.status_code == 200
    assert "https://" not in page.content.decode().replace("https://swagger.io", "")


def test_unknown_address_below_the_api_is_a_problem(client):
    problem_of(client.get("/api/v1/nothing"), 404)
    problem_of(client.post("/api/v1/customers/"), 404)


@pytest.mark.parametrize("path", [CUSTOMERS, "/webhooks/stripe"])
def test_a_body_too_large_to_be_read_is_a_problem(api, path):
    problem_of(api("POST", path, raw="x" * 3_000_000), 413)


def test_a_host_that_is_not_ours_is_a_problem(client):
    problem_of(client.get(CUSTOMERS, headers={"Host": "elsewhere.example"}), 400)


def test_root_leads_to_the_admin(client):
    answer = client.get("/")

    assert (answer.status_code, answer["Location"]) == (302, "/admin/")


def test_health_is_the_databases(client, django_db_blocker):
    assert client.get("/healthz").json() == {"status": "ok", "database": "ok"}


def test_health_is_503_without_a_database(client, settings, monkeypatch):
    from django.db import OperationalError, connection  # noqa: PLC0415

    def unreachable():
        raise OperationalError("gone")

    monkeypatch.setattr(connection, "cursor", unreachable)

    answer = client.get("/healthz")

    assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")
