"""A task, a reader and trainings for methods that are merged: readings follow from coefficients."""

import json
import math
from types import SimpleNamespace

import numpy as np

from rnr_dist.config.release import Release
from rnr_dist.measures.measure import Measure, Measures, Role
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Contrast, Materials
from rnr_dist.types import Adapter, TokenSequence
from tests.unit import fakes
from tests.unit.fakes import Direct

TARGET = Measure("target", "target", "share", "lower", Role.TARGET, adds="share")
PERPLEXITY = Measure("perplexity", "text", "perplexity", "lower", Role.UTILITY, adds="exp")
LENGTH = Measure("length", "tokens", "tokens", "higher", Role.GUARD)


class FakeTask(fakes.FakeTask):
    """Subtracting forgets and costs perplexity; adding an adapter of a method does the same."""

    name, oracle, target_above = "fake", "", 0.5
    gives = frozenset({"contexts", "forget", "retain", "pairs"})
    measures = Measures((TARGET, PERPLEXITY, LENGTH))

    def read_utility(self, bench, model, split):
        away = sum(abs(term.coefficient) for term in model.terms)
        tokens = np.full(20, 100.0)
        return {PERPLEXITY.name: PERPLEXITY.of((3 + 0.03 * away**2) * tokens, tokens)}

    def read_target(self, bench, model, split, sampling):
        away = sum(abs(term.coefficient) for term in model.terms)
        each = np.full(60, 10.0)
        return {
            TARGET.name: TARGET.of(max(0.0, 0.5 - 0.5 * math.sqrt(away)) * each, each),
            LENGTH.name: LENGTH.mean(np.full(60, 20.0)),
        }


def sequence(name, *ids, prefix):
    return TokenSequence(name, "c", ids, name, prefix)


# Rows: a prompt of its own length each; what is retained may have none.
ROWS = Materials(
    forget=(sequence("r0", 1, 2, 3, 4, 5, prefix=2), sequence("r1", 6, 7, 8, prefix=1)),
    retain=(Example((30, 31, 32), 1), Example((33, 34), 0), Example((35, 36, 37), 2)),
    pairs={
        "r0": (sequence("k0", 30, 31, 32, prefix=1),),
        "r1": (sequence("k1", 33, 34, prefix=0), sequence("k0", 30, 31, 32, prefix=1)),
    },
    alternatives={"r0": (Example((1, 2, 20), 2), Example((1, 2, 21), 2))},
    others=(sequence("k0", 30, 31, 32, prefix=1), sequence("k1", 33, 34, prefix=0)),
    external=(Example((40, 41, 42), 1),),
    contrasts=(Contrast(Example((1, 2, 22), 2), tuple(Example((1, 2, n), 2) for n in range(5))),),
    seed=3,
)


def reader(folder, **rules):
    bench = SimpleNamespace(config=SimpleNamespace(release=Release(**rules)))
    return Direct(bench, FakeTask(), folder)


class FakeTrainings:
    """Adapters that are a file with the tokens that were asked for; `log` tells of each."""

    def __init__(self, folder):
        self.folder, self.log = folder, []

    def adapter(self, name, items, training, side, model):
        output = self.folder / name
        output.mkdir(parents=True, exist_ok=True)
        (output / "training.json").write_text(json.dumps({"tokens": training.tokens}))
        self.log.append((name, list(items), training))
        return Adapter(str(output), name, model.digest, side)
