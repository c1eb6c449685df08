"""The fixtures other projects use, in a project of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.stack
ROOT = Path(__file__).resolve().parents[2]

PROJECT = """
import time

pytest_plugins = ["stripe_emulator.fixtures"]


def test_starts_empty(stripe_client):
    assert stripe_client.v1.customers.list().data == []


def test_breaks_on_request(stripe_emulator, stripe_client):
    import pytest, stripe

    stripe_emulator.faults.switch_on("503", count=1)
    with pytest.raises(stripe.APIError):
        stripe_client.v1.customers.create({})


def send(client, value):
    if not client.v1.billing.meters.list().data:
        client.v1.billing.meters.create(
            {"display_name": "x", "event_name": "x", "default_aggregation": {"formula": "sum"}}
        )
        client.v1.customers.create({})
    customer = client.v1.customers.list().data[0].id
    return client.v1.billing.meter_events.create(
        {"event_name": "x", "identifier": "i", "payload": {"stripe_customer_id": customer, "value": value}}
    )


def test_good_manners_pass(well_behaved_client):
    send(well_behaved_client, "1")


def test_bad_manners_fail(well_behaved_client):
    import stripe

    send(well_behaved_client, "1")
    try:
        send(well_behaved_client, "2")
    except stripe.InvalidRequestError:
        pass
"""


def test_fixtures_work_in_another_project(tmp_path):
    (tmp_path / "conftest.py").write_text("")
    (tmp_path / "test_it.py").write_text(PROJECT)

    shown = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:django",
            "-p",
            "no:valkey",
            "-p",
            "no:randomly",
            "-q",
            "-rf",
            str(tmp_path),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout

    assert "4 passed, 1 error" in shown
    assert "test_bad_manners_fail" in shown
    assert "identifier_with_two_payloads" in shown
