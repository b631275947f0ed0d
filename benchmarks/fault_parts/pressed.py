"""One Ctrl-C, or one SIGTERM, in each phase of a small run, which then goes on with --resume.

In: a furnished place. Out: a row a phase: exit code, seconds until it had ended, what was wrong.
Invariant: signals go to the whole foreground group, as a terminal sends them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.damaged import Undisturbed
from benchmarks.fault_parts.injected import RANK, TRIAL, Scene
from benchmarks.fault_parts.outcome import TRACEBACK
from benchmarks.fault_parts.rows import Row, Rows
from benchmarks.fault_parts.running import NotMetError, Running

Reached = Callable[[Running, Scene], object]
TERMINATED = 143
CODES = {signal.SIGINT: 130, signal.SIGTERM: TERMINATED}


def _says(text: str) -> Reached:
    return lambda running, scene: text in running.output


# In the order in which a run comes to them; each is interrupted where the one before left off.
PHASES: dict[str, tuple[signal.Signals, Reached]] = {
    "Ray starts": (signal.SIGINT, _says("starting Ray")),
    "engines start": (signal.SIGINT, _says("starting generators: 1")),
    "engines start, SIGTERM": (signal.SIGTERM, _says("starting generators: 1")),
    "reveal": (signal.SIGINT, lambda running, scene: scene.events >= 1),
    "training": (signal.SIGINT, lambda running, scene: running.of_name(RANK)),
    "training, SIGTERM": (signal.SIGTERM, lambda running, scene: running.of_name(RANK)),
    "trials": (signal.SIGINT, lambda running, scene: running.of_name(*TRIAL)),
    "in the third search": (
        signal.SIGINT,
        lambda running, scene: list((scene.run / "release").rglob("tune/joint-0")),
    ),
    "evaluation": (
        signal.SIGINT,
        lambda running, scene: list((scene.run / "evaluate").glob("*.parquet")),
    ),
}


def pressed(name: str, scene: Scene) -> Row:
    """What came of one press in a phase."""
    number, reached = PHASES[name]
    begun = (scene.run / "config.json").exists()
    running = scene.resume() if begun else scene.start()
    wrong = []
    try:
        if reached(running, scene):
            raise NotMetError("the command before had gone past this phase")
        running.wait_for(lambda: reached(running, scene), name)
        seconds = running.press(number)
    except NotMetError as error:
        running.clear()
        return {"wrong": [f"not interrupted here: {error}"[:500]], "ended_after": None}
    code, told = running.process.returncode, running.output
    if code != CODES[number]:
        wrong.append(f"exit code {code}, expected {CODES[number]}")
    if TRACEBACK in told:
        wrong.append(f"a traceback: {told[-500:]}")
    if "--resume" not in told:
        wrong.append("does not say how to go on")
    wrong += [f"left behind: {one}" for one in running.left_behind()]
    running.clear()
    return {"wrong": wrong, "ended_after": round(seconds, 1)}


def signals(folder: Path) -> dict[str, Any]:
    """The slowest phase to end, and the phases of which something was wrong."""
    undisturbed = Undisturbed(folder)
    known = Rows(folder, "signals")
    scene = Scene(undisturbed, "rr")  # a part that was ended begins anew: phases build on phases
    if set(PHASES) - set(known.known):
        known.known.clear()
    try:
        rows = known.measure([(name, lambda name=name: pressed(name, scene)) for name in PHASES])
    finally:
        scene.close()
    times = [row["ended_after"] for row in rows if row["ended_after"] is not None]
    return {
        "ctrl_c_seconds": max(times, default=None),
        "ctrl_c_wrong": {row["case"]: row["wrong"] for row in rows if row["wrong"]},
    }
