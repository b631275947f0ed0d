"""What became of a command that was given something bad: refused in one sentence, or what else.

In: exit code and what was printed. Out: "" for a proper refusal, else the kind of fault. Invariant:
nothing but one line of at most so many characters, with exit code 2 (1 for `verify`, which also
lists what it found), is a refusal.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 600  # characters of a sentence that a person reads
TRACEBACK = "Traceback (most recent call last)"
SLOWEST = 300.0  # seconds that a command may take to find what is wrong
# The command, with what would go on for minutes replaced: whoever gets there has been accepted.
ACCEPTING = """
import os, sys
def accepted(*arguments, **named):
    print("accepted", flush=True)
    os._exit(0)
if sys.argv[1] in ("run", "icu", "study"):
    import rnr_dist.recipes.pipeline, rnr_dist.recipes.study
    rnr_dist.recipes.pipeline.run_pipeline = rnr_dist.recipes.study.run_study = accepted
os.execv = accepted
from rnr_dist.commands.cli import main
main()
"""
WHOLE = "from rnr_dist.commands.cli import main; main()"


@dataclass(frozen=True)
class Ended:
    """A command that has ended: exit code (None: it had to be ended), what it printed."""

    code: int | None
    out: str
    err: str

    @property
    def told(self) -> list[str]:
        """Lines on stderr that say something."""
        return [line for line in self.err.splitlines() if line.strip()]


def rnr(
    arguments: Sequence[str],
    cwd: Path,
    more: Mapping[str, str] | None = None,
    code: str = WHOLE,
    seconds: float = SLOWEST,
) -> Ended:
    """`rnr ARGUMENTS` in a process of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    settings = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **(more or {})}
    command = [sys.executable, "-c", code, *arguments]
    try:
        ended = subprocess.run(
            command, env=settings, cwd=cwd, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as late:
        return Ended(None, _text(late.stdout), _text(late.stderr))
    return Ended(ended.returncode, _text(ended.stdout), _text(ended.stderr))


def _text(printed: bytes | None) -> str:
    return (printed or b"").decode(errors="replace")


def fault_of(ended: Ended, names: Sequence[str] = ()) -> str:
    """ "" where the command refused as it should; else "accepted", "traceback", "several lines"...

    names: what the sentence must say, case aside.
    """
    if ended.code == 0:
        return "accepted"
    if ended.code is None:
        return "no end"
    if TRACEBACK in ended.err + ended.out:
        return "traceback"
    if ended.code != 2:
        return f"exit code {ended.code}"
    if len(ended.told) != 1:
        return f"{len(ended.told)} lines"
    [sentence] = ended.told
    if not sentence.startswith("rnr: ") or len(sentence) > LONGEST:
        return f"no sentence ({len(sentence)} characters)"
    missing = [name for name in names if name.lower() not in sentence.lower()]
    return f"does not name {', '.join(missing)}" if missing else ""
