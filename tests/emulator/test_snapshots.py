"""Going back to an earlier moment, and starting again where the last run ended."""

import dataclasses

import pytest
import stripe

from stripe_emulator import Emulator, Request
from stripe_emulator.__main__ import main
from stripe_emulator.arrival_file import STRIDE, ArrivalFile
from stripe_emulator.control import Control
from stripe_emulator.core.arrivals import Arrival
from stripe_emulator.core.records import IdempotencyRecord, IdentifierRecord
from stripe_emulator.disk_records import DiskRecords
from stripe_emulator.saved_state import AnotherVersionError, SavedState
from stripe_emulator.transport import InProcessTransport

from .conftest import NOW, Shop, make_meter
from .test_judge import control

pytestmark = pytest.mark.unit


def on_disk(folder) -> Emulator:
    emulator = Emulator(
        now=lambda: NOW,
        arrivals=ArrivalFile(folder / "arrivals.jsonl"),
        identifiers=DiskRecords(folder / "identifiers.sqlite", IdentifierRecord),
        answers=DiskRecords(folder / "answers.sqlite", IdempotencyRecord),
    )
    emulator.clock.freeze(NOW)
    return emulator


def close(emulator):
    emulator.arrivals.close()
    emulator._parts.identifiers.close()
    emulator._parts.idempotency.records.close()


def stocked(emulator) -> Shop:
    client = stripe.StripeClient("sk_test_emulator", http_client=InProcessTransport(emulator))
    return Shop(emulator, client, make_meter(client), client.v1.customers.create({}))


@pytest.fixture(params=["memory", "disk"])
def kept(request, tmp_path):
    emulator = Emulator(now=lambda: NOW) if request.param == "memory" else on_disk(tmp_path)
    emulator.clock.freeze(NOW)
    yield stocked(emulator)
    if request.param == "disk":
        close(emulator)


def test_identifiers_of_a_stream_request_are_on_disk_once_it_is_answered(tmp_path):
    shop = stocked(on_disk(tmp_path))
    token = shop.client.v2.billing.meter_event_session.create().authentication_token
    one, two = (
        {
            "event_name": "tokens",
            "identifier": identifier,
            "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
        }
        for identifier in ("one", "two")
    )

    shop.client.v2.billing.meter_event_stream.create(
        {"events": [one, two, one]}, {"api_key": token}
    )

    elsewhere = DiskRecords(tmp_path / "identifiers.sqlite", IdentifierRecord)
    assert len(elsewhere) == 2
    elsewhere.close()
    close(shop.emulator)


def test_restore_takes_everything_back(kept):
    kept.send("one", "5", options={"idempotency_key": "k"})
    kept.emulator.faults.switch_on("503", path="/nothing")
    before = (kept.emulator.truth.as_dict(), len(kept.emulator.arrivals))
    snapshot = kept.emulator.snapshot()
    kept.send("two", "7")
    kept.client.v1.customers.create({})
    kept.emulator.clock.advance(100)
    kept.emulator.faults.clear()

    kept.emulator.restore(snapshot)

    assert (kept.emulator.truth.as_dict(), len(kept.emulator.arrivals)) == before
    assert kept.emulator.clock.now() == NOW
    assert [rule.kind for rule in kept.emulator.faults.rules] == ["503"]
    assert kept.total() == 5
    assert len(kept.client.v1.customers.list().data) == 1


def test_restored_identifiers_and_answers_are_those_of_then(kept):
    kept.send("one", options={"idempotency_key": "k"})
    snapshot = kept.emulator.snapshot()
    kept.send("two", options={"idempotency_key": "l"})
    kept.emulator.restore(snapshot)

    kept.send("two", options={"idempotency_key": "l"})
    again = kept.send("one", options={"idempotency_key": "k"})
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        kept.send("one")

    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert kept.total() == 2


def test_restore_repeats_ids_and_faults(kept):
    kept.emulator.faults.switch_on("503", probability=0.5, seed=1, path="/v1/customers")
    snapshot = kept.emulator.snapshot()

    def outcomes():
        found = []
        for _ in range(20):
            try:
                found.append(kept.client.v1.customers.create({}).id)
            except stripe.APIError:
                found.append("503")
        return found

    first = outcomes()
    kept.emulator.restore(snapshot)

    assert outcomes() == first
    assert "503" in first


def test_restore_can_be_done_twice(kept):
    snapshot = kept.emulator.snapshot()
    for _ in range(2):
        kept.emulator.restore(snapshot)
        kept.send("one")

    assert kept.total() == 1


def test_usage_waiting_to_count_is_part_of_it(kept):
    kept.emulator.settings.change(settle_lag_seconds=60)
    kept.send("one", "5")
    snapshot = kept.emulator.snapshot()
    kept.emulator.clock.advance(60)
    counted = kept.total()
    kept.emulator.restore(snapshot)
    waiting = kept.total()
    kept.emulator.clock.advance(60)

    assert (counted, waiting, kept.total()) == (5, 0, 5)


