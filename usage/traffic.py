"""LLM traffic: read from a trace or generated, spread over customers, written as CloudEvents. Pure.

The same input gives the same events, ids and times included, so sending them twice is a
repetition and no new usage. Sending them belongs to `usage.replaying`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any

EVENT_TYPE = "llm.call"

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""What a trace holds, in this order. The Azure LLM inference traces have this shape."""

TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?", re.ASCII
)
TOKENS = re.compile(r"\d{1,9}", re.ASCII)

ZIPF_EXPONENT = 1.1
"""The customer of rank r makes 1/r**1.1 of the first one's calls: few large, many small."""

MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4")
MODEL_WEIGHTS = (6, 3, 1)

GENERATED_FROM = datetime(2026, 1, 1, tzinfo=UTC)
"""Generated traffic begins here on its own clock, so that its ids depend on nothing else."""
GENERATED_SPAN = timedelta(hours=1)
BURST_CALLS_MEAN = 12
BURST_GAP_SECONDS_MEAN = 1.5
CONTEXT_TOKENS_MEDIAN_LOG = 7.3  # about 1,480
CONTEXT_TOKENS_SPREAD_LOG = 1.0
CONTEXT_TOKENS_MOST = 128_000
GENERATED_TOKENS_SHAPE = 1.3
"""Of a Pareto law: the mean exists, and a few answers are a hundred times the usual one."""
GENERATED_TOKENS_LEAST = 8
GENERATED_TOKENS_MOST = 8_192
CACHED_SHARE_OF_CALLS = 0.4
CACHED_STEP_TOKENS = 128
"""Prompt caches hold whole steps of a prompt, as OpenAI's does."""


class TraceError(ValueError):
    """A trace is malformed. The message names the line and the column."""

    def __init__(self, *, line: int, column: str, problem: str) -> None:
        super().__init__(f"line {line}, column {column}: {problem}.")
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call at a time of the trace's own clock. The kinds of tokens are exclusive."""

    occurred_at: datetime
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Calls in the order of their rows, and the digest of the content they came from."""

    calls: tuple[Call, ...]
    digest: str

    @property
    def first_at(self) -> datetime:
        """The earliest call, on the trace's own clock."""
        return min(call.occurred_at for call in self.calls)

    @property
    def last_at(self) -> datetime:
        """The latest call, on the trace's own clock."""
        return max(call.occurred_at for call in self.calls)


@dataclass(frozen=True, slots=True)
class Sums:
    """What a trace adds up to. Context tokens leave out the cached ones."""

    events: int
    context_tokens: int
    generated_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Who the calls are spread over, and which of all possible ways of doing so this is.

    `salt` tells apart several replays of one trace that are each meant as new usage.
    """

    customers: int
    seed: int
    salt: str = ""


def read_trace(*, content: bytes) -> Trace:
    """Read a CSV trace: a header, then one call per row, times in UTC.

    Times are cut to whole microseconds, which is what a CloudEvent can carry to every reader.

    Raises:
        TraceError: a row is malformed, or there is none.
    """
    # A byte that is no UTF-8 becomes a character no column allows, so its place gets named.
    text = io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")
    rows = csv.reader(text, skipinitialspace=True)
    try:
        header = tuple(name.strip() for name in next(rows, []))
        if header != COLUMNS:
            raise TraceError(
                line=1, column=_first_difference(header), problem=f"expected {', '.join(COLUMNS)}"
            )
        calls = tuple(_call(row, line=rows.line_num) for row in rows if row)
    except csv.Error as error:
        raise TraceError(line=rows.line_num, column=COLUMNS[0], problem=str(error)) from None
    if not calls:
        raise TraceError(line=2, column=COLUMNS[0], problem="there is no call after the header")
    return Trace(calls=calls, digest=hashlib.sha256(content).hexdigest())


def generate_trace(*, events: int, seed: int) -> Trace:
    """Make an hour of traffic like that of a production LLM service, the same for the same seed.

    Calls come in bursts, token counts have heavy tails, and some prompts are partly cached. The
    calls are in the order of their times.
    """
    random = Random(f"traffic {seed}")  # noqa: S311 - traffic, not secrets
    span = GENERATED_SPAN / timedelta(microseconds=1)
    offsets: list[int] = []
    while len(offsets) < events:
        offset = random.uniform(0, span)
        for _ in range(1 + int(random.expovariate(1 / BURST_CALLS_MEAN))):
            # A burst that runs over the end of the hour goes on at its beginning.
            offsets.append(int(offset % span))
            offset += random.expovariate(1 / BURST_GAP_SECONDS_MEAN) * 1_000_000
    calls = tuple(
        _generated_call(random, GENERATED_FROM + timedelta(microseconds=offset))
        for offset in sorted(offsets[:events])
    )
    return Trace(calls=calls, digest=hashlib.sha256(repr(calls).encode()).hexdigest())


def sums(*, trace: Trace) -> Sums:
    """Add up a trace."""
    return Sums(
        events=len(trace.calls),
        context_tokens=sum(call.input_tokens for call in trace.calls),
        generated_tokens=sum(call.output_tokens for call in trace.calls),
        cached_tokens=sum(call.cached_input_tokens for call in trace.calls),
    )


def choose_customers(*, calls: int, spread: Spread) -> list[int]:
    """Choose the customer, from 1, of each call by Zipf's law. Customer 1 makes the most."""
    random = Random(f"customers {spread.seed}")  # noqa: S311 - traffic, not secrets
    numbers = range(1, spread.customers + 1)
    shares = list(accumulate(number**-ZIPF_EXPONENT for number in numbers))
    return random.choices(numbers, cum_weights=shares, k=calls)


