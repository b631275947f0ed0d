"""Code that runs: does a response solve the problem that its context puts?

In: contexts and responses. Out: the share of the problem's tests that the program passes, or 1
where it passes all; 0 for a context without a problem. Invariant: no program runs but in the
sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from rnr_dist.config.coding import ProblemSource, SandboxSettings
from rnr_dist.config.oracles import OracleSettings
from rnr_dist.data.examiner import Examiner
from rnr_dist.data.programs import load_programs
from rnr_dist.sandbox.layers import layer_of
from rnr_dist.sandbox.verdicts import VERSION
from rnr_dist.types import digest


class TestsSettings(OracleSettings):
    """Which problems, and how programs are held."""

    name: Literal["tests"] = "tests"
    problems: list[ProblemSource] = Field(min_length=1)
    """Those that contexts put."""
    relevance: Literal["share", "all"] = "share"
    """`share`: the share of a problem's tests that pass. `all`: 1 where all do, else 0."""
    sandbox: SandboxSettings = SandboxSettings()


class TestsOracle:
    """Checks each different program once."""

    Settings = TestsSettings

    def __init__(self, settings: TestsSettings):
        self._settings = settings
        told = [one.model_dump(mode="json") for one in settings.problems]
        self.version = f"tests {VERSION} {settings.relevance} {digest(told)[:8]}"

    @staticmethod
    def check(settings: TestsSettings) -> None:
        """Raises InputError where the layer of the sandbox can't be had here."""
        layer_of(settings.sandbox.layer)

    @cached_property
    def _examiner(self) -> Examiner:
        problems = [one for source in self._settings.problems for one in load_programs(source)]
        return Examiner(self._settings.sandbox, problems)

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        verdicts = self._examiner.verdicts(contexts, responses)
        if self._settings.relevance == "all":
            return np.array([float(one.passed) if one else 0.0 for one in verdicts])
        return np.array([one.share if one else 0.0 for one in verdicts])
