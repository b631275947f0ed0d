"""The judge's process: it runs the tests and asks the candidate's process for every value.

In: limits as JSON in the first argument; program and tests on standard input. Out: outcomes as JSON
on standard output. Invariant: a test passes only if its assertions hold here, of values of built-in
types; the candidate has no descriptor but its two pipes, and none of it runs before it is guarded.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import time
from binascii import a2b_base64

from . import candidate, guards, lines, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

JUDGE_MORE = 256 * 2**20  # bytes of memory that the judge may take beyond a candidate
LONGEST = 300  # characters of what is said of a verdict
PATIENCE = 1.0  # seconds for a process that closed its pipe to be gone
PROCESS_CLOCK = 2  # of the kernel's clocks of another process
# Share of its CPU limit that a process which was killed has taken where the limit ended it: the
# kernel's account of a moment ago.
NEARLY = 0.8
BY_KIND = {
    "MemoryError": "out_of_memory",
    "AssertionError": "failed",
}
# With these a program could end a loop of the test before it has asked for everything.
ENDING = ("StopIteration", "StopAsyncIteration")
# After these the candidate answers no more.
GONE = (lines.Ended, lines.TooLate, lines.TooMuch)


class Unguarded(Exception):
    """The kernel refused to take from a process what it shall not have."""


class Unplain(Exception):
    """A call gave a value that is of no built-in type."""


class Unparsed(Exception):
    """The program is no Python."""


class Raised(Exception):
    """A call raised; `kind` is the class of Python's own that it was or extends."""

    def __init__(self, kind: str, told: str):
        super().__init__(told)
        self.kind = kind