def test_control_keeps_snapshots_by_name(kept):
    desk = Control(kept.emulator)

    def ask(method, path, body=b""):
        return desk.handle(Request(method, f"/_emulator/{path}", body=body)).status

    assert ask("POST", "restore", b'{"name": "clean"}') == 400
    assert ask("POST", "snapshots", b'{"name": "clean"}') == 200
    kept.send("one")
    assert ask("POST", "restore", b'{"name": "clean"}') == 200
    assert kept.total() == 0
    assert control(kept.emulator, "GET", "snapshots")[1] == {"snapshots": []}


def test_next_run_takes_up_where_the_last_ended(tmp_path):
    first = stocked(on_disk(tmp_path))
    first.send("one", "5")
    SavedState(tmp_path / "account.state", first.emulator).close()
    close(first.emulator)

    second = on_disk(tmp_path)
    SavedState(tmp_path / "account.state", second).load()
    shop = dataclasses.replace(
        first,
        emulator=second,
        client=stripe.StripeClient("sk_test_x", http_client=InProcessTransport(second)),
    )
    shop.send("two", "7")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        shop.send("one", "5")

    assert shop.total() == 12
    assert second.truth.as_dict()["event_names"]["tokens"] == {"count": 2, "sum": "12"}
    assert [arrival.number for arrival in second.arrivals] == list(range(1, 7))
    close(second)


def test_usage_after_the_last_save_survives_a_crash(tmp_path, caplog):
    first = stocked(on_disk(tmp_path))
    first.send("one", "5")
    SavedState(tmp_path / "account.state", first.emulator).save()
    first.send("two", "7")
    first.send("three", "9")
    first.client.v1.billing.meter_event_adjustments.create(
        {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "one"}}
    )
    close(first.emulator)

    second = on_disk(tmp_path)
    SavedState(tmp_path / "account.state", second).load()
    shop = dataclasses.replace(
        first,
        emulator=second,
        client=stripe.StripeClient("sk_test_x", http_client=InProcessTransport(second)),
    )

    assert shop.total() == 16
    assert second.truth.as_dict()["event_names"]["tokens"] == {"count": 2, "sum": "16"}
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        shop.send("two", "7")
    assert "3 later requests" in caplog.text
    close(second)


def test_an_account_other_code_saved_is_refused_in_a_sentence(tmp_path, capsys):
    first = stocked(on_disk(tmp_path))
    path = tmp_path / "account.state"
    SavedState(path, first.emulator).close()
    close(first.emulator)
    _, _, saved = path.read_bytes().partition(b"\n")
    path.write_bytes(b"another version\n" + saved)

    second = on_disk(tmp_path)
    with pytest.raises(AnotherVersionError):
        SavedState(path, second).load()
    close(second)
    assert main(["--state", str(tmp_path), "--port", "0"]) == 1

    assert capsys.readouterr().err == (
        f"The account in {path} was saved by another version of the emulator: remove its folder or"
        " name a new one with --state.\n"
    )


def test_nothing_new_is_not_saved_again(tmp_path):
    shop = stocked(on_disk(tmp_path))
    saved = SavedState(tmp_path / "account.state", shop.emulator)
    saved.save()
    (tmp_path / "account.state").unlink()
    saved.save()
    untouched = (tmp_path / "account.state").exists()
    shop.send("one")
    saved.save()

    assert (untouched, (tmp_path / "account.state").exists()) == (False, True)
    close(shop.emulator)


def test_what_people_do_on_pages_is_saved(tmp_path):
    shop = stocked(on_disk(tmp_path))
    intent = shop.client.v1.setup_intents.create({"customer": shop.customer.id})
    saved = SavedState(tmp_path / "account.state", shop.emulator)
    saved.save()
    (tmp_path / "account.state").unlink()

    shop.emulator.confirm(intent.client_secret, "pm_card_visa")
    saved.save()

    assert (tmp_path / "account.state").exists()
    close(shop.emulator)


def arrival(number: int) -> Arrival:
    return Arrival(
        number, 1.5, "GET", "/v1/customers", "sk_test_…", False, 200, "done", f"req_{number}"
    )


def test_arrival_file_reads_from_anywhere(tmp_path):
    log = ArrivalFile(tmp_path / "a.jsonl")
    for number in range(1, 2 * STRIDE + 6):
        log.append(arrival(number))

    assert [each.number for each in log.read(after=STRIDE - 1, limit=3)] == [
        STRIDE,
        STRIDE + 1,
        STRIDE + 2,
    ]
    assert [each.number for each in log.read(after=2 * STRIDE + 3, limit=10)] == [
        2 * STRIDE + 4,
        2 * STRIDE + 5,
    ]
    assert log.read(after=2 * STRIDE + 5, limit=10) == []
    log.truncate(STRIDE + 2)
    log.append(arrival(9))
    assert [each.number for each in log.read(after=STRIDE, limit=9)] == [STRIDE + 1, STRIDE + 2, 9]
    assert len(log) == len(list(log)) == STRIDE + 3
    log.close()


def test_torn_last_line_is_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    log = ArrivalFile(path)
    log.append(arrival(1))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"number": 2, "at"')

    again = ArrivalFile(path)
    again.append(arrival(2))

    assert [each.number for each in again] == [1, 2]
    again.close()
