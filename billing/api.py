"""Customers, subscriptions and plans over HTTP: translate, make one call, translate."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from ninja import Query, Router, Schema, Status
from ninja.security.base import AuthBase
from pydantic import AfterValidator, ConfigDict, Field

from billing.authentication import Caller, authenticate
from billing.customers import create_customer
from billing.enums import Scope
from billing.models import Customer, Plan, Price, Subscription
from billing.subscriptions import subscribe

READING = frozenset({"GET", "HEAD", "OPTIONS"})
PER_PAGE = 50
PER_PAGE_MOST = 100

router = Router(tags=["billing"])


class ApiKey(AuthBase):
    """The key of `authentication`, as bearer token: `read` to look, `manage` to change."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_description = "An API key, `mk_…`. Basic auth with the key as user works, too."

    def __call__(self, request: HttpRequest) -> Caller:
        return authenticate(
            request.headers.get("Authorization", ""),
            scope=Scope.READ if request.method in READING else Scope.MANAGE,
        )


def caller_of(request: HttpRequest) -> Caller:
    """Return who sent a request that `ApiKey` let in."""
    caller: Caller = request.auth  # type: ignore[attr-defined]  # set by the framework
    return caller


class NoSuch(Exception):
    """What the address or the body names is not there."""

    def __init__(self, kind: str, name: str, *, field: str = "") -> None:
        super().__init__(f"There is no {kind} {name!r}.")
        self.field = field


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


def storable(text: str) -> str:
    """Refuse what PostgreSQL takes for no text."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _email(text: str) -> str:
    try:
        if text:
            validate_email(text)
    except ValidationError as error:
        raise ValueError("is no email address") from error
    return text


class CustomerIn(Schema):
    model_config = ConfigDict(extra="forbid")

    external_id: Annotated[
        str,
        Field(min_length=1, max_length=200, description="Your own id; the `subject` of events."),
        AfterValidator(_printable),
    ]
    email: Annotated[str, Field(max_length=254), AfterValidator(_email)] = ""
    name: Annotated[str, Field(max_length=200), AfterValidator(_printable)] = ""


class CustomerOut(Schema):
    external_id: str
    email: str
    name: str
    stripe_customer_id: str | None = Field(
        description="Null until Stripe has answered; usage is taken and held until then."
    )
    created_at: datetime


class CustomersOut(Schema):
    data: list[CustomerOut]
    has_more: bool


class SubscriptionIn(Schema):
    model_config = ConfigDict(extra="forbid")

    plan: Annotated[
        str,
        Field(min_length=1, max_length=50, description="A plan's name."),
        AfterValidator(_printable),
    ]


class ItemOut(Schema):
    price: str = Field(description="The price's lookup key.")
    meter: str | None = Field(description="Null for a base fee.")
    current_period_start: datetime = Field(description="Included.")
    current_period_end: datetime = Field(description="Not included.")


class SubscriptionOut(Schema):
    plan: str
    status: str = Field(description="Stripe's word; `creating` until it has answered.")
    stripe_subscription_id: str | None
    cancel_at: datetime | None
    ended_at: datetime | None
    created_at: datetime
    items: list[ItemOut]


class SubscribedOut(SubscriptionOut):
    setup_client_secret: str | None = Field(
        description="Of the pending setup intent, to collect a card when nothing is due yet."
    )
    payment_client_secret: str | None = Field(
        description="Of the first invoice, to have it paid when a base fee is due now."
    )


class PriceOut(Schema):
    lookup_key: str
    name: str
    kind: str
    meter: str | None = Field(description="Null for a base fee.")
    currency: str
    interval: str
    rule: dict[str, Any] = Field(description="Stripe's price rule, in the currency's minor unit.")


class PlanOut(Schema):
    slug: str
    name: str
    active: bool = Field(description="Whether new subscriptions may use it.")
    prices: list[PriceOut]


@router.post(
    "/customers", response={201: CustomerOut, 200: CustomerOut}, summary="Create a customer"
)
def makecustomer_of(request: HttpRequest, body: CustomerIn) -> Status[Customer]:
    """Create a customer. Repeating it with the same data answers 200 and changes nothing."""
    caller_of(request).check_for(body.external_id)
    customer, created = create_customer(
        external_id=body.external_id, email=body.email, name=body.name
    )
    return Status(201 if created else 200, customer)


@router.get("/customers", response=CustomersOut, summary="List customers")
def list_customers(
    request: HttpRequest,
    limit: Annotated[int, Query(ge=1, le=PER_PAGE_MOST)] = PER_PAGE,
    after: Annotated[
        str, Query(description="External id of the last one seen."), AfterValidator(storable)
    ] = "",
) -> dict[str, Any]:
    """List customers by external id."""
    wanted = Customer.objects.filter(external_id__gt=after)
    only = caller_of(request).limits.customers
    if only is not None:
        wanted = wanted.filter(external_id__in=only)
    found = list(wanted[: limit + 1])
    return {"data": found[:limit], "has_more": len(found) > limit}


# An external id may hold slashes, so the longer addresses come first.
@router.post(
    "/customers/{path:external_id}/subscriptions",
    response={201: SubscribedOut, 200: SubscribedOut},
    summary="Put a customer on a plan",
)
def make_subscription(
    request: HttpRequest,
    external_id: str,
    body: SubscriptionIn,
) -> Status[SubscribedOut]:
    """Put a customer on a plan. Repeating it answers 200 with the subscription there is."""
    customer = customer_of(request, external_id)
    plan = Plan.objects.filter(slug=body.plan).first()
    if plan is None:
        raise NoSuch("plan", body.plan, field="plan")
    subscribed = subscribe(customer=customer, plan=plan)
    told = SubscribedOut(
        **_subscription(_with_items().get(pk=subscribed.subscription.pk)),
        setup_client_secret=subscribed.setup_secret or None,
        payment_client_secret=subscribed.payment_secret or None,
    )
    return Status(201 if subscribed.created else 200, told)


@router.get(
    "/customers/{path:external_id}/subscriptions",
    response=list[SubscriptionOut],
    summary="List a customer's subscriptions",
)
def list_subscriptions(
    request: HttpRequest,
    external_id: str,
) -> list[SubscriptionOut]:
    """List a customer's subscriptions, newest first, ended ones too."""
    subscriptions = _with_items().filter(customer=customer_of(request, external_id))
    return [SubscriptionOut(**_subscription(each)) for each in subscriptions]


