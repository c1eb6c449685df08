"""What must hold of usage's tables at any moment, each as a query that returns what violates it.

The numbers are those of `docs/reliability.md`. The database enforces some of it too; a check that
asks again costs little and also sees what was done past the guards.
"""

from usage.invariants.checking import INVARIANTS, SAMPLE, report, violations

__all__ = ["INVARIANTS", "SAMPLE", "report", "violations"]
