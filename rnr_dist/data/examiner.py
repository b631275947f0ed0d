"""Verdicts on what a model wrote to solve problems, and on the problems' own solutions.

In: problems, contexts, responses. Out: verdicts. Invariant: a program has as much time as its
problem's own solution takes, many times over, on the machine that checks both.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rnr_dist.config.coding import SandboxSettings
from rnr_dist.data.code_forms import program_of
from rnr_dist.data.programs import Problem
from rnr_dist.run.places import cache_folder, require_cache
from rnr_dist.sandbox.kept import Kept
from rnr_dist.sandbox.layers import layer_of
from rnr_dist.sandbox.runner import Sandbox
from rnr_dist.sandbox.verdicts import Limits, Verdict

TIMES_OWN = 20  # of the CPU seconds that a problem's own solution takes


def limits_of(settings: SandboxSettings) -> Limits:
    """The config's limits, in bytes and seconds."""
    file = settings.file_mib * 2**20
    return Limits(
        cpu=settings.cpu_seconds,
        wall=settings.wall_seconds,
        memory=settings.memory_mib * 2**20,
        file=file,
        folder=4 * file,
        output=settings.output_kib * 2**10,
    )


class Examiner:
    """settings: of the sandbox. Raises InputError where its layer can't be had here."""

    def __init__(self, settings: SandboxSettings, problems: Sequence[Problem]):
        self.problems = list(problems)
        self._limits = limits_of(settings)
        layer = layer_of(settings.layer)
        require_cache()
        kept = Kept(cache_folder() / "verdicts.sqlite")
        self.sandbox = Sandbox(layer, self._limits, kept, settings.workers or None)
        self._solutions: dict[str, Verdict] = {}
        self._by_name: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            self._by_name[problem.name].append(problem)

    def solutions(self, problems: Sequence[Problem]) -> dict[str, Verdict]:
        """The verdict on each problem's own solution, by the problem's id; those that have one."""
        different = {one.id: one for one in problems if one.id not in self._solutions}
        new = [one for one in different.values() if one.solution.strip()]
        # A slow solution is slow, not wrong: it has more time than any program.
        longer = replace(self._limits, cpu=10 * self._limits.cpu, wall=10 * self._limits.wall)
        checks = [one.check(one.solution) for one in new]
        found = self.sandbox.check_all(checks, [longer] * len(new))
        self._solutions |= {one.id: verdict for one, verdict in zip(new, found, strict=True)}
        wanted = {one.id for one in problems}
        return {key: verdict for key, verdict in self._solutions.items() if key in wanted}

    def problem_of(self, context: str) -> Problem | None:
        """The problem whose text a context holds; None for a context of another kind."""
        told = " ".join(context.split())
        named = [
            problem
            for name in dict.fromkeys(re.findall(r"[^\W\d]\w*", context))
            for problem in self._by_name.get(name, ())
        ]
        held = [one for one in named if " ".join(one.text.split()) in told]
        return max(held, key=lambda one: len(one.text), default=None)

    def verdicts(self, contexts: Sequence[str], responses: Sequence[str]) -> list[Verdict | None]:
        """A verdict on each response; None for a context that holds no problem."""
        problems = {text: self.problem_of(text) for text in dict.fromkeys(contexts)}
        asked = [
            (problem, program_of(context, response, problem))
            for context, response in zip(contexts, responses, strict=True)
            if (problem := problems[context])
        ]
        own = self.solutions([problem for problem, _ in asked])
        found = iter(
            self.sandbox.check_all(
                [problem.check(program) for problem, program in asked],
                [self._within(own.get(problem.id)) for problem, _ in asked],
            )
        )
        return [next(found) if problems[context] else None for context in contexts]

    def _within(self, own: Verdict | None) -> Limits:
        """Limits of a program; own: the verdict on its problem's own solution."""
        most = math.ceil(TIMES_OWN * own.seconds) if own else 0
        return replace(self._limits, cpu=max(self._limits.cpu, most))
