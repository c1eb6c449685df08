"""Putting a mistake in place of the right code, for the length of one test.

A mistake is written as the few words it changes, in a function's source or in a text constant, so
that the table in `bugs` shows it whole. Words that are no longer there are an error, never a test
that passes: a table that has fallen behind the code says so.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import pytest

OURS = ("billing", "billing_project", "usage", "reconciliation", "tests")
"""Packages in which a name may have been imported and must be replaced, too."""


class Misplaced(LookupError):
    """What a bug would change is not there any more: the table must follow the code."""


@dataclass(frozen=True, slots=True)
class Words:
    """Other words in the source of a function, property or method, or in a text constant.

    `place` is `package.module:name` or `package.module:Class.name`. A constant may be a dictionary
    of texts, of which all that hold the words are changed. `right` must be there.
    """

    place: str
    right: str
    wrong: str

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the changed thing in place, wherever it was imported to."""
        _replace(self.place, self._changed, monkeypatch)

    def _changed(self, thing: Any, scope: dict[str, Any], name: str) -> Any:
        if isinstance(thing, str):
            return self._worded(thing)
        if isinstance(thing, dict):
            if not any(self.right in text for text in thing.values()):
                raise Misplaced(f"{self.right!r} is in no text of {self.place}")
            return {key: text.replace(self.right, self.wrong) for key, text in thing.items()}
        function = thing.fget if isinstance(thing, property) else thing
        source = self._worded(textwrap.dedent(inspect.getsource(function)))
        made: dict[str, Any] = {}
        # In the module's own scope, so that what it calls is looked up where it always is.
        code = compile(
            f"from __future__ import annotations\n{source}", f"<planted in {self.place}>", "exec"
        )
        exec(code, scope, made)  # noqa: S102 - our own source with a few words changed
        return made[name]

    def _worded(self, text: str) -> str:
        if self.right not in text:
            raise Misplaced(f"{self.right!r} is not in {self.place}")
        return text.replace(self.right, self.wrong)


@dataclass(frozen=True, slots=True)
class Value:
    """Another value, or another function, at a `place` as of `Words`."""

    place: str
    wrong: Any

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it in place, wherever the right one was imported to."""
        _replace(self.place, lambda *_: self.wrong, monkeypatch)


Change = Words | Value


def _replace(
    place: str,
    changed: Callable[[Any, dict[str, Any], str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module_name, _, path = place.partition(":")
    module = importlib.import_module(module_name)
    *owners, name = path.split(".")
    if not owners:
        right = vars(module).get(name)
        if right is None:
            raise Misplaced(f"there is no {place}")
        wrong = changed(right, vars(module), name)
        for each in _holders(name, right):
            monkeypatch.setattr(each, name, wrong)
        return
    owner = vars(module)[owners[0]]
    if name not in vars(owner):
        raise Misplaced(f"there is no {place}")
    monkeypatch.setattr(owner, name, changed(vars(owner)[name], vars(module), name))


def _holders(name: str, right: Any) -> Iterator[ModuleType]:
    """Yield the modules of ours that know `right` by `name`: its own and those that import it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] not in OURS:
            continue
        held = vars(module).get(name)
        if held is right or (not isinstance(right, FunctionType) and _is_equal(held, right)):
            yield module


def _is_equal(held: Any, right: Any) -> bool:
    return type(held) is type(right) and bool(held == right)
