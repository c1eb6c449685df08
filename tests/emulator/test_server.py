"""The program over HTTP: faults that close sockets, webhooks that arrive, and a clean end."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stripe

from stripe_emulator import Emulator, Settings
from stripe_emulator.__main__ import main
from stripe_emulator.control import Control
from stripe_emulator.core.faults import KINDS, FaultRule
from stripe_emulator.core.violations import KINDS as VIOLATIONS

pytestmark = pytest.mark.stack
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Program:
    """`python -m stripe_emulator` in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stripe_emulator", "--port", str(self.port), *options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        self.base = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, self.process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.control("GET", "health")["status"] == "ok"
        except OSError:
            return False

    def control(self, method: str, path: str, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, f"/_emulator/{path}", json.dumps(body) if body else None)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def client(self, key: str = "sk_test_emulator") -> stripe.StripeClient:
        self.http = stripe.RequestsClient(timeout=10)
        addresses = dict.fromkeys(("api", "files", "connect", "meter_events"), self.base)
        return stripe.StripeClient(key, http_client=self.http, base_addresses=addresses)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.process.stderr.close()
        if hasattr(self, "http"):
            self.http.close()
        return code, time.monotonic() - started


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    if made.process.poll() is None:
        made.stop()


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict]]]:
    """An endpoint that fails once and then accepts."""
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append({"body": body, "signature": self.headers["Stripe-Signature"]})
            self.send_response(500 if len(seen) == 1 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?a=1", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_sdk_talks_to_it_over_http(program):
    client = program.client()
    made = client.v1.customers.create({"email": "a@example.com", "metadata": {"ä": "ö & ü"}})

    assert client.v1.customers.retrieve(made.id).metadata.to_dict() == {"ä": "ö & ü"}
    assert program.control("GET", "arrivals")["total"] == 2


@pytest.mark.parametrize(
    ("kind", "processed"), [("answer_lost", 1), ("drop_before", 0), ("reset_mid_body", 1)]
)
def test_connection_breaks(program, kind, processed):
    client = program.client()
    program.control("POST", "faults", {"kind": kind, "count": 1})

    with pytest.raises(stripe.APIConnectionError):
        client.v1.customers.create({})

    assert len(client.v1.customers.list().data) == processed


def test_dropped_connection_gives_no_byte(program):
    program.control("POST", "faults", {"kind": "drop_before", "count": 1})
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(
            b"GET /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_x\r\n\r\n"
        )
        try:
            received = connection.recv(1000)
        except ConnectionResetError:
            received = b""

    assert received == b""


def test_reset_in_mid_body_gives_headers_and_half(program):
    program.control("POST", "faults", {"kind": "reset_mid_body", "count": 1})
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(
            b"GET /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_x\r\n\r\n"
        )
        received = b""
        try:
            while piece := connection.recv(1000):
                received += piece
        except ConnectionResetError:
            pass

    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body
    assert b"has_more" not in body


@pytest.mark.parametrize("kind", ["slow", "slow_body"])
def test_slow_answer_outlasts_an_impatient_client(program, kind):
    program.control("POST", "faults", {"kind": kind, "count": 1, "delay_seconds": 1})
    started = time.monotonic()
    program.client().v1.customers.list()

    assert 0.9 < time.monotonic() - started < 5


def test_one_write_carries_headers_and_body(program):
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(
            b"GET /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_x\r\n\r\n"
        )
        received = connection.recv(65_536)

    assert received.endswith(b'"has_more":false,"url":"/v1/customers"}')


def browse(program, method: str, url: str, body: str | None = None):
    """Ask for a page as a browser does; returns status, headers and text."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
    connection.request(method, url.removeprefix(program.base), body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def test_pages_are_where_their_sessions_say(program):
    client = program.client()
    customer = client.v1.customers.create({"email": "a@example.com"})
    made = client.v1.checkout.sessions.create(
        {
            "mode": "setup",
            "currency": "usd",
            "customer": customer.id,
            "success_url": "https://app.example/done?{CHECKOUT_SESSION_ID}",
        }
    )
    portal = client.v1.billing_portal.sessions.create({"customer": customer.id})

    assert made.url == f"{program.base}/pay/{made.id}"
    status, headers, text = browse(program, "GET", made.url)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Save a card" in text
    status, headers, _ = browse(program, "POST", made.url, "payment_method=pm_card_visa")
    assert (status, headers["Location"]) == (303, f"https://app.example/done?{made.id}")
    assert "Visa ending in 4242" in browse(program, "GET", portal.url)[2]
    assert program.control("GET", "arrivals")["total"] == 3


def test_webhook_is_delivered_signed_and_repeated(hook):
    url, seen = hook
    program = Program("--forward-to", url, "--webhook-secret", "whsec_program")
    try:
        client = program.client()
        client.v1.customers.create({"email": "a@example.com"})
        deadline = time.monotonic() + 10
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        events = [
            client.construct_event(each["body"], each["signature"], "whsec_program")
            for each in seen
        ]
        time.sleep(0.2)
        recent = program.control("GET", "deliveries")["recent"]
    finally:
        program.stop()

    assert [event.type for event in events] == ["customer.created"] * 2
    assert events[0].id == events[1].id
    assert [each["status"] for each in recent] == [500, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_at_once(program, number):
    program.client().v1.customers.create({})

    code, seconds = program.stop(number)

    assert code == 0
    assert seconds < 1


def test_signal_ends_it_although_an_answer_is_slow(program):
    program.control("POST", "faults", {"kind": "slow", "delay_seconds": 30})
    with socket.create_connection(("127.0.0.1", program.port), timeout=5) as connection:
        connection.sendall(
            b"GET /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_x\r\n\r\n"
        )
        time.sleep(0.2)
        code, seconds = program.stop()

    assert (code, seconds < 2) == (0, True)


def test_taken_port_is_said_in_a_sentence(program):
    other = subprocess.run(
        [sys.executable, "-m", "stripe_emulator", "--port", str(program.port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert other.returncode == 1
    assert other.stderr.startswith(f"Cannot listen on 127.0.0.1:{program.port}")
    assert len(other.stderr.splitlines()) == 1


@pytest.fixture
def two_ports() -> Iterator[tuple[Program, str]]:
    """The program with the stream on an address of its own."""
    port = free_port()
    made = Program("--stream-port", str(port))
    yield made, f"http://127.0.0.1:{port}"
    made.stop()


def apart(program: Program, stream: str, key: str = "sk_test_emulator") -> stripe.StripeClient:
    program.http = stripe.RequestsClient(timeout=10)
    return stripe.StripeClient(
        key, http_client=program.http, base_addresses={"api": program.base, "meter_events": stream}
    )


def usage_of(client: stripe.StripeClient, identifier: str) -> dict[str, object]:
    """An event for a new meter and customer."""
    client.v1.billing.meters.create(
        {
            "display_name": identifier,
            "event_name": identifier,
            "default_aggregation": {"formula": "sum"},
        }
    )
    payload = {"stripe_customer_id": client.v1.customers.create({}).id, "value": "2"}
    return {"event_name": identifier, "payload": payload, "identifier": identifier}


def test_stream_has_an_address_of_its_own(two_ports):
    program, stream = two_ports
    client = apart(program, stream)
    event = usage_of(client, "one")
    token = client.v2.billing.meter_event_session.create().authentication_token

    client.v2.billing.meter_event_stream.create({"events": [event]}, {"api_key": token})

    assert program.control("GET", "truth")["event_names"] == {"one": {"count": 1, "sum": "2"}}


def test_stream_is_not_on_the_api_port_when_it_has_its_own(two_ports):
    program, _ = two_ports
    client = apart(program, program.base)
    event = usage_of(client, "one")
    token = client.v2.billing.meter_event_session.create().authentication_token

    with pytest.raises(stripe.StripeError, match="Unrecognized request URL") as caught:
        client.v2.billing.meter_event_stream.create({"events": [event]}, {"api_key": token})

    assert caught.value.http_status == 404
    assert program.control("GET", "truth")["event_names"] == {}


def test_everything_else_is_not_on_the_streams_port(two_ports):
    program, stream = two_ports
    client = apart(program, stream)
    refused = []
    for method, path in (("post", "/v1/customers"), ("post", "/v2/billing/meter_event_session")):
        with pytest.raises(stripe.StripeError, match="Unrecognized request URL") as caught:
            client.raw_request(method, path, base="meter_events")
        refused.append(caught.value.http_status)
    connection = http.client.HTTPConnection(stream.removeprefix("http://"), timeout=10)
    pages = []
    for path in ("/", "/_emulator/health"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        pages.append(answer.status)
    connection.close()

    assert (refused, pages) == ([404, 404], [404, 404])
    assert client.v1.customers.list().data == []


def test_one_port_serves_both_unless_asked_otherwise(program):
    client = program.client()
    event = usage_of(client, "one")
    token = client.v2.billing.meter_event_session.create().authentication_token

    client.v2.billing.meter_event_stream.create({"events": [event]}, {"api_key": token})

    assert program.control("GET", "truth")["event_names"] == {"one": {"count": 1, "sum": "2"}}


def test_connection_of_the_streams_port_breaks_too(two_ports):
    program, stream = two_ports
    client = apart(program, stream)
    event = usage_of(client, "one")
    token = client.v2.billing.meter_event_session.create().authentication_token
    program.control("POST", "faults", {"kind": "answer_lost", "count": 1})

    with pytest.raises(stripe.APIConnectionError):
        client.v2.billing.meter_event_stream.create({"events": [event]}, {"api_key": token})

    assert program.control("GET", "truth")["event_names"] == {"one": {"count": 1, "sum": "2"}}


def test_taken_stream_port_names_its_own_option(program):
    other = subprocess.run(
        [
            *(sys.executable, "-m", "stripe_emulator", "--port", str(free_port())),
            *("--stream-port", str(program.port)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert other.returncode == 1
    assert other.stderr.startswith(f"Cannot listen on 127.0.0.1:{program.port}")
    assert other.stderr.rstrip().endswith("Choose another with --stream-port.")


def test_stream_port_is_another_one():
    with pytest.raises(SystemExit) as caught:
        main(["--port", "12111", "--stream-port", "12111"])

    assert caught.value.code == 2


def test_help_explains_everything():
    shown = subprocess.run(
        [sys.executable, "-m", "stripe_emulator", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout
    controls = Control(Emulator()).known()

    missing = [
        word
        for word in (
            *("--port", "--host", "--state", "--forward-to", "--forward-thin-to", "--seed"),
            *(
                "--stream-port",
                "--webhook-secret",
                "--log-level",
                "event destinations",
                "GET    /  ",
            ),
            *(f"\n  {kind}\n      " for kind in (*KINDS, *VIOLATIONS)),
            *(f"\n  {name} (" for name in Settings.explained()),
            *FaultRule.__struct_fields__[:-2],
        )
        if word not in shown
    ]
    assert missing == []
    assert [
        control
        for control in controls
        if f"  {control.partition(' ')[0]:<6} {control.partition(' ')[2]} " not in shown
    ] == []
    assert max(map(len, shown.splitlines())) <= 100


def test_many_clients_at_once_are_all_let_in(program):
    connections = [
        socket.create_connection(("127.0.0.1", program.port), timeout=5) for _ in range(300)
    ]
    request = b"GET /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_x\r\nConnection: close\r\n\r\n"
    for connection in connections:
        connection.sendall(request)
    answers = [connection.recv(65_536)[:12] for connection in connections]
    for connection in connections:
        connection.close()

    assert set(answers) == {b"HTTP/1.1 200"}


def test_arrivals_are_on_disk(tmp_path):
    program = Program("--state", str(tmp_path / "state"))
    program.client().v1.customers.create({"email": "a@example.com"})
    program.stop()

    [line] = (tmp_path / "state" / "arrivals.jsonl").read_text().splitlines()
    assert json.loads(line)["params"] == {"email": "a@example.com"}


def test_restart_keeps_the_account(tmp_path):
    state = ("--state", str(tmp_path / "state"))
    program = Program(*state)
    made = program.client().v1.customers.create({"email": "a@example.com"})
    program.stop()
    again = Program(*state)
    found = again.client().v1.customers.retrieve(made.id).email
    total = again.control("GET", "arrivals")["total"]
    again.stop()

    assert (found, total) == ("a@example.com", 2)


def test_killed_program_forgets_no_usage(tmp_path):
    state = ("--state", str(tmp_path / "state"))
    program = Program(*state)
    client = program.client()
    meter = client.v1.billing.meters.create(
        {"display_name": "x", "event_name": "x", "default_aggregation": {"formula": "sum"}}
    )
    customer = client.v1.customers.create({})
    program.stop()
    program = Program(*state)
    client = program.client()
    for index in range(20):
        payload = {"stripe_customer_id": customer.id, "value": "2"}
        client.v1.billing.meter_events.create(
            {"event_name": "x", "payload": payload, "identifier": str(index)}
        )
    program.stop(signal.SIGKILL)
    again = Program(*state)
    client = again.client()
    now = int(time.time()) // 60 * 60
    total = client.v1.billing.meters.event_summaries.list(
        meter.id, {"customer": customer.id, "start_time": now - 3600, "end_time": now + 3600}
    )
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        client.v1.billing.meter_events.create(
            {"event_name": "x", "payload": payload, "identifier": "19"}
        )
    truth = again.control("GET", "truth")["event_names"]
    again.stop()

    assert total.data[0].aggregated_value == 40
    assert truth == {"x": {"count": 20, "sum": "40"}}
