"""What a program is checked for, and what came out: the sandbox's nouns, and nothing that runs.

In: a program, tests, limits. Out: a `Verdict`. Pure. Invariant: the key of a check holds all that
its verdict depends on but the speed of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rnr_dist.types import digest


class Outcome(StrEnum):
    """How a test of a program ended."""

    PASSED = "passed"
    FAILED = "failed"  # an assertion does not hold of the values that the program gave
    RAISED = "raised"
    UNPARSED = "unparsed"  # the program is no Python
    UNPLAIN = "unplain"  # a value of no built-in type, which no test can be sure of
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_MUCH = "too_much"  # more output than the limit
    ENDED = "ended"  # the process was gone: it exited, or crashed


@dataclass(frozen=True)
class Limits:
    """Of one check. cpu, wall: seconds. memory, file, folder: bytes of the address space, of one
    file, of the private folder. output: bytes of all answers."""

    cpu: int = 2
    wall: float = 10.0
    memory: int = 512 * 2**20
    file: int = 4 * 2**20
    folder: int = 16 * 2**20
    output: int = 2**20


@dataclass(frozen=True)
class Check:
    """A program and its tests. setup: code before each test, of the tests' own side. function: the
    name of the program's that may be one of Python's own."""

    program: str
    tests: tuple[str, ...]
    setup: str = ""
    function: str = ""

    def key(self, limits: Limits, layer: str) -> str:
        """Names the verdict of this check within these limits."""
        return digest([VERSION, asdict(self), asdict(limits), layer])


VERSION = 1  # of the rules by which verdicts are made


@dataclass(frozen=True)
class Verdict:
    """outcomes: one a test, in order. detail: on the first that did not pass. seconds: CPU time of
    the program. hurried: whether the time on the clock ended it, which another run may not do."""

    outcomes: tuple[Outcome, ...]
    detail: str = ""
    seconds: float = 0.0
    hurried: bool = False

    @property
    def share(self) -> float:
        """Share of the tests that passed."""
        return sum(one is Outcome.PASSED for one in self.outcomes) / len(self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether all did."""
        return all(one is Outcome.PASSED for one in self.outcomes)

    @property
    def outcome(self) -> Outcome:
        """The first that is not `passed`, or that."""
        return next((one for one in self.outcomes if one is not Outcome.PASSED), Outcome.PASSED)

    @property
    def parses(self) -> bool:
        """Whether the program is Python at all."""
        return Outcome.UNPARSED not in self.outcomes


def verdict_of(found: Mapping[str, Any]) -> Verdict:
    """The verdict that the judge wrote."""
    outcomes = tuple(map(Outcome, found["outcomes"]))
    return Verdict(outcomes, found["detail"], found["seconds"], found["hurried"])


def whole(outcome: Outcome, check: Check, detail: str) -> Verdict:
    """A verdict with the same outcome for every test."""
    return Verdict((outcome,) * len(check.tests), detail, hurried=outcome is Outcome.TIMED_OUT)
