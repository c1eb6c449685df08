"""The whole product as real processes, its worker killed again and again while usage flows.

The deterministic twins are `tests/usage/test_flush_races.py` and `test_delivery.py`; here nobody
chooses the moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.stack.launcher import REPOSITORY, parent

pytestmark = [pytest.mark.stack, pytest.mark.enable_socket]

EVENTS = 3_000
KILLS = 4


class Product:
    """`make run` with short intervals, on a state folder and ports of its own."""

    def __init__(self, environment: dict[str, str], state: Path) -> None:
        tests_own = {"DJANGO_SETTINGS_MODULE", "DJANGO_SECRET_KEY"} | {
            name for name in environment if name.startswith("STRIPE_")
        }
        kept = {name: value for name, value in environment.items() if name not in tests_own}
        self._environment = kept | {
            "STATE_DIR": str(state),
            "USAGE_FLUSH_SECONDS": "1",
            "USAGE_DELIVERY_SECONDS": "1",
            # Small runs and small batches: more moments to be killed in.
            "USAGE_FLUSH_EVENTS": "1000",
        }
        self._log = (state.parent / "printed").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "billing_project.local_stack", "run"],
            cwd=REPOSITORY,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._until(self._is_ready, seconds=60)
        except AssertionError:
            self.stop()
            raise

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._printed()
        return "ready: " in self._printed()

    def _printed(self) -> str:
        return Path(self._log.name).read_text()

    def _until(self, condition: Callable[[], Any], *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self._printed()
            time.sleep(0.1)

    def manage(self, *words: str, check: bool = True) -> str:
        """Run a command against the running stack and return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def books(self) -> dict[str, Any]:
        return json.loads(self.manage("books", "--json"))

    def kill_worker(self) -> None:
        """SIGKILL the worker and its pool at once, as when the machine's memory runs out."""
        self._until(self._workers, seconds=30)
        for pid in self._workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _workers(self) -> list[int]:
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_worker(int(entry.name))
        ]

    def _is_worker(self, pid: int) -> bool:
        with suppress(OSError):
            words = (Path("/proc") / str(pid) / "cmdline").read_bytes()
            return b"worker" in words and b"celery" in words and self._is_below(pid)
        return False

    def _is_below(self, pid: int) -> bool:
        while pid > 1:
            if pid == self._process.pid:
                return True
            pid = parent(pid)
        return False

    def emulator(self, path: str) -> Any:
        address = f"http://127.0.0.1:{self._environment['EMULATOR_PORT']}/_emulator/{path}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self._environment['PORT']}"

    def stop(self) -> int:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=60)
        self._log.close()
        return code


@pytest.fixture
def product(environment, tmp_path) -> Iterator[Product]:
    product = Product(environment, tmp_path / "state")
    yield product
    product.stop()


def test_a_worker_killed_in_the_middle_loses_nothing_and_doubles_nothing(product):
    key = product.manage("issue_api_key", "--source", "test", "--scopes", "ingest,read,manage")
    replay = ("--events", str(EVENTS), "--customers", "10", "--batch", "20", "--seed", "3")
    access = ("--api-url", product.api, "--api-key", key.strip())

    sent = json.loads(product.manage("replay", *replay, *access).splitlines()[-1])
    for _ in range(KILLS):
        product.kill_worker()
        assert product.books()["balanced"]

    since = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    deadline = time.monotonic() + 150
    while not (books := product.books())["at_rest"]:
        assert time.monotonic() < deadline, books
        assert books["balanced"]
        time.sleep(1)
        product.manage("reconcile", "--since", since, check=False)

    assert sent["accepted"] == books["events"] == EVENTS
    tokens = {
        "input_tokens": sent["context_tokens"],
        "cached_input_tokens": sent["cached_tokens"],
        "output_tokens": sent["generated_tokens"],
        "llm_calls": EVENTS,
    }
    tokens["ai_tokens"] = sum(tokens.values()) - EVENTS
    assert {m["meter"]: int(m["recorded"]) for m in books["meters"]} == tokens
    counted = product.emulator("truth")["event_names"]
    assert {name: int(total["sum"]) for name, total in counted.items()} == {
        f"meterkeeper_{meter}": total for meter, total in tokens.items()
    }
    assert product.emulator("violations")["counts"] == {}
    assert "invariants hold" in product.manage("check_invariants")
    again = json.loads(product.manage("replay", *replay, *access).splitlines()[-1])
    assert (again["accepted"], again["duplicates"]) == (0, EVENTS)
