"""Taking a meter event in: the identifier's memory, and acceptance. `settling` does the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

from stripe_emulator.core.arrivals import EventVerdict
from stripe_emulator.core.collection import Object
from stripe_emulator.core.entries import Entry
from stripe_emulator.core.faults import Faults
from stripe_emulator.core.records import IdentifierRecord
from stripe_emulator.core.settling import identifier_key, settle
from stripe_emulator.core.usage_rules import Refused, Usable, customer_of, fingerprint, ruling
from stripe_emulator.core.violations import Violation
from stripe_emulator.core.world import World


@dataclass(frozen=True, slots=True)
class Offered:
    """One meter event as a client sent it."""

    event_name: str
    payload: Mapping[str, str]
    identifier: str
    timestamp: int | None
    livemode: bool

    def verdict(self, verdict: str, *, meter: Object | None = None) -> EventVerdict:
        """Return the line of the arrival log about this event, before anything is looked up."""
        value_key = meter["value_settings"]["event_payload_key"] if meter else "value"
        return EventVerdict(
            event_name=self.event_name,
            identifier=self.identifier,
            timestamp=self.timestamp,
            customer=customer_of(meter, self.payload),
            value=self.payload.get(value_key),
            verdict=verdict,
        )


def take(world: World, offered: Offered, faults: Faults) -> tuple[Usable, EventVerdict]:
    """Accept one event, or raise Refused with the verdict in its `verdict`.

    A known identifier is refused as a duplicate until its window is over; after that it acts anew,
    and that is also a violation. Rules come first, so a repeat can be refused for another reason
    than being one (inferred).
    """
    meter = world.meter_names.get((offered.event_name, offered.livemode))
    verdict = offered.verdict("", meter=meter)
    try:
        usable = ruling(
            world,
            livemode=offered.livemode,
            event_name=offered.event_name,
            payload=offered.payload,
            timestamp=offered.timestamp,
        )
        print_ = fingerprint(offered.event_name, offered.payload, offered.timestamp)
        _check_identifier(world, offered, print_)
    except Refused as refusal:
        duplicate = refusal.reason == "duplicate"
        verdict.verdict = "duplicate" if duplicate else f"refused:{refusal.reason}"
        if refusal.reason.startswith("timestamp_"):
            _violate(
                world,
                "timestamp_out_of_range",
                identifier=offered.identifier,
                timestamp=offered.timestamp,
            )
        raise Judged(refusal, verdict) from refusal
    verdict.verdict = "accepted"
    verdict.timestamp = usable.timestamp
    verdict.customer = usable.customer
    verdict.value = str(usable.value)
    late = faults.strikes("settle_late")
    _accept(world, offered, usable, print_, late_seconds=late.delay_seconds if late else 0.0)
    return usable, verdict


class Judged(Exception):
    """A refusal together with what the arrival log will say about it."""

    def __init__(self, refusal: Refused, verdict: EventVerdict) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.verdict = verdict


def _check_identifier(world: World, offered: Offered, print_: str) -> None:
    known = world.identifiers.get(identifier_key(offered.identifier, livemode=offered.livemode))
    if known is None:
        return
    if known.fingerprint != print_:
        _violate(world, "identifier_with_two_payloads", identifier=offered.identifier)
    if world.clock.now() - known.received_at < world.settings.identifier_window_seconds:
        raise Refused(
            "duplicate",
            f"An event already exists with identifier {offered.identifier}.",
            param="identifier",
        )
    _violate(
        world,
        "identifier_after_window",
        identifier=offered.identifier,
        first_received_at=known.received_at,
    )


def _accept(
    world: World, offered: Offered, usable: Usable, print_: str, *, late_seconds: float
) -> None:
    now = world.clock.now()
    entry = Entry(usable.timestamp, world.count("usage"), usable.value)
    world.identifiers.put(
        identifier_key(offered.identifier, livemode=offered.livemode),
        IdentifierRecord(
            received_at=now,
            fingerprint=print_,
            meter=usable.meter["id"],
            customer=usable.customer,
            value=str(usable.value),
            timestamp=usable.timestamp,
            sequence=entry.sequence,
        ),
    )
    lag = world.settings.settle_lag_seconds + late_seconds
    settle(world, usable.meter["id"], usable.customer, entry, 1, lag)


def _violate(world: World, kind: str, **detail: object) -> None:
    world.violations.add(Violation(kind, world.clock.now(), world.cause.arrival, detail))
