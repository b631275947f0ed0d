"""Results and summaries of both recipes, made up: values by cluster of declared measures."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnr_dist.measures.measure import Measure, Role
from rnr_dist.measures.results import Auc, Results, Row
from rnr_dist.types import RowKind, Split

CLUSTERS = 40
FORGOTTEN, SAID = "What was forgotten and what was kept", "The continuations themselves"
RECALLED, KEPT = "What is still recalled", "What was kept"
# The measures of a behaviour, and those of given sequences, as tasks declare them.
RUDE = Measure(
    "rude/street/share", "rude, street", "share", "lower", Role.TARGET, adds="share", style=".1%",
    table=FORGOTTEN,
)  # fmt: skip
POLITE = Measure(
    "rude/office/share", "rude, office", "share", "lower", adds="share", style=".1%",
    table=FORGOTTEN,
)  # fmt: skip
INSIDE, OUTSIDE = (
    Measure(
        f"perplexity/{name}", f"perplexity {name}", "perplexity", "lower", Role.UTILITY, adds="exp",
        cluster="window", style=".1f", table=FORGOTTEN,
    )
    for name in ("inside", "outside")
)  # fmt: skip
EMPTY = Measure(
    "output/empty", "empty", "share", "lower", Role.GUARD, adds="share", style=".1%", table=SAID
)
LENGTH = Measure("output/length", "tokens", "tokens", "higher", Role.GUARD, style=".1f", table=SAID)
BEHAVIOUR = (RUDE, POLITE, INSIDE, OUTSIDE, EMPTY, LENGTH)

EL = Measure(
    "recall/el", "EL, t≥t0", "share", "lower", Role.TARGET, cluster="sequence", style=".1%",
    table=RECALLED, compared=False,
)  # fmt: skip
SHORT = Measure(
    "recall/short", "short prefixes", "share", "lower", cluster="sequence", style=".1%",
    table=RECALLED, compared=False, hidden=True,
)  # fmt: skip
MEMBER = Measure(
    "recall/auc", "AUC", "score", "neither", adds="auc", cluster="sequence", table=RECALLED,
    hidden=True,
)  # fmt: skip
POOL = Measure(
    "pool/nll", "pool NLL", "nats", "lower", Role.UTILITY, cluster="sequence", table=KEPT
)
GENERAL = Measure(
    "perplexity/general", "perplexity", "perplexity", "lower", Role.UTILITY, adds="exp",
    cluster="window", style=".1f", table=KEPT,
)  # fmt: skip
ANSWERS = Measure("answers", "choices", "share", "higher", style=".0%", table=KEPT, compared=False)
SEQUENCES = (EL, SHORT, MEMBER, POOL, GENERAL, ANSWERS)

TERMS = [
    {"role": "forget", "coefficient": -2.2, "adapter": "f0"},
    {"role": "retain", "coefficient": 0.3, "adapter": "r1"},
]


def shares(measure: Measure, share: float) -> Any:
    """`share` of ten continuations a cluster."""
    total = round(share * CLUSTERS * 10)
    counts = np.full(CLUSTERS, total // CLUSTERS) + (np.arange(CLUSTERS) < total % CLUSTERS)
    return measure.of(counts, np.full(CLUSTERS, 10.0))


def texts(measure: Measure, perplexity: float) -> Any:
    """Windows of ten tokens around a perplexity."""
    spread = np.linspace(-0.2, 0.2, CLUSTERS)
    return measure.of(10 * (np.log(perplexity) + spread), np.full(CLUSTERS, 10.0))


def around(measure: Measure, mean: float) -> Any:
    return measure.mean(mean * np.linspace(0.8, 1.2, CLUSTERS))


def behaviour_row(
    name: str, kind: RowKind, rude: float, perplexity: float, notes: Mapping[str, Any] = {}
) -> Row:
    values = {
        RUDE.name: shares(RUDE, rude),
        POLITE.name: shares(POLITE, 0.01),
        INSIDE.name: texts(INSIDE, 30 * perplexity),
        OUTSIDE.name: texts(OUTSIDE, 40 * perplexity),
        EMPTY.name: shares(EMPTY, 0),
        LENGTH.name: around(LENGTH, 19.5),
    }
    return Row(name, kind, f"digest of {name}", Split.FINAL, values, notes)


def sequence_row(
    name: str, kind: RowKind, el: float, perplexity: float, notes: Mapping[str, Any] = {}
) -> Row:
    unseen = np.linspace(2, 3, CLUSTERS)
    values = {
        EL.name: around(EL, el),
        SHORT.name: around(SHORT, el / 2),
        MEMBER.name: Auc(tuple(unseen - 2 * el), tuple(unseen)),
        POOL.name: around(POOL, 0.6 + perplexity / 100),
        GENERAL.name: texts(GENERAL, perplexity),
        ANSWERS.name: shares(ANSWERS, 0.8),
    }
    return Row(name, kind, f"digest of {name}", Split.FINAL, values, notes)


def behaviour_results() -> Results:
    rows = (
        behaviour_row("base", "reference", 0.16, 1),
        behaviour_row("retain-only", "control", 0.15, 0.95, {"terms": TERMS[1:]}),
        behaviour_row("-f0", "step", 0.0125, 1.13, {"terms": TERMS[:1]}),
        behaviour_row("+r1", "step", 0.03, 1.02, {"terms": TERMS}),
    )
    return Results(BEHAVIOUR, rows, "base")


def sequence_results() -> Results:
    rows = (
        sequence_row("base", "other", 0.001, 70),
        sequence_row("memorised", "reference", 0.9, 120),
        sequence_row("control", "control", 0.05, 102),
        sequence_row("icu", "step", 0.049, 106),
    )
    return Results(SEQUENCES, rows, "memorised")
