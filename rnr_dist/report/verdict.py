"""What a run came to in one sentence, what its rows are, and where to go on.

In: a summary. Out: plain lines. Invariant: every number is one of the summary's, and what a measure
is called, its task has said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.results import Score
from rnr_dist.report.summary import Summary, SummaryRow

# Rows whose names are the same whatever is forgotten.
KNOWN = {
    "base": "the model as it was",
    "memorised": "the base after it has memorised the sequences",
    "retain-only": "the control: the retain adapter is added, nothing is subtracted",
    "control": "the control: it has never seen the sequences to be forgotten",
    "joint": "the weights of all adapters searched together, after one by one",
}
STEPS = {"forget": "subtracted: less of what was revealed", "retain": "added: what shall stay"}


def verdict(summary: Summary) -> str:
    """How the result's target and utilities differ from the reference's, and whether that is sure.

    A change with an interval that holds 0 may be chance, and the sentence says so.
    """
    own, declared = summary.own, summary.declared
    reference = next(row for row in summary.rows if row.name == summary.reference)
    target = _told(declared.target, own, reference)
    kept = [_told(measure, own, reference) for measure in declared.of(Role.UTILITY)]
    told = [target, *([", ".join(filter(None, kept))] if any(kept) else [])]
    met = _met(summary)
    rules = "" if met is None else "; the rules are met" if met else "; a rule is missed"
    against = f"{own.label} against {summary.reference}"
    return f"{against}: {'; '.join(filter(None, told))} (95 % intervals){rules}"


def rows_explained(rows: Sequence[SummaryRow], reference: str) -> Iterator[tuple[str, str]]:
    """Each row's label, and what it is."""
    for row in rows:
        told = KNOWN.get(row.name, _explained(row))
        if row.name == reference:
            told += "; changes are against it"
        yield row.label, told


def _explained(row: SummaryRow) -> str:
    terms = row.notes.get("terms") or []
    if row.kind == "step" and terms and row.name[0] in "+-":
        last, weight = terms[-1], abs(terms[-1]["coefficient"])
        done = STEPS[last["role"]]
        return f"step {len(terms)} of Eq. 1: {last['role']} adapter {row.name[1:]}, {done}, " + (
            f"with weight {weight:.3g}"
        )
    if row.kind == "step":
        epoch = row.notes.get("best")
        return "the result" + (f", as it was after epoch {epoch}" if epoch is not None else "")
    return "a method beside the recipe's own" if row.kind == "method" else "a further model"


def change_of(score: Score) -> tuple[float, float, float] | None:
    """Relative change against the reference with both ends of its interval; None where the
    reference's value is 0 or there is no reference."""
    if score.ratio is None or score.ratio_ci95 is None or math.isnan(score.ratio):
        return None
    low, high = score.ratio_ci95
    return score.ratio - 1, low - 1, high - 1


def _told(measure: Measure, own: SummaryRow, reference: SummaryRow) -> str:
    score, before = own.scores.get(measure.name), reference.scores.get(measure.name)
    if score is None:
        return ""
    change = change_of(score) if measure.compared else None
    if change is None:
        values = [one.value for one in (before, score) if one is not None]
        return f"{measure.title} {' → '.join(_signed(value, measure.style) for value in values)}"
    value, low, high = (_percent(one) for one in change)
    sure = "" if change[1] * change[2] > 0 else ", may be chance"
    return f"{measure.title} {value} % ({low} … {high} %{sure})"


def _met(summary: Summary) -> bool | None:
    """Whether the result meets the rules by which it was chosen; None where nothing says it."""
    met = summary.own.notes.get("met")
    if met is not None:
        return bool(met)
    chosen = [trial for trial in summary.details.trials if trial.get("winner")]
    chosen = [*chosen, *(one for one in summary.details.front if one.get("winner"))]
    return bool(chosen[-1]["feasible"]) if chosen else None


def _percent(change: float) -> str:
    return _signed(100 * change, "+.0f")


def _signed(value: float, style: str) -> str:
    return "–" if math.isnan(value) else format(value, style).replace("-", "−")
