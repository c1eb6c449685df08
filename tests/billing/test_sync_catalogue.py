from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from django.core.management import CommandError

from billing.models import Meter, MeterVersion, Plan, Price
from billing.queries import value_rules

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEFAULT = Path("catalogue.toml").read_text()
PACKAGE = 'package = { size = 1000, amount = 0.04, round = "up" } # $0.04 per 1,000 tokens'
NOTHING = "Nothing to do: everything is as the catalogue says.\n"


@pytest.fixture
def sync(run, tmp_path):
    """Sync a catalogue given as text; return what the command printed."""

    def sync(text=DEFAULT, *options):
        path = tmp_path / "catalogue.toml"
        path.write_text(text)
        return run("sync_catalogue", "--file", str(path), *options).stdout

    return sync


def writes(emulator):
    return [arrival for arrival in emulator.arrivals if arrival.method == "POST"]


def at_stripe(emulator, kind):
    return list(getattr(emulator.world, kind))


def changed(old, new, text=DEFAULT):
    assert old in text
    return text.replace(old, new)


def test_dry_run_prints_the_plan_and_changes_nothing(sync, emulator):
    lines = sync(DEFAULT, "--dry-run").splitlines()

    assert "would create meter meterkeeper_ai_tokens at Stripe" in lines
    assert "would create price default:tokens-payg:ai_tokens at Stripe" in lines
    assert len(lines) == 5 * 3 + 3 + 6 * 2
    assert Meter.objects.count() == Plan.objects.count() == 0
    assert writes(emulator) == []


def test_sync_makes_meters_plans_and_prices_here_and_at_stripe(sync, emulator):
    sync()

    ids = {meter["event_name"]: meter["id"] for meter in at_stripe(emulator, "meters")}
    assert dict(Meter.objects.values_list("event_name", "stripe_meter_id")) == ids
    assert len(ids) == 5
    assert {meter["default_aggregation"]["formula"] for meter in at_stripe(emulator, "meters")} == {
        "sum"
    }
    prices = {price["id"]: price for price in at_stripe(emulator, "prices")}
    assert set(Price.objects.values_list("stripe_price_id", flat=True)) == set(prices)
    payg = Price.objects.get(plan__slug="tokens-payg")
    theirs = prices[payg.stripe_price_id]
    assert theirs["unit_amount"] == 4
    assert theirs["transform_quantity"] == {"divide_by": 1000, "round": "up"}
    assert theirs["recurring"]["meter"] == ids["meterkeeper_ai_tokens"]
    assert theirs["metadata"] == {"meterkeeper_deployment": "default"}
    assert Price.objects.filter(plan__slug="team", kind="base").count() == 1


def test_sync_twice_does_nothing(sync, emulator):
    sync()
    before = len(writes(emulator))

    assert sync() == NOTHING

    assert len(writes(emulator)) == before


def test_sync_finds_what_is_there_on_the_second_page(sync, emulator):
    sync()
    noise = emulator.world.meters
    template = at_stripe(emulator, "meters")[0]
    for number in range(150):
        noise.add(template | {"id": f"mtr_{number}", "event_name": f"noise_{number}"})

    assert sync() == NOTHING


@pytest.mark.parametrize("calls", range(0, 17, 3))
def test_sync_broken_off_anywhere_is_finished_by_the_next(sync, emulator, calls):
    emulator.faults.switch_on("answer_lost", method="POST", skip=calls, count=1)
    with pytest.raises(CommandError, match="Run the command again"):
        sync()

    sync()

    assert sync() == NOTHING
    assert len(at_stripe(emulator, "meters")) == 5
    assert len(at_stripe(emulator, "products")) == 6
    assert len(at_stripe(emulator, "prices")) == 6
    assert Price.objects.filter(active=True).count() == Price.objects.count() == 6
    assert set(MeterVersion.objects.values_list("effective_from", flat=True)) == {EPOCH}


