from pathlib import Path

import pytest

from billing.catalogue import file
from billing.catalogue.file import CatalogueInvalid
from billing.catalogue.values import PriceDefinition
from billing.enums import PriceKind

pytestmark = pytest.mark.unit

METER = """
[meters.tokens]
display_name = "Tokens"
event_name = "acme_tokens"
event_type = "llm.call"
aggregation = "sum"
value_property = "total"
measures = ["input", "output"]
unit = "token"
"""
PLAN = """
[plans.p]
name = "P"
currency = "usd"
interval = "month"
"""


def plan_with(price, *, meter=METER, plan=PLAN):
    return f"{meter}{plan}[[plans.p.prices]]\nmeter = 'tokens'\nname = 'Tokens'\n{price}\n"


def rule_of(text):
    [plan] = file.parse(text).plans
    [price] = plan.prices
    return price.rule


def test_catalogue_of_the_repository_is_valid():
    catalogue = file.read(Path("catalogue.toml"))

    assert [meter.slug for meter in catalogue.meters] == [
        "ai_tokens",
        "input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "llm_calls",
    ]
    assert [plan.slug for plan in catalogue.plans] == ["tokens-payg", "tokens-split", "team"]
    assert catalogue.plans[0].prices == (
        PriceDefinition(
            plan="tokens-payg",
            name="AI tokens",
            kind=PriceKind.METERED,
            meter="ai_tokens",
            currency="usd",
            interval="month",
            rule={
                "unit_amount_decimal": "4",
                "transform_quantity": {"divide_by": 1000, "round": "up"},
            },
        ),
    )


def test_unit_amount_is_exact_and_in_the_minor_unit():
    assert rule_of(plan_with("unit_amount = 0.000003")) == {"unit_amount_decimal": "0.0003"}
    assert rule_of(plan_with("unit_amount = 12")) == {"unit_amount_decimal": "1200"}


@pytest.mark.parametrize(
    ("currency", "minor"), [("usd", "150"), ("jpy", "1.5"), ("kwd", "1500"), ("ugx", "150")]
)
def test_minor_unit_is_the_currencys(currency, minor):
    text = plan_with("unit_amount = 1.5", plan=PLAN.replace("usd", currency))

    assert rule_of(text) == {"unit_amount_decimal": minor}


def test_tiers_end_with_infinity():
    text = plan_with(
        "tiers_mode = 'graduated'\n"
        "tiers = [{ up_to = 1_000, unit_amount = 0.01, flat_amount = 5 }, { unit_amount = 0.005 }]"
    )

    assert rule_of(text) == {
        "tiers_mode": "graduated",
        "tiers": [
            {"up_to": 1000, "unit_amount_decimal": "1", "flat_amount_decimal": "500"},
            {"up_to": "inf", "unit_amount_decimal": "0.5", "flat_amount_decimal": "0"},
        ],
    }


def test_scale_turns_rules_into_the_smallest_unit():
    scaled = METER + "scale = 3\n"

    assert rule_of(plan_with("unit_amount = 2", meter=scaled)) == {"unit_amount_decimal": "0.2"}
    assert rule_of(plan_with("package = { size = 5, amount = 1 }", meter=scaled)) == {
        "unit_amount_decimal": "100",
        "transform_quantity": {"divide_by": 5000, "round": "up"},
    }
    tiers = rule_of(
        plan_with(
            "tiers_mode = 'volume'\ntiers = [{ up_to = 7, unit_amount = 1 }, {}]", meter=scaled
        )
    )["tiers"]
    assert [(tier["up_to"], tier["unit_amount_decimal"]) for tier in tiers] == [
        (7000, "0.1"),
        ("inf", "0"),
    ]


