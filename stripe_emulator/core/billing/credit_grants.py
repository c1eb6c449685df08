"""Billing credits: granting, changing, expiring and voiding them.

What an invoice draws is decided in `credit_application`, what is left stands in `credit_ledger`.
Source: docs.stripe.com, usage-based billing, billing credits.
"""

from stripe_emulator.core import customers, events
from stripe_emulator.core.billing import credit_ledger
from stripe_emulator.core.billing.credit_grant_params import check_expiry, scope_of
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.settings import HOUR_SECONDS
from stripe_emulator.core.world import World

AGENDA_KIND = "credit_grant"
MAX_UNUSED = 100
"""Grants with something left that a customer can have."""
DEFAULT_PRIORITY = 50


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    customer = customers.named(call)
    scope = scope_of(call)
    now = world.now_for(customer)
    effective_at = given("effective_at", now)
    check_expiry(given("expires_at"), effective_at=effective_at, now=now)
    unused = [
        each
        for each in world.credit_grants
        if each["customer"] == customer["id"] and each["_left"] > 0 and not _is_over(each, now)
    ]
    if len(unused) >= MAX_UNUSED:
        raise invalid(
            f"A customer can have at most {MAX_UNUSED} unused credit grants.", param="customer"
        )
    monetary = given("amount")["monetary"]
    grant: Object = {
        "id": world.ids.new("credgr"),
        "object": "billing.credit_grant",
        "amount": {
            "monetary": {"currency": monetary["currency"].lower(), "value": monetary["value"]},
            "type": "monetary",
        },
        "applicability_config": {"scope": scope},
        "category": given("category", "paid"),
        "created": now,
        "customer": customer["id"],
        "customer_account": None,
        "effective_at": effective_at,
        "expires_at": given("expires_at"),
        "livemode": call.livemode,
        "metadata": merged({}, given("metadata", {})),
        "name": given("name"),
        "priority": given("priority", DEFAULT_PRIORITY),
        "test_clock": customer["test_clock"],
        "updated": now,
        "voided_at": None,
        "_left": 0,
    }
    world.credit_grants.add(grant)
    events.emit(world, "billing.credit_grant.created", grant)
    credit_ledger.credit(world, grant, monetary["value"], "credits_granted", at=now)
    _plan(world, grant)
    return grant


def retrieve(call: Call) -> Object:
    return call.world.credit_grants.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    customer = call.given("customer")
    return call.world.credit_grants.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: customer in {None, each["customer"]},
    )


def update(call: Call) -> Answer:
    grant = _open(call)
    now = call.world.second_for(grant)
    changed: Object = {}
    if "metadata" in call.params:
        changed["metadata"] = merged(grant["metadata"], call.params["metadata"])
    if "expires_at" in call.params:
        changed["expires_at"] = call.params["expires_at"]
        check_expiry(changed["expires_at"], effective_at=grant["effective_at"], now=now)
    _change(call.world, grant, changed, now)
    _plan(call.world, grant)
    return grant


def expire(call: Call) -> Answer:
    """End a grant at once; what is left of it is lost."""
    grant = _open(call)
    now = call.world.second_for(grant)
    _change(call.world, grant, {"expires_at": now}, now)
    _drop(call.world, grant, "credits_expired", now)
    return grant


def void(call: Call) -> Answer:
    """Take a grant back as if it had never been; not after an invoice drew on it.

    Not even when that invoice was voided since (inferred).
    """
    grant = _open(call)
    if credit_ledger.was_applied(call.world, grant):
        raise invalid("A credit grant that was applied to an invoice cannot be voided.")
    now = call.world.second_for(grant)
    _change(call.world, grant, {"voided_at": now}, now)
    _drop(call.world, grant, "credits_voided", now)
    return grant


def fall_due(world: World, grant_id: str, at: int) -> None:
    """Let a grant expire.

    Drafts of a period that ended before may still draw on it: what is left waits for them.
    """
    grant = world.credit_grants.find(grant_id)
    if grant is None or grant["voided_at"] is not None or not _is_over(grant, at):
        return
    waiting = any(
        invoice["status"] == "draft"
        and invoice["customer"] == grant["customer"]
        and invoice["period_end"] < grant["expires_at"]
        for invoice in world.invoices
    )
    if waiting:
        world.agenda_for(grant).add(at + HOUR_SECONDS, AGENDA_KIND, grant_id)
    else:
        _drop(world, grant, "credits_expired", at)


def _plan(world: World, grant: Object) -> None:
    if grant["expires_at"] is not None:
        world.agenda_for(grant).add(grant["expires_at"], AGENDA_KIND, grant["id"])


def _open(call: Call) -> Object:
    """Return a grant that is neither void nor over; another one is not changed any more."""
    grant = retrieve(call)
    if grant["voided_at"] is not None:
        raise invalid("This credit grant was voided.")
    if _is_over(grant, call.world.second_for(grant)):
        raise invalid("This credit grant has expired.")
    return grant


def _is_over(grant: Object, at: int) -> bool:
    return grant["expires_at"] is not None and grant["expires_at"] <= at


def _change(world: World, grant: Object, changed: Object, now: int) -> None:
    before = dict(grant)
    grant.update(changed)
    previous = events.changes(before, grant)
    if previous:
        previous["updated"] = before["updated"]
        grant["updated"] = now
        events.emit(world, "billing.credit_grant.updated", grant, previous=previous)


def _drop(world: World, grant: Object, kind: credit_ledger.Debit, at: int) -> None:
    if grant["_left"] > 0:
        credit_ledger.debit(world, grant, grant["_left"], kind, at=at)
