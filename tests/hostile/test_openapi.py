"""Every operation of the API as it describes itself: no failure, and no answer it did not announce."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.authentication import issue
from billing.customers import create_customer
from billing.enums import Scope
from tests.factories.billing import make_plan
from tests.hostile import shop
from tests.hostile.callers import connection_kept

schemathesis = pytest.importorskip("schemathesis")

pytestmark = pytest.mark.integration

EXAMPLES = 40
"""Per operation, and as many with a customer that is there."""

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


@pytest.fixture
def description(db, emulator):
    from billing_project.wsgi import application  # noqa: PLC0415 - reads the environment's settings

    shop.make_catalogue()
    make_plan("a-plan")
    create_customer(external_id="acme", email="", name="")
    with connection_kept():
        return schemathesis.openapi.from_wsgi("/api/openapi.json", application)


def test_every_operation_answers_as_described(description):
    _, key = issue("described", list(Scope))
    operations = [each.ok() for each in description.get_all_operations()]
    assert len(operations) >= 7

    for operation in operations:
        check(operation, key)


def cases(operation):
    """Requests the description allows, and others where it asks for anything at all."""
    fitting = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    if not (operation.query or operation.body):
        return fitting
    return fitting | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)


def check(operation, key):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(operation), is_known=st.booleans())
    def answers_as_described(case, is_known):
        if is_known and "external_id" in (case.path_parameters or {}):
            case.path_parameters["external_id"] = "acme"
            if case.method == "POST":
                case.body = {"plan": "a-plan"}
        with connection_kept():
            response = case.call(headers={"Authorization": f"Bearer {key}"})
        case.validate_response(response, checks=schemathesis.checks.CHECKS.get_by_names(CHECKS))
        if response.status_code >= 400:
            told = json.loads(response.content)
            assert (told["status"], bool(told["title"])) == (response.status_code, True)

    answers_as_described()
