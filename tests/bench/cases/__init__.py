"""The cases by name. Each is imported only when it runs, with Django set up by then."""

CASES = {
    "ingest": "tests.bench.cases.ingest",
}
