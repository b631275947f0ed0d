"""Running checks in the sandbox: a fresh process each, several at once, none twice.

In: checks. Out: verdicts, in the same order. Invariant: when a check is over nothing of it runs and
nothing of it lies on the disk, however it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from rnr_dist.errors import InputError
from rnr_dist.run.heir import become_heir, reap_group
from rnr_dist.sandbox.asked import asked
from rnr_dist.sandbox.kept import Kept
from rnr_dist.sandbox.layers import Layer
from rnr_dist.sandbox.verdicts import Check, Limits, Outcome, Verdict, verdict_of, whole

DEFAULT = Limits()
GRACE = 5.0  # seconds beyond a check's own for the judge to start and to end
PATIENT = 6  # times the time on the clock that a second try has on a busy machine
LEAVE = 2.0  # seconds for a judge that has said its verdict to end by itself


class Sandbox:
    """layer: what holds a program. limits: of a check that brings none. kept: verdicts of before;
    None keeps none. workers: checks at once; left out, as many as this process may use cores."""

    def __init__(
        self,
        layer: Layer,
        limits: Limits = DEFAULT,
        kept: Kept | None = None,
        workers: int | None = None,
    ):
        self.layer, self.limits, self._kept = layer, limits, kept
        self._workers = workers or len(os.sched_getaffinity(0))

    def check(self, check: Check, limits: Limits | None = None) -> Verdict:
        """The verdict on one program. Raises InputError where the kernel refuses to guard it."""
        within = limits or self.limits
        become_heir()  # bubblewrap ends before what it has started does
        key = check.key(within, self.layer.name)
        if self._kept and (known := self._kept.get(key)):
            return known
        found = _run(self.layer, check, within)
        if found.hurried and _busy():  # it may have waited for a core, not for itself
            found = _run(self.layer, check, replace(within, wall=PATIENT * within.wall))
        if self._kept and not found.hurried:  # another time it may be less busy here
            self._kept.put(key, found)
        return found

    def check_all(
        self, checks: Sequence[Check], limits: Sequence[Limits | None] | None = None
    ) -> list[Verdict]:
        """A verdict on each; equal checks are run once."""
        pairs = list(zip(checks, limits or [None] * len(checks), strict=True))
        different = list(dict.fromkeys(pairs))
        with ThreadPoolExecutor(self._workers) as pool:
            verdicts = pool.map(lambda pair: self.check(*pair), different)
            found = dict(zip(different, verdicts, strict=True))
        return [found[pair] for pair in pairs]


def _busy() -> bool:
    """Whether more processes want a core than there are."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def _run(layer: Layer, check: Check, limits: Limits) -> Verdict:
    judge = subprocess.Popen(
        layer.command(limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,  # so that all of it is one group, ended and reaped at once
    )
    tests = [asked(check.setup, test, check.function) for test in check.tests]
    job = {"program": check.program, "tests": tests}
    try:
        told, _ = judge.communicate(json.dumps(job).encode(), limits.wall + GRACE)
    except subprocess.TimeoutExpired:
        judge.kill()
        return whole(Outcome.TIMED_OUT, check, "the tests themselves did not end")
    finally:
        _end(judge)
    if not told:
        return whole(Outcome.ENDED, check, f"the judge ended with {judge.returncode}")
    found = json.loads(told)
    if "refused" in found:
        raise InputError(f"task.sandbox.layer: found {layer.name}, but {found['refused']}")
    return verdict_of(found)


def _end(judge: subprocess.Popen[bytes]) -> None:
    """The judge and all that it started are gone when this returns."""
    with suppress(subprocess.TimeoutExpired):  # bubblewrap ends what is left within, and waits
        judge.wait(LEAVE)
    with suppress(ProcessLookupError):
        os.killpg(judge.pid, signal.SIGKILL)
    for pipe in (judge.stdin, judge.stdout):
        if pipe:
            pipe.close()
    judge.wait()
    reap_group(judge.pid)