def test_five_default_meters_read_from_the_epoch(sync, emulator):
    sync()

    assert (
        list(MeterVersion.objects.values_list("effective_from", "effective_until"))
        == [(EPOCH, None)] * 5
    )
    assert {rule.meter: rule.required for rule in value_rules()["llm.call"]} == {
        "ai_tokens": True,
        "cached_input_tokens": False,
        "input_tokens": True,
        "output_tokens": True,
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('value_property = "total_tokens"', 'value_property = "all_tokens"'),
        ('value_property = "total_tokens"', 'value_property = "total_tokens"\nrequired = false'),
        (
            'measures = ["input", "cached_input", "output"]',
            'measures = ["input", "cached_input", "output", "reasoning"]',
        ),
    ],
)
def test_changed_reading_holds_from_five_minutes_on(sync, emulator, now, old, new):
    sync()

    with time_machine.travel(now, tick=False):
        assert len(sync(changed(old, new)).splitlines()) == 1
    soon = now + timedelta(minutes=5)

    versions = MeterVersion.objects.filter(meter__slug="ai_tokens").order_by("effective_from")
    assert list(versions.values_list("effective_from", "effective_until")) == [
        (EPOCH, soon),
        (soon, None),
    ]
    assert (
        MeterVersion.objects.exclude(meter__slug="ai_tokens")
        .filter(effective_until=None, effective_from=EPOCH)
        .count()
        == 4
    )
    assert sync(changed(old, new)) == NOTHING


def test_meter_added_to_a_reported_type_reads_from_five_minutes_on(sync, emulator, now):
    sync()
    meter = (
        '[meters.reasoning_tokens]\ndisplay_name = "Reasoning"\nevent_name = "meterkeeper_r"\n'
        'event_type = "llm.call"\naggregation = "sum"\nvalue_property = "reasoning_tokens"\n'
        'required = false\nmeasures = ["reasoning"]\nunit = "token"\n'
    )

    with time_machine.travel(now, tick=False):
        sync(DEFAULT + meter)

    added = MeterVersion.objects.get(meter__slug="reasoning_tokens")
    assert (added.effective_from, added.effective_until) == (now + timedelta(minutes=5), None)


def test_meter_of_a_type_never_read_before_reads_from_the_epoch(sync, emulator):
    sync()
    meter = (
        '[meters.images]\ndisplay_name = "Images"\nevent_name = "meterkeeper_images"\n'
        'event_type = "image.made"\naggregation = "count"\nmeasures = ["images"]\nunit = "image"\n'
    )

    sync(DEFAULT + meter)

    assert MeterVersion.objects.get(meter__slug="images").effective_from == EPOCH
    assert value_rules()["image.made"] == ()


def test_rules_of_both_readings_are_told_while_late_usage_may_come(sync, emulator, now):
    sync()
    with time_machine.travel(now, tick=False):
        sync(changed('value_property = "output_tokens"', 'value_property = "out"'))

        until = [
            (rule.value_property, rule.effective_until is None)
            for rule in value_rules()["llm.call"]
            if rule.meter == "output_tokens"
        ]
    with time_machine.travel(now + timedelta(days=34), tick=False):
        late = [
            (rule.value_property, rule.effective_from, rule.effective_until)
            for rule in value_rules()["llm.call"]
            if rule.meter == "output_tokens"
        ]
    with time_machine.travel(now + timedelta(days=36), tick=False):
        after = [
            rule.value_property
            for rule in value_rules()["llm.call"]
            if rule.meter == "output_tokens"
        ]

    soon = now + timedelta(minutes=5)
    assert until == [("output_tokens", False), ("out", True)]
    assert late == [("output_tokens", EPOCH, soon), ("out", soon, None)]
    assert after == ["out"]


def test_type_nobody_reads_any_more_is_unknown_once_its_last_reading_is_over(sync, emulator, now):
    sync()

    with time_machine.travel(now, tick=False):
        sync(changed('"llm.call"', '"llm.request"'))
        assert sorted(value_rules()) == ["llm.call", "llm.request"]

    with time_machine.travel(now + timedelta(minutes=6), tick=False):
        assert sorted(value_rules()) == ["llm.request"]
    assert set(
        MeterVersion.objects.filter(event_type="llm.request").values_list(
            "effective_from", flat=True
        )
    ) == {EPOCH}


