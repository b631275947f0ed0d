"""What MLflow shows of a finished run: changes with their bounds, tables, figures, the model.

In: a summary and files of the run. Out: entries for the tracker. Invariant: texts of models and
data are shown as `run.shown` leaves them, in tables alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rnr_dist.bench import Bench
from rnr_dist.report.summary import Summary
from rnr_dist.report.verdict import change_of, rows_explained, verdict
from rnr_dist.run.directory import RunDir, write_json
from rnr_dist.run.shown import shown
from rnr_dist.types import TokenSequence

MOST_ROWS = 200  # of a table of continuations
SAMPLE = ("context_id", "index", "prompt", "text", "score")  # columns of a file of samples
Columns = dict[str, list[Any]]


def track_result(bench: Bench, run: RunDir, summary: Summary) -> None:
    """The result on the parent run: its figures, sentences and tables."""
    tracker = bench.tracker
    tracker.headline(result_metrics(summary))
    rows = rows_explained(summary.rows, summary.reference)
    note = [f"**{verdict(summary)}**", "", *(f"- `{label}`: {told}" for label, told in rows)]
    note += ["", *(shown(f"Note: {one}") for one in summary.notes)]
    tracker.tags({"mlflow.note.content": "\n".join(note)})
    folder = run.stage("report")
    own = summary.own.name
    for name, columns in (
        ("results", results_columns(summary)),
        ("continuations", sampled_columns(run.path / "evaluate", (summary.reference, own))),
    ):
        if columns:
            tracker.exhibit(write_table(folder / f"{name}.json", columns), table=True)


def result_metrics(summary: Summary) -> dict[str, float]:
    """Of the recipe's result and the measures that tables show: `result/MEASURE` with its bounds,
    and the change against the reference with its own, as shares (-.87 is 87 % less)."""
    found: dict[str, float] = {}
    for measure in summary.declared:
        if measure.name not in summary.own.scores or not measure.table:
            continue
        name, score = measure.name, summary.own.scores[measure.name]
        low, high = score.ci95
        found |= {f"result/{name}": score.value}
        found |= {f"result/{name}/low": low, f"result/{name}/high": high}
        if change := change_of(score):
            ends = zip(("change", "change_low", "change_high"), change, strict=True)
            found |= {f"result/{name}/{end}": value for end, value in ends}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def results_columns(summary: Summary) -> Columns:
    """Every row and measure, one a line."""
    names = ("model", "measure", "value", "low", "high", "change", "change low", "change high")
    found: Columns = {name: [] for name in (*names, "split", "clusters")}
    for row in summary.rows:
        for measure in summary.declared:
            if measure.name not in row.scores:
                continue
            score = row.scores[measure.name]
            change = change_of(score) or (None, None, None)
            told = (row.label, measure.title, score.value, *score.ci95, *change)
            for name, value in zip(found, (*told, row.split, score.n_clusters), strict=True):
                found[name].append(shown(value) if isinstance(value, str) else value)
    return found


def sampled_columns(folder: Path, names: Sequence[str]) -> Columns:
    """The first continuation of each context by each of these models, side by side.

    Empty where the task's files hold no continuations.
    """
    tables = [folder / f"{name}.parquet" for name in names]
    if not all(path.exists() and set(SAMPLE) <= set(pq.read_schema(path).names) for path in tables):
        return {}
    found: Columns = {}
    scores: Columns = {}
    order: list[str] = []
    for name, path in zip(names, tables, strict=True):
        rows = pq.read_table(path, columns=list(SAMPLE)).to_pylist()
        first = {row["context_id"]: row for row in rows if row["index"] == 0}
        order = order if found else [*first][:MOST_ROWS]
        known = [first.get(key) for key in order]
        if not found:
            found = {"prompt": [shown(row["prompt"]) for row in known if row]}
        found[name] = [shown(row["text"]) if row else None for row in known]
        scores[f"score {name}"] = [round(row["score"], 3) if row else None for row in known]
    return {**found, **scores, "context": [shown(key) for key in order]}


def epoch_columns(
    sequences: Sequence[TokenSequence], epochs: Sequence[Mapping[str, Any]], tokenizer: Any
) -> Columns:
    """What was said of each sequence after each epoch in which it changed."""
    found: Columns = {name: [] for name in ("sequence", "epoch", "prefix", "truth", "said")}
    for line in _epochs(sequences, epochs, tokenizer):
        if len(found["epoch"]) < MOST_ROWS:
            for name, value in zip(found, line, strict=True):
                found[name].append(shown(value) if isinstance(value, str) else value)
    return found


def _epochs(
    sequences: Sequence[TokenSequence], epochs: Sequence[Mapping[str, Any]], tokenizer: Any
) -> Iterator[tuple[str, int, str, str, str]]:
    for at, sequence in enumerate(sequences):
        ids, t0 = sequence.token_ids, sequence.prefix_tokens
        prefix, truth = tokenizer.decode(ids[:t0]), tokenizer.decode(ids[t0:])
        last = None
        for row in epochs:
            if (said := row["continuations"][at]) != last:
                last = said
                yield sequence.id, row["epoch"], prefix, truth, said


def write_table(path: Path, columns: Columns) -> Path:
    """A table as `mlflow.log_table` writes it (pandas' orient `split`)."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    plain = [[None if _no_number(value) else value for value in row] for row in rows]
    write_json(path, {"columns": [*columns], "data": plain})
    return path


def _no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
