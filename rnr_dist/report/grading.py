"""A blinded sheet for people who grade continuations, and the import of what they gave (ICU paper,
appendix B).

In: a judged ICU run. Out: a CSV of prefix, reference and output in random order, without a word of
which model wrote what; from filled-in ones a mean score a model. Invariant: the key that tells the
models stays in the run directory, and a sheet of another run is refused.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.errors import InputError
from rnr_dist.icu.judging import SequenceRow
from rnr_dist.run.directory import read_json, read_rows, replacing, write_json
from rnr_dist.stats import ClusterMean, interval
from rnr_dist.types import digest

# The paper's scale from "like the reference, or poor" to "good, and unlike the reference".
SCALE = {
    1: "repeats the reference, or itself",
    2: "hardly departs from the reference, says little",
    3: "departs from it, but does not hang together",
    4: "departs from it, hangs together in part",
    5: "like the reference in part, and hangs together",
    6: "says the same in other words",
    7: "another continuation, inventive and sensible",
    8: "another continuation, sensible throughout",
}
COLUMNS = ("item", "prefix", "reference", "output", "score")


def write_sheet(run: Path, sheet: Path, count: int, seed: int) -> int:
    """Write `sheet` with `count` sequences' outputs by every judged model, in random order.

    All models' outputs of one sequence are graded, so that differences are paired. Returns how many
    rows it has. The key goes to `run`/grading/key.json. Raises InputError for a run that was not
    judged.
    """
    judged = run / "evaluate"
    rows = {
        path.stem: {row.id: row for row in read_rows(path, SequenceRow)}
        for path in sorted(judged.glob("*.parquet"))
        if path.stem != "base"  # the model before memorising takes no part in the comparison
    }
    if not rows:
        raise InputError(f"{judged}: no judged models; expected a run directory after `rnr icu`")
    draw = random.Random(seed)
    known = sorted(next(iter(rows.values())))
    chosen = draw.sample(known, min(count, len(known)))
    pairs = [(model, sequence) for sequence in chosen for model in rows]
    draw.shuffle(pairs)
    key: dict[str, list[str]] = {}
    with replacing(sheet) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for model, sequence in pairs:
            row = rows[model][sequence]
            item = digest([str(run.absolute()), seed, model, sequence])[:10]
            key[item] = [model, sequence]
            writer.writerow([item, row.prefix, row.truth, row.continuation, ""])
    write_json(run / "grading" / "key.json", key)
    return len(pairs)


def read_scores(run: Path, sheets: Sequence[Path]) -> dict[str, Any]:
    """What the graders gave, one filled-in sheet each; `run`/grading/scores.json keeps it.

    `models`: mean (1 to 8), its 95 % interval (bootstrap over sequences), the paper's 0 to 10, how
    many scores. `agreement`: mean Pearson correlation of two graders' scores, None for one grader.
    Raises InputError that names sheet and row.
    """
    path = run / "grading" / "key.json"
    if not path.exists():
        raise InputError(f"{path}: not there; expected a run whose sheet `rnr grade` wrote")
    key: Mapping[str, list[str]] = read_json(path)
    graders = [_scores_of(sheet, key) for sheet in sheets]
    given: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for grader in graders:
        for item, score in grader.items():
            model, sequence = key[item]
            given[model][sequence].append(score)
    models = {model: _summary(by_sequence) for model, by_sequence in sorted(given.items())}
    content = {
        "graders": len(sheets),
        "missing": sum(len(key) - len(grader) for grader in graders),
        "agreement": _agreement(graders),
        "models": models,
    }
    write_json(run / "grading" / "scores.json", content)
    return content


def _scores_of(sheet: Path, key: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """{item: score} of one grader; rows without a score are left out."""
    try:
        with sheet.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            missing = {"item", "score"} - set(reader.fieldnames or [])
            if missing:
                raise InputError(
                    f"{sheet}: no column {', '.join(sorted(missing))}; found "
                    f"{', '.join(reader.fieldnames or ['nothing'])}"
                )
            rows = list(reader)
    except FileNotFoundError:
        raise InputError(f"{sheet}: not there; expected a filled-in sheet") from None
    except UnicodeDecodeError:
        raise InputError(f"{sheet}: is not UTF-8; expected CSV saved as UTF-8") from None
    scores: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        item, score = row["item"], (row["score"] or "").strip()
        if item not in key:
            raise InputError(f"{sheet} row {number}: item {item} is not of this run's sheet")
        if item in scores:
            raise InputError(f"{sheet} row {number}: item {item} stands there twice")
        if not score:
            continue
        if score not in map(str, SCALE):
            raise InputError(f"{sheet} row {number}: score {score}; expected 1 to {max(SCALE)}")
        scores[item] = int(score)
    if not scores:
        raise InputError(f"{sheet}: no score is filled in; expected 1 to {max(SCALE)} in `score`")
    return scores


def _summary(by_sequence: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    several = [by_sequence[sequence] for sequence in sorted(by_sequence)]
    measure = ClusterMean(
        np.array([float(sum(scores)) for scores in several]),
        np.array([float(len(scores)) for scores in several]),
    )
    return {
        "mean": measure.value,
        "ci95": interval(measure),
        "of_10": 10 * (measure.value - 1) / (max(SCALE) - 1),  # as the paper compares it to GPT-4's
        "scores": sum(map(len, several)),
    }


def _agreement(graders: Sequence[Mapping[str, int]]) -> float | None:
    found = []
    for one, other in combinations(graders, 2):
        both = sorted(one.keys() & other.keys())
        pair = np.array([[g[item] for item in both] for g in (one, other)], float)
        if len(both) > 1 and pair.std(axis=1).all():
            found.append(np.corrcoef(pair)[0, 1])
    return float(np.mean(found)) if found else None
