"""Tasks of one's own as tests name them, whole and broken: `tests.unit.own_tasks:Loud`."""

from dataclasses import replace

import numpy as np

from rnr_dist.measures.measure import Measures
from rnr_dist.tasks.behaviour import Behaviour, BehaviourTask, OwnSettings


class BadWords:
    """1 where a response says `bad`."""

    version = "bad 1"

    def score(self, contexts, responses):
        return np.array([float("bad" in response) for response in responses])


class Upright(BadWords):
    """A column in place of a row."""

    def score(self, contexts, responses):
        return super().score(contexts, responses)[:, None]


class Percents(BadWords):
    def score(self, contexts, responses):
        return super().score(contexts, responses) + 50


class Nameless:
    def score(self, contexts, responses):
        return np.zeros(len(responses))


class Loud(BehaviourTask):
    """A whole task, with a second judge."""

    oracle_name, judge_name = "tests.unit.own_tasks:BadWords", "lexicon"

    @classmethod
    def behaviour(cls, settings):
        return Behaviour("loud", "loud", cls.oracle_name, cls.judge_name)


class Unjudged(Loud):
    judge_name = ""


class Unasked(Loud):
    """Names its oracle in the class, as a task that is no behaviour does."""

    oracle = "tests.unit.own_tasks:BadWords"

    @classmethod
    def behaviour(cls, settings):
        raise AssertionError("nobody needs the behaviour")


class OfUpright(Loud):
    oracle_name = "tests.unit.own_tasks:Upright"


class JudgedByPercents(Loud):
    judge_name = "tests.unit.own_tasks:Percents"


class OfNameless(Loud):
    oracle_name = "tests.unit.own_tasks:Nameless"


class OfNobody(Loud):
    oracle_name = "hearsay"


class Speechless(BehaviourTask):
    """Says no behaviour."""


class TwoTargets(Loud):
    @property
    def measures(self):
        declared = super().measures
        return Measures((*declared, replace(declared.target, name="another")))


class Twice(Loud):
    @property
    def measures(self):
        declared = super().measures.declared
        return Measures((*declared, declared[1]))


class NoUtility(Loud):
    @property
    def measures(self):
        return Measures((super().measures.target,))


class Partial:
    """Has its settings and its data, and measures nothing."""

    Settings, recipe, gives = OwnSettings, "reveal-and-release", frozenset({"contexts"})
    oracle, target_above = "profanity", 0.5

    def __init__(self, config):
        self.measures = ()

    def describe(self):
        return []


class WithoutSettings:
    pass
