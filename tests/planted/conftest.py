"""A test item for each planted bug and each directed test that must find it.

The items are the directed tests themselves, with their own fixtures, in the ordinary session: each
is run with the bug in place from before its first fixture until after its last, and passes when
the test fails as the bug's entry says. Each directed test is also run as it is, so that what fails
with the bug is known to fail because of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError

from tests.planted.bugs import BUGS, Bug

TABLE = "test_planted_bugs.py"
CONTROL = "no_bug"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add an item for each bug and test where the table's own tests are collected.

    Only now, because fixtures belong to the nodes of the directories: those that the session has
    made must be used, and making others first would take the fixtures from them.
    """
    tables = {item.parent for item in items if item.path.name == TABLE}
    for table in tables:
        tests = _directed_tests(items, sorted({node_id for bug in BUGS for node_id in bug.tests}))
        items += [Caught.of(tests[node_id], table, bug) for bug in BUGS for node_id in bug.tests]
        items += [Caught.of(test, table, None) for test in tests.values()]


def _directed_tests(
    items: Iterable[pytest.Item], node_ids: Iterable[str]
) -> dict[str, pytest.Function]:
    """Return the items pytest makes for `node_ids`, each under its own module and directories."""
    nodes: dict[Path | str, Any] = {
        node.path: node
        for item in items
        for node in item.iter_parents()
        if isinstance(node, pytest.Directory)
    }
    root = next(iter(items)).config.rootpath
    for node_id in node_ids:
        path = node_id.partition("::")[0]
        way = [root / path, *(root / path).parents]
        for lower, upper in reversed(list(pairwise(way))):
            if lower not in nodes and upper in nodes:
                nodes = {each.path: each for each in _collected(nodes[upper])} | nodes
        if node_id not in nodes:
            nodes |= {f"{path}::{each.name}": each for each in _collected(nodes[root / path])}
    return {node_id: nodes[node_id] for node_id in node_ids}


def _collected(node: pytest.Collector) -> list[Any]:
    """Return what is below a node, its directory's fixtures registered on the way."""
    report = node.ihook.pytest_make_collect_report(collector=node)
    if not report.passed:
        raise node.CollectError(str(report.longrepr))
    return report.result


class Caught(pytest.Function):
    """A directed test that passes when it fails with the bug, or as it is when there is none."""

    bug: Bug | None
    _monkeypatch: pytest.MonkeyPatch

    @classmethod
    def of(cls, test: pytest.Function, table: pytest.Module, bug: Bug | None) -> Caught:
        label, test_name = bug.name if bug else CONTROL, f"{test.path.stem}::{test.name}"
        item: Caught = cls.from_parent(
            test.parent,
            name=f"{label}[{test_name}]",
            originalname=test.originalname,
            callspec=getattr(test, "callspec", None),
            fixtureinfo=test._fixtureinfo,
        )
        item.bug = bug
        item.add_marker(pytest.mark.planted)
        item._id = table.id.child(label).with_params(test_name)
        return item

    def setup(self) -> None:
        self._monkeypatch = pytest.MonkeyPatch()
        for change in self.bug.changes if self.bug else ():
            change.plant(self._monkeypatch)
        super().setup()

    def runtest(self) -> None:
        if self.bug is None:
            super().runtest()
            return
        try:
            super().runtest()
        except (AssertionError, pytest.fail.Exception, *self.bug.shows_as, DatabaseError) as error:
            if isinstance(error, DatabaseError) and not self._is_refusal(error):
                raise
            self.add_report_section("call", "caught", f"{type(error).__name__}: {error}")
        else:
            pytest.fail(f"survived {self.originalname}: {self.bug.wrong}", pytrace=False)

    def _is_refusal(self, error: DatabaseError) -> bool:
        return bool(self.bug and self.bug.refusal and self.bug.refusal in str(error))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self._monkeypatch.undo()