def test_changed_price_is_a_new_price_that_takes_the_lookup_key(sync, emulator):
    sync()
    before = Price.objects.get(plan__slug="tokens-payg")

    out = sync(changed(PACKAGE, PACKAGE.replace("0.04", "0.05")))

    assert out == (
        f"replace price {before.stripe_price_id} of default:tokens-payg:ai_tokens by a new one"
        " at Stripe\n"
    )
    before.refresh_from_db()
    after = Price.objects.get(plan__slug="tokens-payg", active=True)
    assert (before.active, after.active) == (False, True)
    assert after.lookup_key == before.lookup_key
    theirs = {price["id"]: price for price in at_stripe(emulator, "prices")}
    assert theirs[before.stripe_price_id]["lookup_key"] is None
    assert theirs[after.stripe_price_id]["lookup_key"] == "default:tokens-payg:ai_tokens"
    assert theirs[after.stripe_price_id]["unit_amount"] == 5
    assert theirs[after.stripe_price_id]["product"] == theirs[before.stripe_price_id]["product"]


def test_price_changed_there_and_back_the_same_day_is_a_third_price(sync, emulator):
    sync()
    sync(changed(PACKAGE, PACKAGE.replace("0.04", "0.05")))
    sync()

    assert sync() == NOTHING
    assert Price.objects.filter(plan__slug="tokens-payg").count() == 3
    assert Price.objects.get(plan__slug="tokens-payg", active=True).rule == {
        "unit_amount_decimal": "4",
        "transform_quantity": {"divide_by": 1000, "round": "up"},
    }


@pytest.mark.parametrize(
    "rule",
    [
        "unit_amount = 0.00004",
        "tiers_mode = 'volume'\ntiers = [{ up_to = 10, unit_amount = 1 }, { flat_amount = 2 }]",
        "tiers_mode = 'graduated'\ntiers = [{ up_to = 10, unit_amount = 1 }, { flat_amount = 2 }]",
        "package = { size = 10, amount = 0.0005, round = 'down' }",
    ],
)
def test_each_kind_of_price_is_recognized_at_stripe(sync, emulator, rule):
    text = changed(PACKAGE, rule)

    sync(text)

    assert sync(text) == NOTHING


def test_renamed_meter_and_price_are_renamed_at_stripe(sync, emulator):
    sync()
    text = changed('display_name = "AI tokens"', 'display_name = "All tokens"')
    text = changed('name = "Output tokens"\nunit_amount', 'name = "Output"\nunit_amount', text)

    sync(text)

    assert sync(text) == NOTHING
    names = {each["event_name"]: each["display_name"] for each in at_stripe(emulator, "meters")}
    assert names["meterkeeper_ai_tokens"] == "All tokens"
    assert "Output" in {each["name"] for each in at_stripe(emulator, "products")}


def test_plan_taken_out_is_no_longer_offered_and_comes_back(sync, emulator):
    sync()
    without = DEFAULT.partition("[plans.team]")[0]

    sync(without)

    assert sync(without) == NOTHING
    assert list(Plan.objects.filter(active=False).values_list("slug", flat=True)) == ["team"]
    assert not Price.objects.filter(plan__slug="team", active=True).exists()

    sync()

    assert Plan.objects.get(slug="team").active
    assert Price.objects.filter(plan__slug="team").count() == 2
    assert sync() == NOTHING


def test_meter_taken_out_goes_on_and_is_noted(run, sync, emulator, tmp_path):
    sync()
    path = tmp_path / "catalogue.toml"
    start = DEFAULT.index("[meters.llm_calls]")
    path.write_text(DEFAULT[:start] + DEFAULT[DEFAULT.index("# --- Plans") :])

    told = run("sync_catalogue", "--file", str(path))

    assert told.stdout == NOTHING
    assert told.stderr == "note: meter llm_calls is not in the file and goes on as it is\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "meterkeeper_llm_calls",
            "meterkeeper_calls",
            "[meters.llm_calls] event_name cannot change from meterkeeper_llm_calls",
        ),
        (
            'aggregation = "count"',
            'aggregation = "sum"\nvalue_property = "calls"',
            "[meters.llm_calls] aggregation cannot change from count to sum",
        ),
        ('unit = "call"', 'unit = "call"\nscale = 0', None),
        (
            'value_property = "output_tokens"',
            'value_property = "output_tokens"\nscale = 2',
            "[meters.output_tokens] scale cannot change from 0 to 2",
        ),
        ("[meters.llm_calls]", "[meters.calls]", "[meters.calls] event_name"),
    ],
)
def test_impossible_change_is_refused_and_nothing_changes(sync, emulator, old, new, reason):
    sync()
    before = len(writes(emulator)), list(MeterVersion.objects.values())

    if reason is None:
        assert sync(changed(old, new)) == NOTHING
        return
    with pytest.raises(CommandError) as refusal:
        sync(changed(old, new))

    assert reason in str(refusal.value)
    assert (len(writes(emulator)), list(MeterVersion.objects.values())) == before


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ({"default_aggregation": {"formula": "count"}}, "has the formula count and not sum"),
        ({"default_aggregation": {"formula": "last"}}, "has the formula last and not sum"),
        ({"event_time_window": "day"}, "keeps only the last event of each day"),
        ({"status": "inactive"}, "is inactive"),
        (
            {"customer_mapping": {"type": "by_id", "event_payload_key": "who"}},
            "reads the payload keys who and value",
        ),
        ({"value_settings": {"event_payload_key": "n"}}, "reads the payload keys stripe_customer_"),
    ],
)
def test_unusable_meter_under_our_event_name_is_refused(sync, emulator, theirs, reason):
    sync()
    Meter.objects.filter(slug="llm_calls").update(stripe_meter_id=None)
    [meter] = [
        each
        for each in at_stripe(emulator, "meters")
        if each["event_name"] == "meterkeeper_llm_calls"
    ]
    meter |= theirs
    before = len(writes(emulator))

    with pytest.raises(CommandError) as refusal:
        sync()

    assert reason in str(refusal.value)
    assert "meterkeeper_llm_calls" in str(refusal.value)
    assert len(writes(emulator)) == before


