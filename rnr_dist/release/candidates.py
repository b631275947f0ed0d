"""Candidates of each merge weight as plain rows, with what the rules compare them to.

In: released steps. Out: rows for tables, figures and the summary. Invariant: what was not measured
is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rnr_dist.release.rules import Reading, utility

if TYPE_CHECKING:
    from rnr_dist.release.loop import ReleasedStep
    from rnr_dist.release.reader import Reader


def trial_rows(
    steps: Sequence[ReleasedStep], base: Reading, reader: Reader
) -> list[dict[str, Any]]:
    """Every candidate of every step, in order; of `reader` the rules and the measures are read.

    The limits are those of the point estimates; the rules themselves hold by their bounds
    (`release.rules`), so a candidate just inside a limit may still fail.
    """
    rows = []
    before = cycle_start = base
    for step in steps:
        context = _context(step, (base, before, cycle_start), reader)
        chosen = [trial for trial in step.trials if trial["coefficient"] == step.coefficient]
        for trial in step.trials:
            known = {key: None if _is_nan(value) else value for key, value in trial.items()}
            # The last reading of the chosen weight is the one that decided.
            rows.append({**known, **context, "winner": trial is chosen[-1]})
        if step.kind == "subtract":
            cycle_start = before
        before = step.reading
    return rows


def _context(
    step: ReleasedStep, readings: tuple[Reading, Reading, Reading], reader: Reader
) -> dict[str, Any]:
    """readings: of the base, before the step, and before its cycle."""
    base, before, cycle_start = readings
    rules, measures = reader.rules, reader.task.measures
    assert base.forget and before.forget
    kept = utility(before, base, measures)
    utility_limit = rules.keep_share * kept - rules.restorable
    if step.kind == "add":
        utility_limit = rules.keep_share * utility(cycle_start, base, measures)
    elif step.last:
        utility_limit = rules.final_keep_share
    allowed = (1 - rules.forget_share) * before.forget.value
    return {
        "forget_base": base.forget.value or 1.0,  # as rule 2 has it
        "forget_before": before.forget.value,
        "utility_before": kept,
        "forget_limit": allowed if step.kind == "subtract" else None,
        "utility_limit": utility_limit,
    }


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
