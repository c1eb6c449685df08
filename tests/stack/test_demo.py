"""The demo ends well only if what was sent, the books and the emulator's own log all agree."""

import json

import pytest

from tests.stack.programs import line, sleeper

pytestmark = pytest.mark.stack

# It plays the part of every command; `answers.json` beside it holds what each one says.
MANAGE = """
import json, pathlib, sys
answers = json.loads(pathlib.Path("answers.json").read_text())
name = sys.argv[1] + (" --at-rest" if "--at-rest" in sys.argv else "")
with open("called", "a") as called:
    called.write(" ".join(sys.argv[1:]) + "\\n")
answer = answers[name]
if name == "books":
    asked = pathlib.Path("called").read_text().count("books --json")
    answer = answer[min(asked, len(answer)) - 1]
print(answer["says"], file=sys.stderr if answer.get("code") else sys.stdout)
sys.exit(answer.get("code", 0))
"""

EMULATOR = """
import http.server, json, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = pathlib.Path("truth.json").read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
port = int(next(word for word in sys.argv if word.startswith("--port=")).removeprefix("--port="))
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

SENT = {
    "events": 3,
    "context_tokens": 100,
    "cached_tokens": 20,
    "generated_tokens": 7,
    "accepted": 3,
    "duplicates": 0,
}


def meter(slug, recorded, **states):
    return {"meter": slug, "recorded": str(recorded), "unflushed": "0", "states": states}


def books(events, *meters):
    return {"says": json.dumps({"events": events, "meters": meters})}


EMPTY = books(0, meter("ai_tokens", 0), meter("llm_calls", 0))
MOVING = books(3, meter("ai_tokens", 127, ready="127"), meter("llm_calls", 3))
DONE = books(3, meter("ai_tokens", 127, accepted="127"), meter("llm_calls", 3, accepted="3"))
ANSWERS = {
    "createsuperuser": {"says": "Superuser created successfully."},
    "issue_api_key": {"says": "mk_key"},
    "replay": {"says": "sent\n" + json.dumps(SENT)},
    "reconcile": {"says": "every cell is equal"},
    "books": [EMPTY, MOVING, DONE],
    "books --at-rest": {"says": "at rest"},
}
TRUTH = {
    "meterkeeper_ai_tokens": {"count": 1, "sum": "127"},
    "meterkeeper_llm_calls": {"count": 1, "sum": "3"},
}


@pytest.fixture
def demo(launcher, bare, tmp_path):
    """Play the demo with these answers and this truth."""

    def play(truth=TRUTH, **changes):
        (tmp_path / "manage.py").write_text(MANAGE)
        (tmp_path / "stripe_emulator").mkdir(exist_ok=True)
        (tmp_path / "stripe_emulator" / "__init__.py").touch()  # so that it hides the real one
        (tmp_path / "stripe_emulator" / "__main__.py").write_text(EMULATOR)
        (tmp_path / "answers.json").write_text(json.dumps(ANSWERS | changes))
        (tmp_path / "truth.json").write_text(json.dumps({"event_names": truth}))
        environment = {name: bare[name] for name in bare if name != "STRIPE_SECRET_KEY"}
        stack = launcher(environment, worker=line(sleeper)).start("demo", "--exit")
        code = stack.wait()
        assert stack.below() == set()
        return code, stack

    return play


def test_demo_that_balances_ends_well(demo, tmp_path):
    code, stack = demo()

    assert code == 0, stack.printed
    called = (tmp_path / "called").read_text().splitlines()
    assert [words.split()[0] for words in called] == [
        "createsuperuser",
        "issue_api_key",
        "books",
        "replay",
        "books",
        "books",
        "reconcile",
        "books",
    ]
    replay = next(words for words in called if words.startswith("replay"))
    assert replay == (
        f"replay --api-url http://127.0.0.1:{stack.environment['PORT']} --api-key mk_key"
    )
    assert "Every meter grew by exactly what was sent." in stack.printed
    assert "The emulator's own arrival log adds up to the same." in stack.printed
    assert "127 units on their way" in stack.printed


def test_demo_played_again_expects_nothing_new(demo):
    again = SENT | {"accepted": 0, "duplicates": 3}

    code, stack = demo(
        replay={"says": json.dumps(again)},
        books=[DONE],
        createsuperuser={"says": "Error: That username is already taken.", "code": 1},
    )

    assert code == 0, stack.printed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"replay": {"says": json.dumps(SENT | {"duplicates": 1})}},
            "of 3 calls 3 were stored and 1 known",
        ),
        (
            {"books": [EMPTY, books(2, meter("ai_tokens", 127), meter("llm_calls", 3))]},
            "3 calls were stored but the books grew by 2",
        ),
        (
            {"books": [EMPTY, books(3, meter("ai_tokens", 126), meter("llm_calls", 3))]},
            "meter ai_tokens grew by 126 where 127 were sent",
        ),
        (
            {"truth": TRUTH | {"meterkeeper_llm_calls": {"count": 1, "sum": "4"}}},
            "of meter llm_calls the emulator itself counted 4, the books say 3",
        ),
        (
            {"truth": TRUTH | {"somebody_elses": {"count": 1, "sum": "1"}}},
            "the emulator counted 131 units in all, the books 130",
        ),
        (
            {"books --at-rest": {"says": "not at rest", "code": 1}},
            "`manage.py books --at-rest` says no, see above",
        ),
        (
            {"reconcile": {"says": "1 discrepancy", "code": 1}},
            "says no, see above",
        ),
        (
            {"issue_api_key": {"says": "no such scope", "code": 1}},
            "no API key could be issued: no such scope",
        ),
    ],
)
def test_demo_that_does_not_balance_says_why(demo, changes, reason):
    code, stack = demo(**changes)

    assert code == 1
    assert f"{reason}\n" in stack.printed
    assert stack.printed.count("The demo failed: ") == 1


def test_missing_trace_is_said_before_anything_starts(launcher, tmp_path):
    stack = launcher(worker=line(sleeper))

    code = stack.start("demo", f"--trace={tmp_path}/none.csv").wait()

    assert code == 2
    assert stack.printed == (
        f"meterkeeper: There is no trace {tmp_path}/none.csv: TRACE names a CSV file.\n"
    )
    assert not stack.state.exists()