def test_another_stripe_account_behind_the_same_tables_is_refused(sync, emulator):
    sync()
    emulator.reset()

    with pytest.raises(CommandError, match="Is this another Stripe account"):
        sync()

    assert at_stripe(emulator, "meters") == []


def test_price_of_another_deployment_is_left_alone(sync, emulator):
    sync()
    [price] = [
        each
        for each in at_stripe(emulator, "prices")
        if each["lookup_key"] == "default:tokens-payg:ai_tokens"
    ]
    price["metadata"] = {"meterkeeper_deployment": "staging"}

    with pytest.raises(CommandError, match="this deployment has not made"):
        sync()


def test_two_deployments_share_meters_and_keep_prices_apart(sync, emulator, settings):
    sync()
    Price.objects.all().delete()
    settings.DEPLOYMENT = "second"

    sync()

    assert sync() == NOTHING
    assert len(at_stripe(emulator, "meters")) == 5
    assert len(at_stripe(emulator, "prices")) == 12


def test_invalid_catalogue_is_told_before_stripe_is_asked(sync, emulator):
    with pytest.raises(CommandError, match="no TOML"):
        sync("[")

    assert len(list(emulator.arrivals)) == 0


RUNNING = """
[meters.seats]
display_name = "Seats"
event_name = "meterkeeper_seats"
event_type = "seats.used"
aggregation = "AGGREGATION"
value_property = "seats"
measures = ["seats"]
unit = "seat"
"""


@pytest.mark.parametrize("aggregation", ["max", "unique", "latest"])
def test_a_meter_of_running_values_keeps_the_last_at_stripe(sync, emulator, aggregation):
    """F29: a `sum` meter would bill the running values added up."""
    sync(DEFAULT + RUNNING.replace("AGGREGATION", aggregation))

    formulas = {
        meter["event_name"]: meter["default_aggregation"]["formula"]
        for meter in at_stripe(emulator, "meters")
    }
    assert formulas.pop("meterkeeper_seats") == "last"
    assert set(formulas.values()) == {"sum"}
    [rule] = value_rules()["seats.used"]
    assert (rule.value_property, rule.is_name) == ("seats", aggregation == "unique")
    assert sync(DEFAULT + RUNNING.replace("AGGREGATION", aggregation)) == NOTHING


@pytest.mark.parametrize("formula", ["sum", "count"])
def test_a_meter_that_adds_up_running_values_is_refused(sync, emulator, formula):
    text = DEFAULT + RUNNING.replace("AGGREGATION", "max")
    sync(text)
    Meter.objects.filter(slug="seats").update(stripe_meter_id=None)
    [meter] = [
        each for each in at_stripe(emulator, "meters") if each["event_name"] == "meterkeeper_seats"
    ]
    meter["default_aggregation"]["formula"] = formula

    with pytest.raises(CommandError, match=f"has the formula {formula} and not last"):
        sync(text)

    assert Meter.objects.get(slug="seats").stripe_meter_id is None
