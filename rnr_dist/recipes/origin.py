"""Where a run comes from and what it reads, as MLflow is told: tags, parameters, datasets.

In: a config, its task, a run directory. Out: plain values. Invariant: no secret and no text of the
data is among them; only parameters of stages that the run goes through are.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnr_dist.config.schema import Config
from rnr_dist.config.secrets import typed, without_secrets
from rnr_dist.recipes.inputs import data_digest
from rnr_dist.recipes.recipe import Recipe
from rnr_dist.report.summary import package_versions
from rnr_dist.run.delivery import Dataset
from rnr_dist.run.digests import checksum
from rnr_dist.run.directory import RunDir, read_table
from rnr_dist.run.precision import machine_name
from rnr_dist.run.seal import commit
from rnr_dist.tasks.task import ContextKind, Task
from rnr_dist.types import Split, digest

# Read by every stage, though their results do not depend on them.
BESIDE_STAGES = ("name", "recipe", "engines", "workers")
KINDS: tuple[ContextKind, ...] = ("forget", "retain")
# What stages make for others to train on, by the stage.
MADE = {
    "reveal": ("reveal/forget_set.parquet",),
    "release": ("release/retain_answers.parquet",),
    "icu": ("materials/pairs.json",),
}


def tags_of(config: Config, run: RunDir) -> dict[str, str]:
    """Who ran what, where, from which commit, with which versions."""
    versions = {f"version.{name}": told for name, told in package_versions().items() if told}
    return {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        # Its pages show what is behind the last slash; `rnr.command` has it all.
        "mlflow.source.name": f"rnr {config.recipe}: {config.name}",
        "rnr.command": command_line(sys.argv),
        "mlflow.source.git.commit": commit(),
        "rnr.run_dir": str(run.path.absolute()),
        "rnr.config": config.name,
        "rnr.recipe": config.recipe,
        "rnr.task": config.task.name,
        "rnr.machine": machine_name(),
        **versions,
    }


def command_line(words: Sequence[str]) -> str:
    """The command that was typed, with no secret in it: not in an address, nor as a key's value."""
    name = Path(words[0]).name
    return typed("rnr" if name == "__main__.py" else name, *words[1:])


def parameters(config: Config, recipe: Recipe, until: str) -> dict[str, Any]:
    """The config's content, of what the stages up to and with `until` depend on."""
    content = config.content()
    keys = [key for stage in recipe.until(until) for key in recipe.keys_of(stage.name)]
    chosen: dict[str, Any] = {}
    for key in dict.fromkeys([*BESIDE_STAGES, *keys]):
        _copy(content, chosen, key.split("."))
    return chosen


def datasets_of(config: Config, task: Task) -> Iterator[Dataset]:
    """The task's contexts with how many there are by split, and every source that it names."""
    if "contexts" in getattr(task, "gives", ()):
        for kind in KINDS:
            found = {split: task.contexts(split, kind) for split in Split}
            counts = {split.value: len(part) for split, part in found.items() if part}
            texts = [[one.id, one.text] for part in found.values() for one in part]
            profile = {"num_rows": len(texts), **counts}
            yield Dataset(f"{kind} contexts", digest(texts), task_name(config), profile)
    for key, given in _sources(config.content()["task"], "task"):
        source = given["source"]
        known = data_digest(source)
        # A file is where it lies; built-in texts, a hub's and an address are what they are called.
        local = bool(known) and ":" not in source and Path(source).expanduser().is_file()
        place = str(Path(source).expanduser().absolute()) if local else without_secrets(source)
        profile = {name: value for name, value in given.items() if value and name != "source"}
        yield Dataset(key, (known or digest(given))[:16], place, profile)


def datasets_made(run: RunDir, stage: str) -> Iterator[Dataset]:
    """What a finished stage has made for others to train on."""
    for name in MADE.get(stage, ()):
        path = run.path / name
        if not path.exists():
            continue
        profile, columns = {}, {}
        if path.suffix == ".parquet":
            table = read_table(path)
            profile = {"num_rows": table.num_rows}
            columns = {field.name: _type(field.type) for field in table.schema}
        told = path.stem.replace("_", " ")
        yield Dataset(told, checksum(path)[:16], str(path.absolute()), profile, columns)


def task_name(config: Config) -> str:
    return f"task {config.task.name}"


def _type(arrow: Any) -> str:
    """An Arrow type by MLflow's names."""
    import pyarrow.types as kinds

    if kinds.is_integer(arrow):
        return "long"
    if kinds.is_floating(arrow):
        return "double"
    return "string" if kinds.is_string(arrow) or kinds.is_large_string(arrow) else "object"


def _sources(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each section that names a source, with its dotted key."""
    if isinstance(value, Mapping):
        if isinstance(value.get("source"), str):
            yield key, value
            return
        for name, inner in value.items():
            yield from _sources(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _sources(inner, f"{key}.{number}")


def _copy(content: Mapping[str, Any], chosen: dict[str, Any], path: Sequence[str]) -> None:
    """Copy what lies at a dotted path, if it is there."""
    first, *rest = path
    if first not in content:
        return
    if rest:
        _copy(content[first], chosen.setdefault(first, {}), rest)
    elif isinstance(content[first], Mapping):
        chosen[first] = {**content[first]}
    else:
        chosen[first] = content[first]


def _user() -> str:
    """The account's name; in a container it may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