def test_base_fee_alone_makes_a_plan():
    [plan] = file.parse(PLAN + "base_fee = { amount = 20 }\n").plans

    assert [(price.slug, price.kind, price.rule) for price in plan.prices] == [
        ("p:base", PriceKind.BASE, {"unit_amount_decimal": "2000"})
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("meters = 3", "meters is not a table"),
        ("[a", "The catalogue is no TOML"),
        ("[metres.x]\n", "[metres] is not known"),
        ("[meters.'Big Name']\n", "[meters.Big Name] is no name"),
        (METER.replace("unit =", "units ="), "[meters.tokens] "),
        (METER.replace('"token"', "3"), "[meters.tokens] unit: Expected `str`, got `int`"),
        (METER.replace('"sum"', '"avg"'), "[meters.tokens] aggregation: Invalid enum value 'avg'"),
        (METER.replace('"total"', '""'), "value_property is needed with aggregation sum"),
        *(
            (
                METER.replace('"total"', '""').replace('"sum"', f'"{aggregation}"'),
                f"value_property is needed with aggregation {aggregation}",
            )
            for aggregation in ("max", "unique", "latest")
        ),
        (
            METER.replace('"sum"', '"unique"') + "scale = 2\n",
            "scale has no meaning with aggregation unique",
        ),
        (METER.replace('"sum"', '"count"'), "value_property has no meaning with aggregation count"),
        (METER.replace('["input", "output"]', "[]"), "[meters.tokens] measures must name"),
        (METER.replace('"output"', '"input"'), "[meters.tokens] measures must name"),
        (METER.replace('"acme_tokens"', '" "'), "[meters.tokens] event_name must have 1 to 100"),
        (METER + "scale = 13\n", "[meters.tokens] scale is 13"),
        (
            METER + METER.replace("[meters.tokens]", "[meters.other]"),
            "[meters.other] event_name acme_tokens is that of [meters.tokens]",
        ),
        (PLAN, "[plans.p] has neither prices nor a base_fee"),
        (PLAN.replace("usd", "dollars"), "[plans.p] currency is no currency"),
        (PLAN.replace("month", "fortnight"), "[plans.p] interval: Invalid enum value 'fortnight'"),
        (PLAN + "base_fee = { amount = nan }", "[plans.p] base_fee.amount must be at least 0"),
        (PLAN + "base_fee = { amount = -1 }", "[plans.p] base_fee.amount must be at least 0"),
        (PLAN + "base_fee = { amount = 1e400 }", "[plans.p] base_fee.amount must be at least 0"),
        (PLAN + "base_fee = { amount = true }", "[plans.p] base_fee.amount: Expected `decimal`"),
        (plan_with("", meter=""), "[plans.p] prices[0].meter: there is no [meters.tokens]"),
        (plan_with(""), "[plans.p] prices[0].meter: give exactly one of"),
        (
            plan_with("unit_amount = 1\npackage = { size = 1, amount = 1 }"),
            "[plans.p] prices[0].meter: give exactly one of",
        ),
        (plan_with("unit_amount = 0.000000000000001"), "[plans.p] prices[0].unit_amount has more"),
        (
            plan_with("package = { size = 0, amount = 1 }"),
            "prices[0].package.size must be at least",
        ),
        (plan_with("package = { size = 1, amount = 1, round = 'no' }"), "prices[0].package.round"),
        (plan_with("tiers = [{ up_to = 1 }, {}]"), "prices[0].tiers_mode: needed with tiers"),
        (plan_with("tiers_mode = 'volume'\ntiers = [{}]"), "prices[0].tiers needs at least two"),
        (plan_with("tiers_mode = 'volume'\ntiers = [{}, {}]"), "each but the last has an up_to"),
        (
            plan_with("tiers_mode = 'volume'\ntiers = [{ up_to = 5 }, { up_to = 5 }, {}]"),
            "prices[0].tiers: up_to must rise",
        ),
    ],
)
def test_mistake_is_told_with_its_table_and_key(text, mistake):
    with pytest.raises(CatalogueInvalid) as refusal:
        file.parse(text)

    assert any(mistake in each for each in refusal.value.mistakes), refusal.value.mistakes


def test_all_mistakes_are_told_at_once():
    with pytest.raises(CatalogueInvalid) as refusal:
        file.parse(METER.replace('"total"', '""') + PLAN)

    assert len(refusal.value.mistakes) == 2


def test_missing_file_is_told_by_its_path(tmp_path):
    with pytest.raises(CatalogueInvalid, match=r"nothing\.toml cannot be read"):
        file.read(tmp_path / "nothing.toml")


OTHER = METER.replace("[meters.tokens]", "[meters.output]").replace("acme_", "acme_o_")
SECOND_PRICE = "[[plans.p.prices]]\nmeter = 'output'\nname = 'Output'\nunit_amount = 1\n"


def test_plan_whose_meters_share_a_measure_is_refused_by_name():
    other = OTHER.replace('["input", "output"]', '["output"]')

    with pytest.raises(CatalogueInvalid) as refusal:
        file.parse(plan_with("unit_amount = 1", meter=METER + other) + SECOND_PRICE)

    [mistake] = refusal.value.mistakes
    assert mistake == (
        "[plans.p] would bill the same use twice: meters tokens and output both measure output"
        " of llm.call."
    )


@pytest.mark.parametrize(
    "other",
    [
        OTHER.replace('["input", "output"]', '["cached_input"]'),
        OTHER.replace('"llm.call"', '"image.made"'),
    ],
)
def test_plan_with_exclusive_meters_is_accepted(other):
    catalogue = file.parse(plan_with("unit_amount = 1", meter=METER + other) + SECOND_PRICE)

    assert len(catalogue.plans[0].prices) == 2
