"""An AI company with its catalogue synced, a key, and the commands at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from stripe_emulator import Emulator
from usage.invariants import violations
from usage.management.commands.flush import Command as Flush


class Company:
    """Calls the API as a service would and runs commands as an operator would."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.run("sync_catalogue")
        self._key = self.run(
            "issue_api_key", "--source", "gateway", "--scopes", "ingest,read,manage"
        ).strip()
        self._client = Client()

    def run(self, *command: Any) -> str:
        """Run a command and return what it printed; `flush` is ours, not Django's."""
        out = StringIO()
        name = Flush() if command[0] == "flush" else command[0]
        call_command(name, *command[1:], stdout=out, stderr=StringIO())
        return out.getvalue()

    def post(self, path: str, body: Any, content_type: str = "application/json") -> Any:
        return self._client.post(
            f"/api/v1/{path}",
            data=json.dumps(body),
            content_type=content_type,
            headers={"Authorization": f"Bearer {self._key}"},
        )

    def add_customer(self, external_id: str, plan: str = "tokens-payg") -> None:
        created = self.post("customers", {"external_id": external_id, "email": "a@example.com"})
        assert created.status_code == 201, created.content
        subscribed = self.post(f"customers/{external_id}/subscriptions", {"plan": plan})
        assert subscribed.status_code == 201, subscribed.content

    def report(self, *calls: tuple[str, str, int, int]) -> int:
        """Report LLM calls of (id, customer, input tokens, output tokens); return the status."""
        return self.post(
            "events",
            [
                {
                    "id": event_id,
                    "type": "llm.call",
                    "subject": customer,
                    "data": {
                        "input_tokens": read,
                        "output_tokens": written,
                        "total_tokens": read + written,
                    },
                }
                for event_id, customer, read, written in calls
            ],
        ).status_code

    def books(self) -> dict[str, dict[str, Any]]:
        """The books by meter, with the verdicts under "balanced" and "at_rest"."""
        printed = json.loads(self.run("books", "--json"))
        return {meter.pop("meter"): meter for meter in printed.pop("meters")} | printed

    def at_stripe(self, event_name: str) -> Decimal:
        """What Stripe took, by the emulator's own arithmetic over what arrived."""
        total = self.emulator.truth.as_dict()["event_names"].get(event_name)
        return Decimal(total["sum"]) if total else Decimal(0)


@pytest.fixture
def company(db, emulator) -> Iterator[Company]:
    yield Company(emulator)
    # Whatever the story, our own tables do not contradict themselves at its end.
    assert violations() == ()
