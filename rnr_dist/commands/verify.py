"""`rnr verify RUN`: whether everything in a run is what the run wrote, and from what it says.

In: a run directory. Out: a line for each thing that is not, and how much was looked at. Invariant:
nothing in the run is written and no model is loaded; every file that a stage lists is read whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.run.directory import (
    BASE_NOTE,
    BEGUN_NOTE,
    LAYOUT_NOTE,
    STAGES_NOTE,
    RunDir,
    read,
    read_json,
    read_manifest,
    read_table,
)
from rnr_dist.run.earlier import EARLIER
from rnr_dist.run.events import EventLog
from rnr_dist.run.manifests import MANIFEST, Manifest, Problem, cut_short, problems, results
from rnr_dist.run.seal import NOTE, final_readings
from rnr_dist.run.tracking import SPOOL
from rnr_dist.types import ModelRef, NamedModel

if TYPE_CHECKING:
    from rnr_dist.recipes.recipe import Recipe, Stage

# What lies in a run directory itself, and folders in it that several stages share.
OWN_FILES = {"config.json", LAYOUT_NOTE, BASE_NOTE, NOTE, STAGES_NOTE, "summary.json"}
OWN_FILES |= {SPOOL, f"{SPOOL}.id", f"{SPOOL}.rejected"}
SHARED_FOLDERS = ("figures", "materials")


@dataclass
class Findings:
    """What was looked at, and what is wrong with it. notes: what cannot be known."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0

    def asked(self, path: Path, question: Callable[[], Any]) -> Any:
        """The answer to a question about a file; None where it is an InputError, which is noted."""
        self.files += path.is_file()
        try:
            return question()
        except InputError as error:
            self.problems.append(Problem("damaged", path, str(error).removeprefix(f"{path}: ")))
            return None

    def lines(self) -> list[str]:
        """A line for each problem, by path and each once; a last one on all."""
        told = list(dict.fromkeys(one.line for one in sorted(self.problems, key=_place)))
        verdict = f"{len(told)} are not as they were left" if told else "all as they were left"
        return [*told, *self.notes, f"{self.files} files read: {verdict}"]


def _place(problem: Problem) -> Path:
    return problem.path


def verify_run(path: Path) -> Findings:
    """Everything that is not as the run left it. Raises InputError where `path` is no run, or none
    whose config can be read."""
    from rnr_dist.config.file import validate
    from rnr_dist.recipes.pipeline import RECIPES

    run, found = RunDir(path), Findings()
    if not run.marker.exists():
        raise InputError(f"{path}: no run directory (no config.json); expected one of rnr")
    run.require_layout()
    config = validate(read_json(run.marker), str(run.marker))
    names = [stage.name for stage in RECIPES[config.recipe].stages]
    manifests = dict(_manifests(run, found))
    for folder, manifest in manifests.items():
        found.files += len(manifest.files)
        found.problems += problems(folder, manifest)
        if manifest.inputs is None and folder.parent == run.path:
            found.notes.append(f"{folder}: of an earlier version, which noted no inputs")
    if base := _base(run, config, found):
        _check_inputs(run, config, base, found)
    _check_models(run, found)
    found.problems += _foreign(run, names, manifests)
    found.problems += _unsealed(run, found)
    for file in results(run.path):
        if not any(folder in manifests for folder in file.parents):
            _check_unlisted(file, found)
    return found


def _manifests(run: RunDir, found: Findings) -> Iterator[tuple[Path, Manifest]]:
    """The finished stages' manifests by folder, those of earlier attempts too."""
    for path in [*run.path.glob(f"*/{MANIFEST}"), *run.path.glob(f"{EARLIER}/*/{MANIFEST}")]:
        manifest = found.asked(path, partial(read_manifest, path))
        if manifest and path.parent.parent != run.path:
            # What an earlier attempt wrote beside its folder was written again since.
            own = tuple(one for one in manifest.files if not one.path.startswith("../"))
            manifest = replace(manifest, files=own)
        if manifest:
            yield path.parent, manifest


def _base(run: RunDir, config: Config, found: Findings) -> ModelRef | None:
    """The run's base where it lies now; None where it is another one, or nowhere."""
    from rnr_dist.weights.checkpoints import resolve_model

    note = run.path / BASE_NOTE
    known = found.asked(note, partial(read, note, ModelRef))
    if known is None:
        return None
    place = Path(known.checkpoint)
    name = known.checkpoint if place.exists() else config.model
    base: ModelRef | None = found.asked(
        place, partial(resolve_model, name, config.trust_remote_code)
    )
    if base and base.checkpoint_digest != known.checkpoint_digest:
        told = f"digest {base.checkpoint_digest}; expected {known.checkpoint_digest}"
        found.problems.append(Problem("changed", Path(base.checkpoint), told))
        return None
    return base


