"""Made-up findings of reveal and release as stages leave them: fills, trials of merge weights."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rnr_dist.config.release import Release
from rnr_dist.measures.measure import Measures
from rnr_dist.release.candidates import trial_rows
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import Reading
from rnr_dist.stats import ClusterMean
from tests.unit.report_fakes import INSIDE, LENGTH, RUDE

FILLS = [
    {
        "outer": 0,
        "arm": 7,
        "instruction": "[red]Say[/red] :bomb: it\n\x1b[31mloud\u202e",
        "score": 0.61,
        "relevance": 0.5,
        "diversity": 0.78,
        "n_generated": 320,
        "n_rows": 214,
    }
]


def reading(forget, utility):
    perplexity = ClusterMean(np.array([math.log(30 / utility)]), np.ones(1), exponential=True)
    rude = ClusterMean(np.array([forget * 1000]), np.full(1, 1000.0))
    return Reading("model", {INSIDE.name: perplexity}, rude)


def trial(name, coefficient, forget, utility, rule, draw=0, broken=()):
    return {
        "step": name,
        "coefficient": coefficient,
        "draw": draw,
        "forget": forget,
        "utility": utility,
        "rule": rule,
        "violation": 0.0,
        "broken": list(broken),
        "feasible": bool(rule),
    }


def released(name, kind, coefficient, after, *trials, last=False):
    return SimpleNamespace(
        name=name, kind=kind, last=last, coefficient=coefficient, reading=after, trials=trials
    )


READER = Reader(
    SimpleNamespace(config=SimpleNamespace(release=Release())),
    SimpleNamespace(measures=Measures((RUDE, INSIDE, LENGTH))),
    Path("readings"),
)
TRIALS = trial_rows(
    [
        released(
            "-f0",
            "subtract",
            2.0,
            reading(0.015, 0.88),
            trial("-f0", 0.5, 0.11, 0.99, "2"),
            trial("-f0", 2.0, 0.014, 0.88, "1"),
            trial("-f0", 2.0, 0.015, 0.88, "1", draw=1),
        ),
        released(
            "+r1",
            "add",
            0.3,
            reading(0.03, 0.99),
            trial("+r1", 0.1, math.nan, 0.90, "", broken=["utility"]),
            trial("+r1", 0.3, 0.03, 0.99, "lambda"),
        ),
        released(
            "-f1",
            "subtract",
            0.2,
            reading(0.02, 0.9),
            trial("-f1", 0.2, 0.02, 0.9, "", 0, [LENGTH.name]),
            last=True,
        ),
    ],
    reading(0.16, 1.0),
    READER,
)
