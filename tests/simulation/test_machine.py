"""The rules of the simulation as a state machine of Hypothesis, which shrinks what it breaks.

The rules and the judgement are those of `make simulate`; Hypothesis draws them instead of a seed.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.simulation import checks, running
from tests.simulation.rules import RULES, Rule
from tests.simulation.world import World, opened

pytestmark = [pytest.mark.simulation, pytest.mark.django_db]

EXAMPLES = 20
STEPS = 40


class Simulation(RuleBasedStateMachine):
    """A world for each example. At its end it runs to rest, when nothing has failed by then."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._world: World | None = None
        self._taken = 0
        self._is_sound = True

    @initialize(seed=st.integers(0, 99))
    def open_world(self, seed: int) -> None:
        self._world = self._stack.enter_context(opened(seed))

    def take(self, taken: Rule, draws: dict[str, Any]) -> None:
        assert self._world is not None
        self._taken += 1
        self._is_sound = False
        taken.act(self._world, **draws)
        checks.after_step(self._world, step=self._taken)
        self._is_sound = True

    def teardown(self) -> None:
        with self._stack:
            if self._world is not None and self._is_sound:
                checks.run_to_rest(self._world)


def _as_rule(name: str, of: Rule) -> Any:
    def act(self: Simulation, **draws: Any) -> None:
        self.take(of, draws)

    act.__name__ = name
    return rule(**{key: st.sampled_from(values) for key, values in of.draws.items()})(act)


for _name, _rule in RULES.items():
    # Hypothesis knows no weights: what is to come more often is there more than once.
    for _copy in range(1 + _rule.weight // 6):
        setattr(Simulation, f"{_name}_{_copy}", _as_rule(f"{_name}_{_copy}", _rule))


def test_no_order_of_steps_bills_too_much_or_loses_a_unit():
    """F01-F90 as they come, I1-I22 all along (RELIABILITY L2)."""
    run_state_machine_as_test(
        Simulation,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_seed_draws_the_same_steps_again():
    assert list(running.drawn(7, count=40)) == list(running.drawn(7, count=40))
    assert list(running.drawn(7, count=40)) != list(running.drawn(8, count=40))
    assert {name for seed in range(20) for name, _ in running.drawn(seed, count=60)} == set(RULES)