def _check_inputs(run: RunDir, config: Config, base: ModelRef, found: Findings) -> None:
    """Data, checkpoints and the stages before, against what each stage was made from."""
    from rnr_dist.recipes.inputs import STAGE, inputs_of
    from rnr_dist.recipes.pipeline import RECIPES

    for stage, model in _worked_on(RECIPES[config.recipe], base, run):
        begun, place = run.begun(stage.name), run.path / stage.name
        if begun is None or begun.inputs is None:
            continue
        now = found.asked(place, partial(inputs_of, config, stage, model, run)) or {}
        for name, known in begun.inputs.items():
            if now.get(name) != known:
                kind = "stale" if name.startswith(STAGE) else "changed"
                is_now = f"{now[name][:16]} now" if name in now else "gone now"
                told = f"made from the {name} of digest {known[:16]}, {is_now}"
                found.problems.append(Problem(kind, place, told))


def _worked_on(recipe: Recipe, base: ModelRef, run: RunDir) -> Iterator[tuple[Stage, ModelRef]]:
    """The stages, each with the model that it works on: the base, or what a stage before made of
    it. None after a stage whose model cannot be known; `_check_models` names that file."""
    for stage in recipe.stages:
        yield stage, base
        try:
            base = stage.base(run) or base
        except InputError:
            return


def _check_models(run: RunDir, found: Findings) -> None:
    """Every adapter and checkpoint that the run's models name, by its digest."""
    from rnr_dist.weights.checkpoints import require_content
    from rnr_dist.weights.composition import is_whole

    for path in sorted(run.path.glob("*/models.json")):
        for named in found.asked(path, partial(read, path, list[NamedModel])) or ():
            bare = replace(named.model, terms=())
            found.asked(Path(bare.checkpoint), partial(require_content, bare))
            for term in named.model.terms:
                if not is_whole(term.adapter):
                    place = Path(term.adapter.path)
                    told = f"expected the adapter of digest {term.adapter.digest}"
                    kind = "damaged" if place.is_dir() else "missing"
                    found.problems.append(Problem(kind, place, told))


def _unsealed(run: RunDir, found: Findings) -> Iterator[Problem]:
    """Stages that have read `final`, of which the note of all readings knows nothing."""
    from rnr_dist.recipes.pipeline import judged_on_final

    note = run.path / NOTE
    readings = found.asked(note, partial(final_readings, run.path)) or []
    for name, _ in judged_on_final(run):
        if name not in {reading.stage for reading in readings}:
            told = f"the reading of {name}" if note.exists() else f"with the reading of {name}"
            yield Problem("missing", note, told)


def _foreign(
    run: RunDir, stages: list[str], manifests: Mapping[Path, Manifest]
) -> Iterator[Problem]:
    """What no stage has written, and what a killed process left of a file."""
    listed = {
        (folder / file.path).resolve() for folder, one in manifests.items() for file in one.files
    }
    begun = {path.parent for path in run.path.glob(f"*/{BEGUN_NOTE}")}
    # What a stage writes beside its folder, it lists when it is done; earlier versions never did.
    unlisted = bool(begun - manifests.keys()) or any(
        one.inputs is None for one in manifests.values()
    )
    for path in sorted(run.path.iterdir()):
        if path.name.startswith(".") or path.name in {*OWN_FILES, EARLIER}:
            continue
        if path.is_file() or path.name not in (*stages, *SHARED_FOLDERS):
            yield Problem("foreign", path)
        elif not unlisted:
            for file in results(path):
                if file.resolve() not in listed:
                    yield Problem("foreign", file)
    for path in cut_short(run.path):
        yield Problem("left", path, "of a write that was cut short")


def _check_unlisted(path: Path, found: Findings) -> None:
    """A file that no manifest has a checksum of: whether it can be read."""
    match path.suffix:
        case ".jsonl":
            lines = EventLog(path).lines(mend=False)
            bad = [number for number, line in enumerate(lines, 1) if line.event is None]
            found.files += 1
            if bad:
                told = f"{len(bad)} of {len(lines)} lines, the first is line {bad[0]}"
                found.problems.append(Problem("damaged", path, told))
        case ".json":
            found.asked(path, partial(read_json, path))
        case ".parquet":
            found.asked(path, partial(read_table, path))
        case ".npz":
            found.asked(path, partial(_require_archive, path))


def _require_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: found no whole archive ({error})") from error
    if bad:
        raise InputError(f"{path}: {bad} is damaged")