@router.get("/customers/{path:external_id}", response=CustomerOut, summary="Show a customer")
def showcustomer_of(request: HttpRequest, external_id: str) -> Customer:
    """Show one customer."""
    return customer_of(request, external_id)


@router.get("/plans", response=list[PlanOut], summary="List plans")
def list_plans(request: HttpRequest) -> list[PlanOut]:  # noqa: ARG001
    """List the plans with the prices new subscriptions get."""
    offered = Price.objects.filter(active=True).select_related("meter")
    plans = Plan.objects.prefetch_related(Prefetch("prices", queryset=offered))
    return [
        PlanOut(
            slug=plan.slug,
            name=plan.name,
            active=plan.active,
            prices=[_price(price) for price in plan.prices.all()],
        )
        for plan in plans
    ]


def customer_of(request: HttpRequest, external_id: str) -> Customer:
    """Return the customer an address names.

    Raises:
        NotForCustomer: the key is not for it.
        NoSuch: it is not there.
    """
    caller_of(request).check_for(external_id)
    # PostgreSQL takes no NUL, so it is not even asked for one.
    customer = (
        Customer.objects.filter(external_id=external_id).first()
        if "\0" not in external_id
        else None
    )
    if customer is None:
        raise NoSuch("customer", external_id)
    return customer


def _with_items() -> QuerySet[Subscription]:
    return Subscription.objects.select_related("plan").prefetch_related("items__price__meter")


def _subscription(subscription: Subscription) -> dict[str, Any]:
    return {
        "plan": subscription.plan.slug,
        "status": subscription.status,
        "stripe_subscription_id": subscription.stripe_subscription_id,
        "cancel_at": subscription.cancel_at,
        "ended_at": subscription.ended_at,
        "created_at": subscription.created_at,
        "items": [
            ItemOut(
                price=item.price.lookup_key,
                meter=item.price.meter.slug if item.price.meter is not None else None,
                current_period_start=item.current_period_start,
                current_period_end=item.current_period_end,
            )
            for item in subscription.items.all()
        ],
    }


def _price(price: Price) -> PriceOut:
    return PriceOut(
        lookup_key=price.lookup_key,
        name=price.name,
        kind=price.kind,
        meter=price.meter.slug if price.meter is not None else None,
        currency=price.currency,
        interval=price.interval,
        rule=price.rule,
    )
