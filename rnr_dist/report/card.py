"""The model card of a run's result: what it was made to forget, by what, with which figures.

In: a config, the result, the run's results. Out: a `weights.export.Card`. Invariant: figures are
those of the evaluated split, before and after read on the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rnr_dist.config.schema import Config
from rnr_dist.measures.results import Results, read_results
from rnr_dist.report.summary import own_row, read_summary
from rnr_dist.report.verdict import change_of, verdict
from rnr_dist.run.directory import RunDir
from rnr_dist.tasks.evaluation import RESULTS
from rnr_dist.types import ModelRef
from rnr_dist.weights.export import Card, CardScore
from rnr_dist.weights.provenance import Origin, origin_of

# What the card calls a recipe's own method, and what it made the model forget.
MADE_BY = {
    "reveal-and-release": "Reveal-and-Release (Eq. 1)",
    "teach-reveal-release": "Reveal-and-Release (Eq. 1) on a model that was taught first",
    "unlearn-sequences": "iterative contrastive unlearning (ICU)",
}
GIVEN_SEQUENCES = "given sequences"
# What a recipe has trained the base to, before it forgot.
BEFORE = {
    "teach-reveal-release": "was taught the task",
    "unlearn-sequences": "memorised the sequences",
}


def card_of(run: RunDir, config: Config, result: ModelRef) -> Card:
    """The card; without figures where the run was not evaluated."""
    forgotten = GIVEN_SEQUENCES if config.way == "epochs" else config.task.name
    path, told = run.path / "evaluate" / RESULTS, run.path / "summary.json"
    scores = card_scores(read_results(path)) if path.exists() else {}
    notes = [f"In short: {verdict(read_summary(told))}."] if scores and told.exists() else []
    return Card(forgotten, MADE_BY[config.recipe], base_of(config, result), notes, scores)


def base_of(config: Config, result: ModelRef) -> Origin:
    """Where others find the checkpoint that the result's terms are added to.

    Nowhere, where a run has trained it itself: a model that has memorised given sequences, or was
    taught what it then forgot.
    """
    before = BEFORE.get(config.recipe)
    if before and result.terms and (config.way == "merge" or config.memorise.enabled):
        known = origin_of(config.model, Path(result.checkpoint))
        note = f"The adapter belongs to {known.hub or 'a model'} after it {before}."
        return Origin("", known.licence, known.language, note)
    return origin_of(config.model, Path(result.checkpoint))


def card_scores(results: Results) -> Mapping[str, CardScore]:
    """The result's scores beside those of the model that it is compared with."""
    last = own_row(results.rows)
    before = results.scores[results.reference]
    return {
        name: CardScore(
            score.value,
            score.ci95,
            last.split,
            score.n_clusters,
            score.n_samples,
            before[name].value if name in before else None,
            change_of(score),
        )
        for name, score in results.scores[last.name].items()
    }
