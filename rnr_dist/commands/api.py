"""What a Python program calls; `from rnr_dist import run` gives the same (docs/api.md).

In: a config as a name, a file, plain values or a `Config`. Out: run directories, and what lies in
them. Invariant: the functions do what the commands of the same names do and print nothing on
standard output; what the caller did wrong is one InputError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnr_dist.commands.start import Where, start
from rnr_dist.config.schema import UNREAD, Config
from rnr_dist.errors import InputError, LostError
from rnr_dist.report.summary import Summary

__all__ = [
    "Config",
    "InputError",
    "LostError",
    "Summary",
    "check",
    "config_schema",
    "export",
    "load_config",
    "run",
    "study",
    "summary",
    "verify",
]
Source = str | Path | Mapping[str, Any] | Config


def load_config(config: Source, settings: Mapping[str, Any] | None = None) -> Config:
    """The validated config.

    config: the name of one that ships (`demo`), a path that ends with .yaml, plain values as a file
    would hold them, or a `Config`. settings: values by dotted keys (`{"reveal.budget": 40}`), which
    stand above what `config` says. Raises InputError.
    """
    from rnr_dist.config import file

    if isinstance(config, str | Path):
        return file.load_config(config, settings=settings)
    if isinstance(config, Config):
        if not settings:
            return config
        config = config.model_dump(mode="json", exclude=set(UNREAD[config.recipe]))
    return file.validate(file.with_settings(config, settings or {}), "config")


def check(config: Source, settings: Mapping[str, Any] | None = None) -> list[str]:
    """Lines on what a run of the config would work with; starts nothing. Raises InputError."""
    from rnr_dist.commands.check import told_of

    origin = str(config) if isinstance(config, str | Path) else "config"
    return told_of(load_config(config, settings), origin)


def run(
    config: Source,
    settings: Mapping[str, Any] | None = None,
    *,
    to: str = "run",
    folder: str | Path | None = None,
    resume: str | Path | None = None,
    reread: bool = False,
) -> Path:
    """Run the config's recipe; returns the run directory.

    to: how far, as the commands are called (`run`, `reveal`, `release`, `evaluate`, `baselines`,
    `icu`, `sweep`). folder: the directory to make; left out, runs/NAME-TIME. resume: one to go on
    with. reread: read the sealed split again under another config. Progress goes to standard error.
    Raises InputError, and LostError where the run has lost something that it works with.
    """
    where = Where(_path(folder), _path(resume), reread)
    path, _ = start(to, load_config(config, settings), where)
    return path


def study(file: str | Path, folder: str | Path, *, reread: bool = False) -> Path:
    """Run a study in `folder`; returns its table, `study.json`. Raises InputError."""
    from rnr_dist.commands.start import start_study

    return start_study(Path(file), Path(folder), reread)


def summary(run: str | Path) -> Summary:
    """What a finished run came to (docs/summary_schema.md). Raises InputError."""
    from rnr_dist.report.summary import read_summary

    path = Path(run) / "summary.json"
    if not path.exists():
        raise InputError(f"{path}: not there; expected the directory of a run that has ended")
    return read_summary(path)


def export(
    run: str | Path,
    *,
    adapter: str | Path | None = None,
    merged: str | Path | None = None,
    rank: int | None = None,
    push_to: str = "",
) -> list[str]:
    """Write a run's result as a PEFT adapter, as a whole model, or both; returns their folders.

    rank: cut the adapter to this rank. push_to: a repository on the hub for the one form that is
    written, whose address comes last. Raises InputError.
    """
    from rnr_dist.commands.result import export_result

    return export_result(Path(run), _path(adapter), _path(merged), rank, push_to)


def verify(run: str | Path) -> list[str]:
    """A line for everything in a run that is not as it was left; none where all is."""
    from rnr_dist.commands.verify import verify_run

    return [problem.line for problem in verify_run(Path(run)).problems]


def config_schema() -> dict[str, Any]:
    """The JSON schema of config files."""
    from rnr_dist.config import editor

    return editor.config_schema()


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
