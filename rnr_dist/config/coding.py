"""The config's sources of programming problems and of sums, and how programs are held."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Many, Positive, Section, Weight, Whole
from rnr_dist.config.sources import Source
from rnr_dist.types import Split

FormName = Literal["chat", "tests", "return", "stub", "lambda", "task"]


class ProblemSource(Source):
    """Where programming problems come from."""

    source: str
    """`builtin:coding`, a file, an address of one, or `hub:NAME[:SPLIT]`."""
    format: Literal["plain", "mbpp", "human_eval", "eval_plus"] = "plain"
    """`plain`: `name`, `arguments`, `text`, `tests`, `solution`. `mbpp`: `task_id`, `text`, `code`,
    `test_list`. `human_eval`: `prompt`, `entry_point`, `test`, `canonical_solution`. `eval_plus`:
    EvalPlus' own files of MBPP+ and HumanEval+, with `base_input` and `plus_input`."""
    first: Whole = 0
    """Problems of a smaller number (`task_id`, or the row from 0) are left out."""
    last: Many = 10**12
    """Problems of a larger number are left out."""
    splits: dict[Split, Weight]
    """Relative share of each split; a problem's split follows from a hash of its text."""
    limit: dict[Split, Many] = Field(default_factory=dict)
    """At most so many problems of a split are used (the first by hash)."""
    failing: Literal["leave_out", "refuse", "keep"] = "leave_out"
    """What becomes of problems whose own solution does not pass their tests, which `rnr check`
    names."""

    @model_validator(mode="after")
    def _no_columns(self) -> ProblemSource:
        if self.columns:
            raise ValueError("columns: found some, but problems have the fields of their format")
        return self


class SandboxSettings(Section):
    """What holds a program that the model wrote."""

    layer: Literal["namespaces", "process"] = "namespaces"
    """`namespaces`: files, processes and network of its own, by bubblewrap; refused where they
    can't be had. `process`: what a single process can give up by itself, which depends on the
    kernel; `rnr check` says what it leaves open."""
    cpu_seconds: Annotated[int, Field(ge=1, le=3600, strict=True)] = 2
    """CPU time of a program, all its tests together."""
    wall_seconds: Positive = 10.0
    """Time on the clock of the same."""
    memory_mib: Annotated[int, Field(ge=64, le=2**20, strict=True)] = 512
    """Memory that a program may ask for."""
    file_mib: Count = 4
    """Size of one file in its private folder, which holds four of these."""
    output_kib: Count = 1024
    """All that its functions return."""
    workers: Whole = 0
    """Programs checked at once; 0: one on each core."""


class Sums(Section):
    """Generated sums: a skill that shall stay."""

    count: Whole = 1000
    """Sums of each split that is evaluated; 0 leaves the measure out. Every split has its own."""
    retain: Whole = 0
    """Sums, with their results, that are trained on to be kept."""
    largest: Annotated[int, Field(ge=2, le=10**6, strict=True)] = 20
    """The first summand is below this."""
    second: Annotated[int, Field(ge=2, le=10**6, strict=True)] = 10
    """So is the second below this."""
    examples: Whole = 3
    """Solved sums that stand before each."""
