"""Each damage on a copy of a small finished run: what `rnr verify` says, and who comes upon it.

In: a folder for rows. Out: a row a damage: "" where it ended right. Invariant: the run that is
damaged is the same for all, at the same place.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.damage import DAMAGES, RUN, Damage
from benchmarks.fault_parts.outcome import TRACEBACK, Ended, fault_of, rnr
from benchmarks.fault_parts.place import furnish
from benchmarks.fault_parts.rows import Row, Rows, sources
from benchmarks.fault_parts.running import Running
from benchmarks.fault_parts.small import RECIPES, arguments, comparable, figures_of, rows_of
from rnr_dist.types import digest

NO_COMMAND = "No such command"
CLOSE = 1e-9  # of figures that must be equal


class Undisturbed:
    """A furnished place with a finished run of each recipe, and a second one of `icu`.

    Made once for the sources of now. `fresh` lays the whole place out again where it was made,
    since a run knows where its base lies.
    """

    def __init__(self, folder: Path):
        self._kept = folder / f"undisturbed-{sources()}-{digest([*RECIPES.values()])}"
        self.place = folder / "place"
        if not self._kept.exists():
            self._make()
        self.rows = {name: rows_of(self._kept / name) for name in ("rr", "icu")}
        self.figures = {name: figures_of(self._kept / name) for name in ("rr", "icu", "icu-again")}

    def _make(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        furnish(self.place)
        for name, recipe in {"rr": "rr", "icu": "icu", "icu-again": "icu"}.items():
            running = Running(arguments(recipe, "--run", name), self.place)
            code, told = running.end(), running.output
            running.clear()
            if code != 0:
                raise RuntimeError(f"the undisturbed run {name} ended with {code}: {told[-2000:]}")
            print(f"undisturbed: {name} is done", flush=True)
        shutil.copytree(self.place, self._kept)

    def fresh(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self._kept, self.place)
        return self.place

    def drawn_nothing_for(self, name: str) -> bool:
        """Whether a figure of `icu` came out the same in both undisturbed runs."""
        return self.figures["icu"][name] == self.figures["icu-again"].get(name)


def damaged_run(damage: Damage, undisturbed: Undisturbed) -> Row:
    """What `rnr verify` said of it, and what came of the command that comes upon it."""
    place = undisturbed.fresh()
    for edit in damage.edits:
        edit.apply(place)
    bad = _content(place, damage.file)
    verified = _verified(place) if damage.seen else ""
    running = Running(damage.use, place)
    if damage.cache:
        damage.cache(place, running.scratch)
    code, told = running.end(), running.log.read_text(errors="replace", encoding="utf-8")
    used = Ended(code, told, told)
    running.clear()
    row = {"verify": verified, "code": code, "told": (used.told or [""])[-1][:300]}
    if code != 0:
        return {**row, "fault": refusal_fault(used, damage.names)}
    return {**row, "fault": _went_on(damage, undisturbed, bad, told)}


def _verified(place: Path) -> str:
    """ "" where `rnr verify` saw that something is wrong; what it did instead else."""
    ended = rnr(["verify", RUN], place)
    if NO_COMMAND in ended.err:
        return "no such command"
    if TRACEBACK in ended.err:
        return "traceback"
    return "found nothing" if ended.code == 0 else ""


def refusal_fault(ended: Ended, names: Sequence[str]) -> str:
    """As `fault_of`; lines of progress may come before the sentence, which comes last."""
    last = ended.told[-1] if ended.told else ""
    return fault_of(Ended(ended.code, "", last if TRACEBACK not in ended.err else ended.err), names)


def _went_on(damage: Damage, undisturbed: Undisturbed, bad: bytes | None, told: str) -> str:
    """ "" where a command that went on came to what was there before the damage."""
    place = undisturbed.place
    if not damage.heals:
        return "accepted"
    if damage.heals == "anew":
        return "" if "made anew" in " ".join(told.split()) else "accepted"
    if damage.file and _content(place, damage.file) == bad:
        return "left as it was"
    found, known = rows_of(place / RUN), undisturbed.rows["rr"]
    if comparable(found) != comparable(known):
        return f"other rows: {comparable(found)}"[:400]
    if damage.heals == "rows":
        return ""
    figures, wanted = figures_of(place / RUN), undisturbed.figures["rr"]
    asked = [name for name in wanted if damage.heals == "figures" or ": perplexity/" in name]
    other = [name for name in asked if not _close(figures.get(name), wanted[name])]
    return f"other figures: {other[:3]}" if other else ""


def _close(found: float | None, wanted: float) -> bool:
    return found is not None and abs(found - wanted) <= CLOSE * max(1.0, abs(wanted))


def _content(place: Path, file: str) -> bytes | None:
    path = place / file
    return path.read_bytes() if file and path.exists() else None


def damaged(folder: Path) -> dict[str, Any]:
    """How many damages were accepted in silence, and how many ended without a sentence."""
    undisturbed = Undisturbed(folder)
    cases = [
        (damage.name, lambda damage=damage: damaged_run(damage, undisturbed)) for damage in DAMAGES
    ]
    rows = Rows(folder, "damaged").measure(cases)
    quiet = ("accepted", "left as it was", "other")
    silent = [row["case"] for row in rows if row["fault"].startswith(quiet)]
    unseen = [row["case"] for row in rows if row["verify"]]
    others = [row["case"] for row in rows if row["fault"] and row["case"] not in silent]
    return {
        "damaged": len(rows),
        "damaged_silent": silent,
        "damaged_unseen_by_verify": unseen,
        "damaged_tracebacks": others,
    }
