"""No commit and no call of the money's path goes without a name.

Read from the source here; at run time the stories object to a write with no named commit open and
to a request with no named call open (see `tests.support.interruptions.watched`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import transaction

from billing.gateway.client import connection as stripe
from billing.models import Meter
from tests.crashes.shop import Operation, opened
from tests.support.interruptions import ROOT

pytestmark = pytest.mark.scenario

MONEY_PATH = (
    "usage",
    "reconciliation",
    "billing/webhooks",
    "billing/gateway",
    "billing/rate_limits.py",
    "billing/meter_checks.py",
    "billing/periods.py",
    "billing/invoices.py",
)
UNNAMED = {
    "usage/queries.py": "reads: one snapshot of the books, with a timeout of its own",
    "usage/questions.py": "reads: one statement, with a timeout of its own",
    "usage/invariants/checking.py": "reads: one snapshot of all tables",
    "usage/leaks.py": "reads: one snapshot of our books, read only",
    "usage/admin.py": "people's actions, each of which calls a named operation",
    "usage/admin_voids.py": "people's actions, each of which calls a named operation",
    "reconciliation/admin.py": "people's actions, each of which calls a named operation",
}
"""Modules that may open a transaction without a name, and why."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for place in MONEY_PATH:
        path = ROOT / place
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = str(module.relative_to(ROOT))
            if "/migrations/" not in name:
                yield name, ast.parse(module.read_text())


def opened_transactions(tree: ast.Module) -> list[int]:
    """Return the lines that use `transaction.atomic`, however it was imported."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "atomic")
        or (isinstance(node, ast.ImportFrom) and any(each.name == "atomic" for each in node.names))
    ]


@pytest.mark.unit
def test_every_transaction_of_the_money_path_has_a_name():
    found = {name: lines for name, tree in sources() if (lines := opened_transactions(tree))}

    assert {name: lines for name, lines in found.items() if name not in UNNAMED} == {}


@pytest.mark.unit
def test_every_step_is_a_with_block_with_a_literal_name_of_its_own_package():
    for name, tree in sources():
        blocks = {
            id(item.context_expr)
            for node in ast.walk(tree)
            if isinstance(node, ast.With)
            for item in node.items
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "steps"
            ):
                [argument] = node.args
                assert isinstance(argument, ast.Constant), name
                assert id(node) in blocks, f"{name}:{node.lineno}"
                assert argument.value.split(".")[0] == Path(name).parts[0]
                assert len(argument.value.split(".")) == 3


@pytest.mark.django_db
def test_a_write_outside_of_every_named_commit_is_objected_to():
    with opened("input_tokens") as shop:

        def bare() -> None:
            Meter.objects.filter(blocked="").update(blocked="by nobody")

        def locking() -> None:
            with transaction.atomic():
                list(Meter.objects.select_for_update())
                list(Meter.objects.select_for_update(no_key=True))

        with shop.working():
            locking()
        assert shop.interruptions.objections == []

        with pytest.raises(AssertionError):
            shop.perform(Operation(bare))

        [objection] = shop.interruptions.objections
        assert objection.startswith("written outside of every named commit: UPDATE")


@pytest.mark.django_db
def test_a_request_outside_of_every_named_call_is_objected_to():
    with opened("input_tokens") as shop:
        with pytest.raises(AssertionError):
            shop.perform(Operation(stripe().v1.billing.meters.list))

        assert shop.interruptions.objections == [
            "asked outside of every named call: GET /v1/billing/meters"
        ]
