"""The control API under `/_emulator/`, and the page for people at `/`."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from stripe_emulator import page
from stripe_emulator.core.due import catch_up
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.faults import KINDS, FaultRule
from stripe_emulator.core.snapshots import Snapshot
from stripe_emulator.core.truth import Truth
from stripe_emulator.core.wire import Reply, Request
from stripe_emulator.version import API_VERSION

PREFIX = "/_emulator/"
ICON = "/favicon.ico"
"""Browsers ask for it by themselves, which is nothing a judge should see."""
MAX_ARRIVALS = 10_000


class WrongRequest(ValueError):
    """The caller's mistake, in a sentence."""


class Confirmation(msgspec.Struct, forbid_unknown_fields=True):
    """What a person does with a client secret."""

    client_secret: str
    payment_method: str | None = None
    authenticated: bool | None = None


class Completion(msgspec.Struct, forbid_unknown_fields=True):
    """What a person does on a Checkout page."""

    session: str
    payment_method: str | None = "pm_card_visa"
    email: str | None = None
    authenticated: bool | None = None


class Control:
    """Answer what is about the emulator rather than about Stripe."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self._snapshots: dict[str, Snapshot] = {}
        self._routes: dict[tuple[str, str], Callable[[dict[str, str], Any], Any]] = {
            ("GET", "health"): self._health,
            ("GET", "arrivals"): self._arrivals,
            ("GET", "truth"): self._truth,
            ("GET", "invoices"): self._invoices,
            ("GET", "violations"): self._violations,
            ("POST", "reset"): self._reset,
            ("GET", "clock"): self._clock,
            ("POST", "clock"): self._set_clock,
            ("GET", "faults"): self._faults,
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._remove_faults,
            ("GET", "settings"): self._settings,
            ("POST", "settings"): self._set_settings,
            ("GET", "deliveries"): self._deliveries,
            ("POST", "destinations"): self._add_destination,
            ("GET", "snapshots"): self._list_snapshots,
            ("POST", "snapshots"): self._take_snapshot,
            ("POST", "restore"): self._restore,
            ("POST", "confirm"): self._confirm,
            ("POST", "checkout"): self._complete_checkout,
        }

    @staticmethod
    def owns(path: str) -> bool:
        """Tell whether a path is ours and not Stripe's."""
        return path in {"/", ICON} or path.startswith(PREFIX)

    def known(self) -> list[str]:
        """Return every control call, as method and path."""
        return sorted(f"{method} {PREFIX}{name}" for method, name in self._routes)

    def handle(self, request: Request) -> Reply:
        """Answer; mistakes are a 400 with an `error` sentence."""
        if request.path == ICON:
            return Reply(204, {}, b"")
        if request.path == "/":
            catch_up(self.emulator.world)
            html = page.render(self.emulator).encode()
            return Reply(200, {"Content-Type": "text/html; charset=utf-8"}, html)
        answer = self._routes.get((request.method, request.path.removeprefix(PREFIX).rstrip("/")))
        if answer is None:
            return _json(404, {"error": "There is no such control.", "known": self.known()})
        catch_up(self.emulator.world)
        try:
            query = {name: values[-1] for name, values in parse_qs(request.query).items()}
            body = msgspec.json.decode(request.body) if request.body.strip() else {}
            return _json(200, answer(query, body))
        except (ValueError, TypeError) as error:
            return _json(400, {"error": str(error)})

    def _health(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return {
            "status": "ok",
            "api_version": API_VERSION,
            "now": self.emulator.clock.now(),
            "arrivals": len(self.emulator.arrivals),
        }

    def _arrivals(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        after, limit = _number(query, "after", 0), _number(query, "limit", 100)
        if not 1 <= limit <= MAX_ARRIVALS:
            raise WrongRequest(f"limit lies between 1 and {MAX_ARRIVALS}.")
        found = self.emulator.arrivals.read(after=after, limit=limit)
        return {
            "arrivals": found,
            "next_after": found[-1].number if found else after,
            "total": len(self.emulator.arrivals),
        }

    def _truth(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        truth = self.emulator.truth
        if query.get("recount"):
            truth = Truth.folded(self.emulator.arrivals)
        return truth.as_dict(customer=query.get("customer"), event_name=query.get("event_name"))

    def _invoices(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return self.emulator.billed(customer=query.get("customer"))

    def _violations(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        violations = self.emulator.world.violations
        return {"counts": dict(violations.counts), "violations": violations.kept}

    def _reset(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        self.emulator.reset()
        return {"status": "reset"}

    def _clock(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return {"now": self.emulator.clock.now(), "frozen": self.emulator.clock.frozen}

    def _set_clock(self, query: dict[str, str], body: Any) -> Any:
        """Take `now` or `advance_seconds`, with `frozen`, or `real` to follow the machine again."""
        clock = self.emulator.clock
        unknown = set(body) - {"now", "advance_seconds", "frozen", "real"}
        if unknown:
            raise WrongRequest(
                f"The clock takes now, advance_seconds, frozen, real; not {', '.join(unknown)}."
            )
        if body.get("real"):
            clock.run()
        elif "advance_seconds" in body:
            clock.set(
                clock.now() + float(body["advance_seconds"]),
                frozen=bool(body.get("frozen", clock.frozen)),
            )
        elif body:
            clock.set(
                float(body.get("now", clock.now())), frozen=bool(body.get("frozen", clock.frozen))
            )
        catch_up(self.emulator.world)
        return self._clock(query, body)

    def _faults(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return {"faults": self.emulator.faults.rules, "kinds": KINDS}

    def _add_fault(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return self.emulator.faults.add(msgspec.convert(body, FaultRule))

    def _remove_faults(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        if "id" in query and not self.emulator.faults.remove(query["id"]):
            raise WrongRequest(f"There is no fault {query['id']}.")
        if "id" not in query:
            self.emulator.faults.clear()
        return {"faults": self.emulator.faults.rules}

    def _settings(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return self.emulator.settings.as_dict()

    def _set_settings(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        self.emulator.settings.change(**body)
        return self.emulator.settings.as_dict()

    def _deliveries(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        outbox = self.emulator.world.outbox
        return {"waiting": len(outbox.waiting), "recent": outbox.recent}

    def _add_destination(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        unknown = set(body) - {"url", "secret", "thin"}
        if unknown or "url" not in body or "secret" not in body:
            raise WrongRequest("A destination takes url and secret, and thin for thin events.")
        self.emulator.forward(body["url"], body["secret"], thin=bool(body.get("thin")))
        return {"status": "registered"}

    def _list_snapshots(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        return {
            "snapshots": [
                {"name": name, "arrivals": taken.arrivals}
                for name, taken in self._snapshots.items()
            ]
        }

    def _take_snapshot(self, query: dict[str, str], body: Any) -> Any:
        self._snapshots[body.get("name", "default")] = self.emulator.snapshot()
        return self._list_snapshots(query, body)

    def _restore(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        name = body.get("name", "default")
        if name not in self._snapshots:
            raise WrongRequest(f"There is no snapshot {name!r}.")
        self.emulator.restore(self._snapshots[name])
        return {"status": "restored", "arrivals": len(self.emulator.arrivals)}

    def _confirm(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        asked = msgspec.convert(body, Confirmation)
        return self.emulator.confirm(
            asked.client_secret, asked.payment_method, authenticated=asked.authenticated
        )

    def _complete_checkout(self, query: dict[str, str], body: Any) -> Any:  # noqa: ARG002  one signature for all
        asked = msgspec.convert(body, Completion)
        return self.emulator.complete_checkout(
            asked.session,
            asked.payment_method,
            email=asked.email,
            authenticated=asked.authenticated,
        )


def _number(query: dict[str, str], name: str, default: int) -> int:
    try:
        return int(query.get(name, default))
    except ValueError:
        raise WrongRequest(f"{name} is a whole number.") from None


def _json(status: int, body: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, msgspec.json.encode(body))
