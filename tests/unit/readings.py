"""Readings and steps made by hand, for the tests of the rules and of the search."""

import math

import numpy as np

from rnr_dist.config.release import Release
from rnr_dist.measures.fluency import EMPTY, FLUENCY
from rnr_dist.release.rules import MergeStep, Reading
from rnr_dist.stats import ClusterMean
from tests.unit.fakes import INSIDE, MEASURES, OUTSIDE

CONTEXTS, EACH, WINDOWS, TOKENS = 60, 10, 20, 100.0


def ruled(**settings):
    """Rules under which an addition is trusted to bring everything back."""
    return Release(restorable=1, **settings)


RULES = ruled()


def texts(perplexity, windows=WINDOWS):
    nll = np.full(windows, math.log(perplexity) * TOKENS)
    return ClusterMean(nll, np.full(windows, TOKENS), exponential=True)


def shared(share, contexts=CONTEXTS):
    """Every context has the same share, so that the bootstrap sees no noise."""
    each = np.full(contexts, float(EACH))
    return ClusterMean(share * each, each, proportion=True)


def counted(counts):
    counts = np.array(counts, float)
    return ClusterMean(counts, np.full(len(counts), float(EACH)), proportion=True)


def guards(**changed):
    values = {guard.name: 4.0 for guard in FLUENCY} | {EMPTY.name: 0.05}
    values |= {f"output/{name}": value for name, value in changed.items()}
    return {name: ClusterMean(np.full(8, value), np.ones(8)) for name, value in values.items()}


def reading(forget, u=1.0, outside=None, name="m", **changed):
    """A reading of utility `u` (`outside` in the other domain) against `BASE`."""
    measured = shared(forget) if isinstance(forget, float) else forget
    domains = {INSIDE.name: texts(20 / u), OUTSIDE.name: texts(30 / (outside or u))}
    return Reading(name, domains, measured, guards(**changed))


BASE = reading(0.5, name="base")


def subtraction(last=False, before=BASE):
    return MergeStep(MEASURES, "subtract", BASE, before, before, last)


def addition(cycle_start=BASE, before=BASE):
    return MergeStep(MEASURES, "add", BASE, before, cycle_start)
