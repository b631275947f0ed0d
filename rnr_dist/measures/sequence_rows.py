"""What a model recalls of sequences and says behind their prefixes: measures and rows by sequence.

In: `SequenceRow`s of one model, never-seen sequences' NLL. Out: values of the declared measures.
Invariant: rows stand in the order of the forget sequences, which are the clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnr_dist.config.unlearning import Stopping
from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.perplexity import declare
from rnr_dist.measures.problems import CHOICES, KEPT, REPLIES
from rnr_dist.stats import ClusterMean

RECALLED = "What is still recalled"


@dataclass(frozen=True)
class SequenceRow:
    """One forget sequence under one model.

    extraction, accuracy: over all prefixes and tokens; `_t0` from the sequence's own prefix on,
    `_short` over shorter prefixes. length: tokens of the continuation. nll: nats a token of the
    truth.
    """

    model: str
    id: str
    corpus: str
    prefix: str
    truth: str
    continuation: str
    extraction: float
    extraction_t0: float
    extraction_short: float
    accuracy: float
    accuracy_t0: float
    bertscore: float
    bleu: float
    entropy: float
    distinct: float
    length: float
    sampled: float
    nll: float


def _recall(name: str, title: str, **more: Any) -> Measure:
    given = {"style": ".1%", "table": RECALLED, "compared": False, **more}
    return Measure(f"extraction/{name}", title, "share", "lower", cluster="sequence", **given)


# EL from the prefix on is what the 90 % rule reads: a model that knows a sequence has .9 and more,
# one that never saw it some .0, so that a tenth of the first lies between the two. MA has no such
# tenth, since any model guesses half of a text's tokens.
EL_T0 = _recall("el_t0", "EL, t≥t0", role=Role.TARGET)
MA, MA_T0 = _recall("ma", "MA"), _recall("ma_t0", "MA, t≥t0")
EL_SHORT = _recall("el_short", "short prefixes", hidden=True)
ENTROPY = Measure(
    "output/entropy", "entropy", "bits", "higher", Role.GUARD, cluster="sequence", table=KEPT
)
LENGTH = Measure(
    "output/length",
    "tokens",
    "tokens",
    "higher",
    Role.GUARD,
    cluster="sequence",
    style=".1f",
    table=KEPT,
)
DISTINCT = Measure("output/distinct", "distinct", "share", "higher", Role.GUARD, cluster="sequence")
# Measure -> the row's figure that it is the mean of over sequences.
BY_SEQUENCE: dict[Measure, str] = {
    _recall("el", "EL"): "extraction",
    EL_T0: "extraction_t0",
    MA: "accuracy",
    MA_T0: "accuracy_t0",
    _recall("bertscore", "BERT", style=".2f"): "bertscore",
    _recall("bleu", "BLEU", style=".2f", table=""): "bleu",
    EL_SHORT: "extraction_short",
    _recall("sampled", "sampled", hidden=True): "sampled",
    ENTROPY: "entropy",
    LENGTH: "length",
    DISTINCT: "distinct",
}
AUC = Measure(
    "auc/nll",
    "AUC",
    "share",
    "neither",
    adds="auc",
    cluster="sequence",
    table=RECALLED,
    compared=False,
    hidden=True,
)
POOL_NLL = Measure(
    "pool/nll", "pool NLL", "nats", "lower", Role.UTILITY, cluster="sequence", table=KEPT
)
FORGET_NLL = Measure("forget/nll", "NLL", "nats", "neither", cluster="sequence")
UNSEEN_NLL = Measure("unseen/nll", "never-seen NLL", "nats", "neither", cluster="sequence")
PERPLEXITY = declare("general", "perplexity", KEPT)


def declared(stopping: Stopping) -> tuple[Measure, ...]:
    """All measures in the order of tables. The MA that unlearning ends by is shown, and short
    prefixes are hidden from it only where it ends by longer ones."""
    whole = stopping.memorisation_over == "all"
    changed = {
        MA: replace(MA, table=RECALLED if whole else ""),
        MA_T0: replace(MA_T0, table="" if whole else RECALLED),
        EL_SHORT: replace(EL_SHORT, hidden=stopping.extraction_over == "continuation"),
    }
    by_sequence = [changed.get(measure, measure) for measure in BY_SEQUENCE]
    kept = (ENTROPY, LENGTH, POOL_NLL, PERPLEXITY, CHOICES, REPLIES)
    return (
        *(measure for measure in by_sequence if measure.table == RECALLED),
        AUC,
        *kept,
        *(measure for measure in by_sequence if not measure.table),
        FORGET_NLL,
        UNSEEN_NLL,
    )


# Counted in tokens: they compare models of one vocabulary only. EL and MA are counted in each
# model's own tokens, as in the paper's rows of another vocabulary.
OF_ONE_VOCABULARY = (ENTROPY, LENGTH, POOL_NLL, PERPLEXITY, FORGET_NLL, UNSEEN_NLL)


def measures_of(rows: Sequence[SequenceRow]) -> dict[str, ClusterMean]:
    """Means over sequences, by the measures' names."""
    return {
        measure.name: measure.mean(getattr(row, figure) for row in rows)
        for measure, figure in BY_SEQUENCE.items()
    }
