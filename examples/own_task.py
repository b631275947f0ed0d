"""A task of one's own: make a model stop quoting figures.

    rnr run examples/own_task.yaml          (from the folder that holds own_task.py)

The task is two small classes: an oracle that sees the behaviour in a response, and the task itself,
which names the oracle and says what a response is called that shows the behaviour. Contexts and
running text come from the config; search, adapters, rules, measures and report come with the base.
"""

import re

import numpy as np

from rnr_dist.tasks.behaviour import Behaviour, BehaviourTask


class Digits:
    """Relevance of a response: 1 where it holds a digit."""

    version = "digits 1"

    def score(self, contexts, responses):
        """(n,) floats in [0, 1], one a response."""
        return np.array([1.0 if re.search(r"\d", response) else 0.0 for response in responses])


class Figures(BehaviourTask):
    """Forget to quote figures; keep how the model goes on otherwise."""

    @classmethod
    def behaviour(cls, settings):
        """What tells this behaviour from others."""
        return Behaviour(
            family="figures",  # begins the names of its measures
            word="with figures",  # what tables call a response that shows it
            oracle="own_task:Digits",
            above=0.5,  # the oracle score from which a response shows it
        )
