"""The cases by name. Each is imported only when it runs, with Django set up by then."""

CASES = {
    "ingest": "tests.bench.cases.ingest",
    "ingest-growth": "tests.bench.cases.ingest_growth",
    "delivery-stream": "tests.bench.cases.delivery_stream",
    "delivery-v1": "tests.bench.cases.delivery_v1",
    "flush": "tests.bench.cases.flush",
    "questions": "tests.bench.cases.questions",
    "client-record": "tests.bench.cases.client_record",
}
