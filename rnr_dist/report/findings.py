"""What the stages of a run left beside its results, and the sentences that a reader must know.

In: a run directory, results. Out: details for the summary, row notes, sentences. Invariant: a stage
that a recipe lacks leaves its part empty; nothing is computed that files do not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.config.unlearning import Stopping
from rnr_dist.measures.measure import Measure
from rnr_dist.measures.results import Results, Score
from rnr_dist.report.epochs import EpochTraining, read_trainings
from rnr_dist.report.summary import Details, own_row
from rnr_dist.run.directory import RunDir, read, read_json
from rnr_dist.run.seal import rereading_note
from rnr_dist.tasks.teaching import teaching_note
from rnr_dist.types import NamedModel

JUDGED = ("step", "method")  # kinds of rows that should be like a control


@dataclass(frozen=True)
class Findings:
    """results: with what trainings by epochs add to the rows' notes."""

    results: Results
    details: Details
    notes: tuple[str, ...]


def findings_of(run: RunDir, config: Config, results: Results) -> Findings:
    """Everything that files of `run` tell of the rows of `results`."""
    search = _json(run.path / "release" / "search.json", {})
    trained = read_trainings(run, [row.name for row in results.rows])
    limits = _json(run.path / "icu" / "result.json", {}).get("limits", {})
    results = replace(
        results,
        rows=tuple(
            replace(row, notes={**trained[row.name].notes, **row.notes})
            if row.name in trained
            else row
            for row in results.rows
        ),
    )
    details = Details(
        fills=tuple(_json(run.path / "reveal" / "fills.json", [])),
        trials=tuple(search.get("trials", [])),
        front=tuple(search.get("front", [])),
        subspaces=tuple(_subspaces(run, results)) if search else (),
        limits=limits,
        curves={name: one.epochs for name, one in trained.items()},
        tuning={name: one.tuning for name, one in trained.items()},
    )
    notes = [
        *filter(None, [teaching_note(run)]),
        *([stopping_note(config.stopping)] if trained else []),
        *_fallback_notes(search.get("fallbacks", [])),
        *_limit_notes(trained),
        *_control_notes(results),
        *_vocabulary_notes(results),
        *filter(None, [rereading_note(run.path)]),
    ]
    return Findings(results, details, tuple(notes))


def _json(path: Path, otherwise: Any) -> Any:
    return read_json(path) if path.exists() else otherwise


def _subspaces(run: RunDir, results: Results) -> list[dict[str, Any]]:
    """How much the adapters of the result share; only where release made it."""
    from rnr_dist.weights.subspace import similarity_rows  # reads weights: torch is slow to load

    name = own_row(results.rows).name
    models = read(run.path / "release" / "models.json", list[NamedModel])
    return next((similarity_rows(one.model) for one in models if one.name == name), [])


def stopping_note(stopping: Stopping) -> str:
    """What trainings by epochs end by."""
    over = {"continuation": "t≥t0", "all": "all t"}
    return (
        f"training ends by EL over {over[stopping.extraction_over]} and MA over "
        f"{over[stopping.memorisation_over]}"
    )


def _vocabulary_notes(results: Results) -> Iterator[str]:
    for row in results.rows:
        if left_out := row.notes.get("left_out"):
            told = ", ".join(left_out)
            yield f"{row.name} has another vocabulary: {told} compare the same tokens alone"


def _fallback_notes(fallbacks: list[str]) -> Iterator[str]:
    for name in fallbacks:
        yield f"{name}: no candidate weight satisfied its rules; the least violation was taken"


def _limit_notes(trained: Mapping[str, EpochTraining]) -> Iterator[str]:
    for name, one in trained.items():
        if not one.notes["met"]:
            yield (
                f"{name} missed a limit: mean EL {one.best['extraction']:.3f}, MA "
                f"{one.best['memorisation']:.3f} in its best epoch, {one.notes['best']}"
            )


def _control_notes(results: Results) -> Iterator[str]:
    """Who is told from the control, the model that never saw, by what training never saw."""
    hidden = [measure for measure in results.measures if measure.hidden]
    control = next((row.name for row in results.rows if row.kind == "control"), None)
    if control is None or not hidden:
        return
    known = results.scores[control]
    for row in results.rows:
        own = results.scores[row.name]
        told = [
            measure.title
            for measure in hidden
            if measure.name in own
            and measure.name in known
            and not like_control(measure, own[measure.name], known[measure.name])
        ]
        if row.kind in JUDGED and told:
            yield f"{row.name} is told from the control by {', '.join(told)}"


def like_control(measure: Measure, score: Score, control: Score) -> bool:
    """Whether a value is within the control's interval; beyond its better end is as good, but not
    for an AUC, of which both ends tell two sets apart."""
    low, high = control.ci95
    one_end = measure.adds != "auc"
    above = score.value >= low or (one_end and measure.better == "lower")
    return above and (score.value <= high or (one_end and measure.better == "higher"))