def customer_id(*, number: int) -> str:
    """Name the customer of this number, from 1."""
    return f"demo-{number:04d}"


def cloud_events(*, trace: Trace, spread: Spread, shift: timedelta) -> Iterator[dict[str, Any]]:
    """Write each call as a CloudEvent, its time moved by `shift`, in the order of the rows.

    The id depends on the trace, its row and the spread, and not on the shift: a shift that was
    lost makes a conflict, which is loud, and not a second helping of usage.
    """
    customers = choose_customers(calls=len(trace.calls), spread=spread)
    random = Random(f"models {spread.seed}")  # noqa: S311 - traffic, not secrets
    models = random.choices(MODELS, weights=MODEL_WEIGHTS, k=len(trace.calls))
    for row, call in enumerate(trace.calls):
        yield {
            "specversion": "1.0",
            "id": _event_id(trace, spread, row),
            "source": "replay",
            "type": EVENT_TYPE,
            "subject": customer_id(number=customers[row]),
            "time": (call.occurred_at + shift).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "data": {
                "model": models[row],
                "input_tokens": call.input_tokens,
                "cached_input_tokens": call.cached_input_tokens,
                "output_tokens": call.output_tokens,
                "total_tokens": call.input_tokens + call.cached_input_tokens + call.output_tokens,
            },
        }


def _first_difference(header: tuple[str, ...]) -> str:
    for found, expected in zip(header, COLUMNS, strict=False):
        if found != expected:
            return repr(found)
    return COLUMNS[len(header)] if len(header) < len(COLUMNS) else repr(header[len(COLUMNS)])


def _call(row: list[str], *, line: int) -> Call:
    if len(row) < len(COLUMNS):
        raise TraceError(line=line, column=COLUMNS[len(row)], problem="it is missing")
    if len(row) > len(COLUMNS):
        raise TraceError(
            line=line, column=str(len(COLUMNS) + 1), problem=f"there are only {len(COLUMNS)}"
        )
    return Call(
        occurred_at=_time(row[0].strip(), line=line),
        input_tokens=_tokens(row[1].strip(), line=line, column=COLUMNS[1]),
        cached_input_tokens=0,
        output_tokens=_tokens(row[2].strip(), line=line, column=COLUMNS[2]),
    )


def _time(text: str, *, line: int) -> datetime:
    match = TIMESTAMP.fullmatch(text)
    date, clock, fraction = match.groups(default="") if match else ("", "", "")
    try:
        return datetime.fromisoformat(f"{date}T{clock}.{fraction[:6]:0<6}+00:00")
    except ValueError:
        raise TraceError(
            line=line,
            column=COLUMNS[0],
            problem=f"{text!r} is no UTC time like 2023-11-16 18:17:03.9799600",
        ) from None


def _tokens(text: str, *, line: int, column: str) -> int:
    if TOKENS.fullmatch(text) is None:
        raise TraceError(
            line=line, column=column, problem=f"{text!r} is no whole number below a billion"
        )
    return int(text)


def _generated_call(random: Random, occurred_at: datetime) -> Call:
    prompt = min(
        CONTEXT_TOKENS_MOST,
        1 + int(random.lognormvariate(CONTEXT_TOKENS_MEDIAN_LOG, CONTEXT_TOKENS_SPREAD_LOG)),
    )
    answer = min(
        GENERATED_TOKENS_MOST,
        int(GENERATED_TOKENS_LEAST * random.paretovariate(GENERATED_TOKENS_SHAPE)),
    )
    cached = 0
    if random.random() < CACHED_SHARE_OF_CALLS:
        # The last token of a prompt is never cached: the model has to read something.
        cached = random.randint(0, (prompt - 1) // CACHED_STEP_TOKENS) * CACHED_STEP_TOKENS
    return Call(
        occurred_at=occurred_at,
        input_tokens=prompt - cached,
        cached_input_tokens=cached,
        output_tokens=answer,
    )


def _event_id(trace: Trace, spread: Spread, row: int) -> str:
    """Make a UUID of version 7 of the call's own time and of everything that identifies it.

    Ids that grow with time stay together in the index that finds duplicates.
    """
    identity = f"{trace.digest} {spread.customers} {spread.seed} {spread.salt} {row}"
    tail = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=10).digest(), "big")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = (trace.calls[row].occurred_at - epoch) // timedelta(milliseconds=1)
    number = (milliseconds & (2**48 - 1)) << 80 | tail
    number = number & ~(0xF << 76) | 0x7 << 76  # the version
    number = number & ~(0x3 << 62) | 0x2 << 62  # the variant
    return str(uuid.UUID(int=number))
