"""One merge weight of Eq. 1, searched under the rules.

In: a step, an adapter and the range of its weight. Out: the chosen weight with every trial.
"""

from __future__ import annotations

import numpy as np

from rnr_dist.config.schema import Coefficients
from rnr_dist.release.choice import Choice, Reader
from rnr_dist.release.rules import Step
from rnr_dist.types import Adapter, ModelRef


def candidates(coefficients: Coefficients) -> list[float]:
    """Geometrically spaced weights, both ends included, to three digits, each once."""
    spaced = np.geomspace(coefficients.low, coefficients.high, coefficients.trials)
    return list(dict.fromkeys(float(f"{value:.3g}") for value in spaced))


def search_weight(
    name: str,
    step: Step,
    model: ModelRef,
    adapter: Adapter,
    coefficients: Coefficients,
    reader: Reader,
) -> tuple[float, Choice]:
    """The weight with which `adapter` takes `step` from `model`, among `candidates`."""
    sign = 1.0 if step.kind == "add" else -1.0
    weights = {str(weight): weight for weight in candidates(coefficients)}
    models = {label: model.plus(sign * weight, adapter) for label, weight in weights.items()}
    choice = reader.choose(name, step, models)
    return weights[choice.candidate], choice
