"""The command `rnr`. Parses arguments and prints; heavy imports wait until a command needs them.

Invariant: what the user did wrong ends with one sentence and exit code 2, an interrupt with 130
and the command that goes on.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rnr_dist.errors import InputError

if TYPE_CHECKING:
    from rnr_dist.recipes.pipeline import StageName

app = typer.Typer(
    help="Find out what a language model knows of a target, make it forget, and prove it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RUNS = Path("runs")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, see configs/.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a config key (repeat).")
]
NewRun = Annotated[
    Path | None, typer.Option("--run", help="Run directory to make (runs/NAME-TIME).")
]
Resume = Annotated[
    Path | None, typer.Option("--resume", help="Run directory to go on with; done stages stay.")
]


def _pipeline(
    command: str,
    config: Path,
    overrides: list[str],
    run: Path | None,
    resume: Path | None,
    until: StageName,
) -> None:
    from rnr_dist.commands.check import check_baselines, check_icu_inputs, check_inputs
    from rnr_dist.config.file import load_any_config
    from rnr_dist.config.icu import IcuConfig
    from rnr_dist.recipes.pipeline import run_folder, run_pipeline, stages_of
    from rnr_dist.run.directory import RunDir
    from rnr_dist.run.progress import say

    if run and resume:
        raise InputError("--run and --resume: found both, expected one")
    if resume and not (resume / "config.json").exists():
        raise InputError(f"--resume {resume}: no run directory (no config.json)")
    loaded = load_any_config(config, overrides)
    stages = stages_of(loaded)
    wanted = "icu" if command == "icu" else until
    if wanted not in stages:
        raise InputError(
            f"{config}: task {loaded.task.name} has no stage {wanted}; expected one of "
            f"{', '.join(stages)}"
        )
    data: Any
    if isinstance(loaded, IcuConfig):
        data = check_icu_inputs(loaded)
    else:
        data = check_inputs(loaded)
        if until == "baselines":
            check_baselines(loaded)
    path = resume or run or run_folder(RUNS, loaded.name)
    content = loaded.model_dump(mode="json")
    directory = RunDir.open(path, content, resume=resume is not None)
    say(f"run directory {directory.path}")
    try:
        run_pipeline(loaded, data, directory, until)
    except KeyboardInterrupt:
        again = f"rnr {command} {config} --resume {path}"
        say(f"interrupted; what is finished is kept. Go on with: {again}")
        raise
    print(directory.path)


def _stage_command(name: str, until: StageName, describe: str) -> None:
    """`rnr NAME CONFIG`: everything up to and with a stage."""

    @app.command(name, help=describe)
    def command(
        config: ConfigPath,
        overrides: Overrides = [],  # noqa: B006 (typer copies it)
        run: NewRun = None,
        resume: Resume = None,
    ) -> None:
        _pipeline(name, config, overrides, run, resume, until)


_stage_command("run", "report", "Reveal, release, evaluate and report: the whole picture.")
_stage_command(
    "reveal",
    "reveal",
    "Search instructions that make the model speak about the target; write the forget set.",
)
_stage_command(
    "release",
    "release",
    "Train forget and retain adapters and search their weights (after reveal).",
)
_stage_command(
    "evaluate",
    "evaluate",
    "Measure base, control and every step on the evaluated split (after release).",
)
_stage_command(
    "baselines",
    "baselines",
    "Put the methods that R&R, or ICU, is compared with beside it, at its budget.",
)
_stage_command(
    "icu",
    "evaluate",
    "Make a model forget given sequences: memorise, pair, unlearn, measure (task extraction).",
)
_stage_command(
    "sweep",
    "sweep",
    "Try every setting of `sweep` on an ICU run's tuning sequences (after memorising).",
)


@app.command()
def check(config: ConfigPath, overrides: Overrides = []) -> None:  # noqa: B006
    """Check config, data, model and room before anything costs time."""
    from rnr_dist.commands.check import check_config

    for line in check_config(config, overrides):
        print(line)


@app.command()
def compare(
    run: RunPath,
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    n: Annotated[int, typer.Option(help="Continuations of each model.", min=1)] = 3,
    show: Annotated[bool, typer.Option("--show", help="Do not mask offensive words.")] = False,
) -> None:
    """Continue a prompt with the base and with the result of a run, side by side."""
    from rnr_dist.commands.result import compare_models

    compare_models(run, prompt, n, masked=not show)


@app.command()
def export(
    run: RunPath,
    adapter: Annotated[
        Path | None, typer.Option(help="Write one PEFT adapter to this folder.")
    ] = None,
    merged: Annotated[Path | None, typer.Option(help="Write a whole model to this folder.")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Cut the adapter to this rank by SVD (default: exact).")
    ] = None,
) -> None:
    """Write the result in a form that transformers, PEFT and vLLM load."""
    from rnr_dist.commands.result import export_result

    for folder in export_result(run, adapter, merged, rank):
        print(folder)


@app.command()
def grade(
    run: RunPath,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a blinded CSV of continuations to be graded.")
    ] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(help="Read a filled-in sheet; one for each grader.")
    ] = None,
    count: Annotated[int, typer.Option(help="Sequences on the sheet.", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="Order of the sheet.")] = 0,
) -> None:
    """Let people grade an ICU run's continuations from 1 to 8, blinded; then read their scores."""
    from rnr_dist.report.grading import read_scores, write_sheet
    from rnr_dist.report.sequences import grades_table, scale_lines

    if bool(sheet) == bool(scores):
        raise InputError("grade: expected either --sheet or --scores")
    if sheet:
        rows = write_sheet(run, sheet, count, seed)
        print(f"{sheet}: {rows} rows; fill in `score`:", *scale_lines(), sep="\n")
    else:
        grades_table(read_scores(run, scores or []))


@app.command()
def ui(
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = RUNS,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Open MLflow on this machine's runs."""
    import os

    from rnr_dist.run.tracking import default_uri, runs_page, ui_command

    if not (runs / "mlflow.db").exists():
        raise InputError(f"{runs / 'mlflow.db'}: not there; expected the runs folder of a run")
    command = ui_command(default_uri(runs), port=port)
    print(runs_page(default_uri(runs), port), flush=True)
    os.execv(command[0], command)


def guarded(command: Callable[[], object]) -> int:
    """Exit code of a command: 0, 2 for bad input or a full disk, 130 for an interrupt."""
    try:
        code = command()
    except InputError as error:
        return _refused(str(error))
    except typer.TyperException as error:  # wrong usage
        return _refused(error.format_message())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        place = error.filename or "a disk"
        return _refused(f"{place}: no space is left; what is finished is kept, --resume goes on")
    except KeyboardInterrupt:
        return 130
    # Typer catches an interrupt within a command and returns 130.
    return code if isinstance(code, int) else 0


def _refused(sentence: str) -> int:
    print("rnr:", " ".join(sentence.split("\n")), file=sys.stderr)
    return 2


def main() -> None:
    sys.exit(guarded(lambda: app(sys.argv[1:] or ["--help"], standalone_mode=False)))
