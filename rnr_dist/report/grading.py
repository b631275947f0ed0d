"""A blinded sheet for people who grade continuations, and what they gave (ICU paper, appendix B).

In: an evaluated run whose rows have prefix, truth and continuation. Out: a CSV of these in random
order, without a word of which model wrote what; from filled-in ones a mean score a model.
Invariant: the key that tells the models stays in the run; a sheet of another run is refused.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box

from rnr_dist.errors import InputError
from rnr_dist.report.narrow import WholeTable
from rnr_dist.report.table import literal
from rnr_dist.run.directory import read, read_rows, replacing, write_json
from rnr_dist.run.shown import cell, terminal
from rnr_dist.stats import ClusterMean, interval
from rnr_dist.types import NamedModel, digest

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
EVALUATED = ("evaluate", "baselines/evaluate")  # folders of a run


@dataclass(frozen=True)
class Continued:
    """What a grader sees of one sequence under one model; evaluated rows may hold more."""

    id: str
    prefix: str
    truth: str
    continuation: str


def write_sheet(run: Path, sheet: Path, count: int, seed: int) -> int:
    """Write `sheet` with `count` sequences' outputs by every evaluated model, in random order.

    All models' outputs of one sequence are graded, so that differences are paired. Returns how many
    rows it has. The key goes to `run`/grading/key.json. Raises InputError for a run that was not
    evaluated, or whose rows are no continuations of a known text.
    """
    rows = _continued(run)
    if not rows:
        raise InputError(
            f"{run / EVALUATED[0]}: no models with prefix, truth and continuation; expected a run "
            "directory after `rnr icu`"
        )
    known = sorted(set.intersection(*map(set, rows.values())))
    if not known:
        raise InputError(
            f"{run / EVALUATED[0]}: found no sequence that each of {', '.join(rows)} continued; "
            "expected at least one"
        )
    draw = random.Random(seed)
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
            texts = map(cell, (row.prefix, row.truth, row.continuation))
            writer.writerow([item, *texts, ""])
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
    key: Mapping[str, list[str]] = read(path, dict[str, list[str]])
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


def scale_lines() -> list[str]:
    """The scale of the graders, a line a score."""
    return [f"  {score}  {meaning}" for score, meaning in SCALE.items()]


def print_grades(content: Mapping[str, Any]) -> None:
    """Print what the graders gave, best model first."""
    agreement = content["agreement"]
    told = f"; they agree with r = {agreement:.2f}" if agreement is not None else ""
    table = WholeTable(
        title="Graded continuations, 1 to 8",
        caption=f"{content['graders']} graders{told}; {content['missing']} rows without a score",
        box=box.HORIZONTALS,
    )
    for name in ("model", "mean", "95 %", "of 10", "scores"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, row in sorted(content["models"].items(), key=lambda pair: -pair[1]["mean"]):
        low, high = row["ci95"]
        cells = [f"{row['mean']:.2f}", f"{low:.2f}…{high:.2f}", f"{row['of_10']:.2f}"]
        table.add_row(literal(name), *cells, str(row["scores"]))
    terminal().print(table)


def _continued(run: Path) -> dict[str, dict[str, Continued]]:
    """{model: {sequence: what it said}} of all evaluated rows that a grader can judge."""
    wanted = {field.name for field in fields(Continued)}
    paths = [path for folder in EVALUATED for path in sorted((run / folder).glob("*.parquet"))]
    rows = {
        path.stem: {row.id: row for row in read_rows(path, Continued)}
        for path in paths
        if wanted <= _columns(path)
    }
    if len(rows) > 1:  # the model before memorising takes no part in the comparison
        rows.pop(_unlearnt(run), None)
    return rows


def _unlearnt(run: Path) -> str:
    """The base's name where another model than the base is the one that shall forget."""
    path = run / "memorise" / "models.json"
    models = read(path, list[NamedModel]) if path.exists() else []
    return next((model.name for model in models if model.kind == "other"), "")


def _columns(path: Path) -> set[str]:
    try:
        return set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: found no whole Parquet file ({error}); expected what an evaluation wrote"
        ) from None


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
    except (csv.Error, OSError) as error:
        raise InputError(f"{sheet}: cannot be read ({error}); expected a filled-in sheet") from None
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
