"""What of a model's programs is right: pass@1 and pass@k, by form, with what is no Python apart.

In: samples with their share of passed tests, verdicts. Out: measures, one cluster a context.
Invariant: a program counts as right only where all tests pass; what does not parse is told beside
what fails, never instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb

from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.shares import FORGOTTEN
from rnr_dist.sandbox.verdicts import Verdict
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Context, Sample

BY_FORM = "Programs by the form in which they are asked for"
ALL_PASS = 1 - 1e-9  # a share of passed tests from which on it is all of them


def pass_at_k(n: int, right: int, k: int) -> float:
    """P(one of k programs is right), from n that were drawn, of which so many are: without bias,
    1 - C(n-c,k)/C(n,k) (Chen et al. 2021, eq. 1). Raises ValueError for k above n."""
    if k > n:
        raise ValueError(f"pass@{k} of {n} programs; expected at most so many")
    return 1 - comb(n - right, k) / comb(n, k)


@dataclass(frozen=True)
class Programs:
    """Measures of programs. forms: those that are trained on, and read by the 90 % rule. held_out:
    others, only evaluated. k: of pass@k; 1 leaves it out."""

    forms: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    k: int = 1

    @cached_property
    def target(self) -> Measure:
        """pass@1 over all forms that are trained on."""
        return _share("pass_at_1", "pass@1", "lower", Role.TARGET, table=FORGOTTEN)

    @cached_property
    def at_k(self) -> Measure:
        """pass@k over the same."""
        return Measure(
            f"coding/pass_at_{self.k}",
            f"pass@{self.k}",
            "share",
            "lower",
            style=".1%",
            table=FORGOTTEN,
        )

    @cached_property
    def parses(self) -> Measure:
        """Programs that are Python, over the same."""
        return _share("parses", "parses", "neither", table=FORGOTTEN)

    @cached_property
    def different(self) -> Measure:
        """Different responses among those of a context."""
        return Measure(
            "coding/different", "different", "share", "neither", style=".0%", table=BY_FORM
        )

    @cached_property
    def by_form(self) -> dict[str, tuple[Measure, Measure]]:
        """(pass@1, parses) of each form."""
        return {
            form: (
                _share(f"{form}/pass_at_1", f"{self._told(form)}, pass@1", "lower", table=BY_FORM),
                _share(f"{form}/parses", f"{self._told(form)}, parses", "neither", table=BY_FORM),
            )
            for form in (*self.forms, *self.held_out)
        }

    def _told(self, form: str) -> str:
        return f"{form} (held out)" if form in self.held_out else form

    @property
    def declared(self) -> tuple[Measure, ...]:
        """In the order of tables."""
        pairs = [measure for pair in self.by_form.values() for measure in pair]
        more = (self.at_k,) if self.k > 1 else ()
        return (self.target, *more, self.parses, *pairs, self.different)

    def read_target(
        self, samples: Sequence[Sample], order: Sequence[Context]
    ) -> dict[str, ClusterMean]:
        """The target, over the contexts in `order`."""
        rows = _rows(samples, order)
        return {self.target.name: self.target.of(*_right(rows))}

    def read(
        self,
        samples: Sequence[Sample],
        verdicts: Sequence[Verdict | None],
        order: Sequence[Context],
    ) -> dict[str, ClusterMean]:
        """All of them. verdicts: of the samples; order: contexts, whose group is their form."""
        parsed = {id(s): v is not None and v.parses for s, v in zip(samples, verdicts, strict=True)}
        trained = [context for context in order if context.group in self.forms]
        rows = _rows(samples, trained)
        found = self.read_target(samples, trained)
        found[self.parses.name] = self.parses.of(*_counted(rows, parsed))
        found[self.different.name] = self.different.of(
            [float(len({one.text.strip() for one in row})) for row in rows],
            [len(row) for row in rows],
        )
        if self.k > 1:
            found[self.at_k.name] = self.at_k.mean(
                pass_at_k(len(row), sum(one.score >= ALL_PASS for one in row), self.k)
                for row in rows
            )
        for form, (passes, parses) in self.by_form.items():
            own = _rows(samples, [context for context in order if context.group == form])
            found[passes.name] = passes.of(*_right(own))
            found[parses.name] = parses.of(*_counted(own, parsed))
        return found


def solved(name: str, title: str) -> Measure:
    """pass@1 on a further set of problems."""
    return _share(f"{name}/pass_at_1", f"{title}, pass@1", "lower", table=FORGOTTEN)


def read_solved(
    measure: Measure, samples: Sequence[Sample], order: Sequence[Context]
) -> dict[str, ClusterMean]:
    """Its value over the contexts in `order`."""
    return {measure.name: measure.of(*_right(_rows(samples, order)))}


def _share(
    name: str, title: str, better: str, role: Role = Role.INFORMATION, table: str = ""
) -> Measure:
    return Measure(
        f"coding/{name}",
        title,
        "share",
        "lower" if better == "lower" else "neither",
        role,
        adds="share",
        style=".1%",
        table=table,
    )


def _rows(samples: Sequence[Sample], order: Sequence[Context]) -> list[list[Sample]]:
    held: dict[str, list[Sample]] = {context.id: [] for context in order}
    for sample in samples:
        if sample.context_id in held:
            held[sample.context_id].append(sample)
    return [held[context.id] for context in order]


def _right(rows: Sequence[Sequence[Sample]]) -> tuple[list[float], list[int]]:
    """(right programs, programs) of each context."""
    passes = [float(sum(one.score >= ALL_PASS for one in row)) for row in rows]
    return passes, [len(row) for row in rows]


def _counted(
    rows: Sequence[Sequence[Sample]], held: dict[int, bool]
) -> tuple[list[float], list[int]]:
    return [float(sum(held[id(one)] for one in row)) for row in rows], [len(row) for row in rows]
