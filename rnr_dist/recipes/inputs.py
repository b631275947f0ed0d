"""What a stage is made from beside the config's values: data, checkpoints, the stages before.

In: a config, its base, a run directory. Out: a digest by name for each. Invariant: the digest is of
content, so what lies under an old name is known as another thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.config.secrets import without_secrets
from rnr_dist.data.files import BUILTIN, BUILTIN_TEXTS, HUB, files_of
from rnr_dist.errors import InputError
from rnr_dist.recipes.recipe import Stage
from rnr_dist.run.digests import checksum
from rnr_dist.run.directory import RunDir
from rnr_dist.types import ModelRef, digest
from rnr_dist.weights.checkpoints import checkpoint_digest, checkpoint_here, companions
from rnr_dist.weights.embedded import EMBEDDED

DATA, MODEL, STAGE = "data ", "model ", "stage "  # what a name of an input begins with
DATA_SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet", ".npy", ".gz", ".ckpt")
CLASSIFIER = "hf:"  # what the name of an oracle that is a model begins with
# Config keys that name a model beside the run's own.
MODELS = {"reveal": ("writer",), "evaluate": ("others",)}


def inputs_of(config: Config, stage: Stage, base: ModelRef, run: RunDir) -> dict[str, str]:
    """Digests of what a stage reads by itself; what the stages before read is in theirs.

    Of a model beside the base only one that lies in a folder of the user's.
    """
    found = {}
    for key in stage.keys:
        value = config.part(key)
        if key == "model":
            found[f"{MODEL}{config.model}"] = base.checkpoint_digest
            found[f"{MODEL}{config.model}: what lies beside its weights"] = companions(
                Path(base.checkpoint)
            )
            continue
        for source in _sources(value):
            if known := data_digest(source):
                found[f"{DATA}{without_secrets(source)}"] = known
        for name in _classifiers(value):
            if folder := checkpoint_here(name.removeprefix(CLASSIFIER)):
                found[f"{MODEL}{name}"] = checkpoint_digest(folder)
        for section in MODELS.get(key, ()):
            for name in _strings(value[section]):
                if not name.startswith(EMBEDDED) and (folder := checkpoint_here(name)):
                    found[f"{MODEL}{name}"] = checkpoint_digest(folder)
    for need in stage.needs:
        manifest = run.manifest(need)
        if manifest:
            found[f"{STAGE}{need}"] = manifest.digest
    return found


def require_inputs(run: RunDir, stage: Stage, fingerprint: str, now: Mapping[str, str]) -> None:
    """Raises InputError where data or a checkpoint is not what the stage was begun with.

    Another result of a stage before is no bad input: the stage is made anew from it.
    """
    begun = run.begun(stage.name)
    if begun is None or begun.fingerprint != fingerprint:
        return
    for name, known in (begun.inputs or {}).items():
        found = now.get(name)
        if found not in (known, None) and not name.startswith(STAGE):
            kind, _, told = name.partition(" ")
            raise InputError(
                f"{run.path}: the {kind} {told} has another content than when {stage.name} was "
                f"begun (digest {found[:16]}, then {known[:16]}); expected the same: restore it, "
                f"take another run directory, or remove {run.path / stage.name} to begin it anew"
            )


def data_digest(source: str) -> str | None:
    """Digest of the content of what `source` stands for; None where no file of data does."""
    if source.startswith(BUILTIN) and source.removeprefix(BUILTIN) not in BUILTIN_TEXTS:
        return None  # made by the program
    sums = [checksum(file.path) for file in files_of(source) if file.path.is_file()]
    return digest(sums) if sums else None


def _sources(value: Any, key: str = "") -> Iterator[str]:
    """What names data in a section: each `source`, and what looks like data elsewhere."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _sources(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _sources(inner, key)
    elif isinstance(value, str) and (
        key == "source"
        or value.startswith((BUILTIN, HUB))
        or Path(value).suffix.lower() in DATA_SUFFIXES
    ):
        yield value


def _classifiers(value: Any) -> Iterator[str]:
    """The models among the oracles that a section names."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _classifiers(inner)
    elif isinstance(value, str) and value.startswith(CLASSIFIER):
        yield value


def _strings(value: Any) -> list[str]:
    """The names of models under a key: one, several by name, or none."""
    values = value.values() if isinstance(value, Mapping) else [value]
    return [one for one in values if isinstance(one, str) and one]