class Candidate:
    """The other process, as the judge sees it."""

    def __init__(self, process: int, pipe: lines.Lines):
        self.process, self._pipe = process, pipe

    def guarded(self) -> None:
        """Wait until it has given up what it shall not have. Raises Unguarded; no program is there
        yet that could say so."""
        try:
            if (told := self._pipe.read()) != candidate.READY:
                raise Unguarded(told)
        except (lines.Ended, lines.TooMuch):
            raise Unguarded("the process that shall run programs ended") from None

    def load(self, program: str) -> None:
        """Run the program. Raises Unparsed, and what `call` raises."""
        self._pipe.write(values.written(program))
        self._answer()

    def call(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the program's function returns. Raises Raised, Unplain, and what Lines raises."""
        asked = {"name": name, "args": list(arguments), "kwargs": named}
        self._pipe.write(values.written(asked))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = values.read(self._pipe.read())
            assert isinstance(answer, dict) and len(answer) == 1
        except (ValueError, AssertionError):
            raise Unplain("an answer that nobody reads") from None
        [(kind, content)] = answer.items()
        if kind == "value":
            return content
        if kind == "unparsed":
            raise Unparsed(str(content))
        if kind == "raised":
            raise _as_builtin(*map(str, content))
        raise Unplain(str(content))

    def seconds(self) -> float:
        """CPU time that it has taken."""
        try:
            return time.clock_gettime((~self.process << 3) | PROCESS_CLOCK)
        except OSError:
            return 0.0

    def end(self) -> tuple[int, float]:
        """(signal that ended it or 0, CPU seconds) of one that closed its pipe."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found, status, used = os.wait4(self.process, os.WNOHANG)
            if found:
                return (status & 0x7F), used.ru_utime + used.ru_stime
            time.sleep(0.005)
        return 0, self.seconds()


def _as_builtin(name: str, told: str) -> Exception:
    """An exception that a test may expect by its class."""
    kind = getattr(builtins, name, None)
    if name in ENDING or not (isinstance(kind, type) and issubclass(kind, Exception)):
        return Raised(name, told)
    try:
        # Both: a test that expects ValueError catches it, and the judge knows whose it is.
        return type(name, (Raised, kind), {})(name, told)  # type: ignore[no-any-return]
    except TypeError:
        return Raised(name, told)


def judged(other: Candidate, job: Mapping[str, Any], cpu: int) -> dict[str, Any]:
    """{outcomes: one a test, detail: on the first that is not `passed`, hurried: whether the time
    on the clock decided}. Raises Unguarded."""
    count, outcomes = len(job["tests"]), list[str]()
    detail, hurried = "", False
    other.guarded()
    for test in (None, *job["tests"]):
        try:
            if test is None:
                other.load(job["program"])
            else:
                _run(other, test)
                outcomes.append("passed")
        except Exception as error:
            outcome, told = fate(error, other, cpu)
            hurried = isinstance(error, lines.TooLate)
            detail = detail or (f"{test['shown']}: {told}" if test else told)
            if test is None or isinstance(error, GONE):  # no later test has an answer either
                outcomes += [outcome] * (count - len(outcomes))
                break
            outcomes.append(outcome)
    # What a program says stands in it too: no line of its own, no sequence for a terminal.
    plain = "".join(letter if letter.isprintable() else "�" for letter in detail[:LONGEST])
    return {"outcomes": outcomes, "detail": plain, "hurried": hurried}


def fate(error: Exception, other: Candidate, cpu: int) -> tuple[str, str]:
    """(outcome, what to say of it) of a test that raised."""
    if isinstance(error, lines.TooLate):
        return "timed_out", "no answer in time"
    if isinstance(error, lines.TooMuch):
        return "too_much", "more output than it may have"
    if isinstance(error, lines.Ended):
        number, used = other.end()
        if number and used >= NEARLY * cpu:
            return "timed_out", f"{used:.1f} s of CPU"
        return "ended", f"the process ended{f' by signal {number}' if number else ''}"
    if isinstance(error, Unparsed):
        return "unparsed", str(error)
    if isinstance(error, Unplain):
        return "unplain", f"the value is {error}"
    if isinstance(error, Raised):
        return BY_KIND.get(error.kind, "raised"), str(error)
    return "failed", f"{type(error).__name__} {error}".strip()


def _run(other: Candidate, test: Mapping[str, Any]) -> None:
    """Run one test. Its names that nobody defines are functions of the program, or modules."""

    def asked(name: str) -> Any:
        return lambda *args, **named: other.call(name, args, named)

    names: dict[str, Any] = {name: asked(name) for name in test["asks"]}
    names |= {name: __import__(name) for name in test["modules"]}
    exec(compile(test["source"], "<test>", "exec"), {**names, "__name__": "test"})


def candidate_process(told: Mapping[str, Any], pipe: lines.Lines) -> None:
    """In the child: guard it, then serve."""
    os.dup2(2, 0)  # which leads nowhere
    os.dup2(2, 1)
    try:
        guard(told, told["memory"], told["judge"])
    except OSError as error:
        pipe.write(str(error))
        return
    candidate.serve(pipe)


def guard(told: Mapping[str, Any], memory: int, parent: int) -> None:
    """Give up for good all that a program shall not have. Raises OSError."""
    guards.end_with(parent)
    guards.limit(told["cpu"], memory, told["file"])
    if told["seen"]:
        guards.see_only(**told["seen"])
    if told["filter"]:
        guards.refuse_calls(a2b_base64(told["filter"]))


def main() -> None:
    """Fork the candidate before anything of the tests is read; judge it; write the outcomes."""
    told = {**json.loads(sys.argv[1]), "judge": os.getpid()}
    down, up = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(down[1])
        os.close(up[0])
        try:
            candidate_process(told, lines.Lines(down[0], up[1]))
        finally:
            os._exit(0)
    os.close(down[0])
    os.close(up[1])
    deadline = time.monotonic() + told["wall"]
    other = Candidate(child, lines.Lines(up[0], down[1], deadline, told["output"]))
    job = json.loads(sys.stdin.read())
    try:
        longer = {**told, "cpu": told["cpu"] + int(told["wall"])}
        guard(longer, told["memory"] + JUDGE_MORE, os.getppid())
        found = judged(other, job, told["cpu"])
    except (Unguarded, OSError) as error:
        found = {"refused": str(error)}
    found["seconds"] = other.seconds()
    os.write(1, json.dumps(found).encode())
    os._exit(0)
