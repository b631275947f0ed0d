"""The command `rnr`. Parses arguments and prints; heavy imports wait until a command needs them.

Invariant: what the user did wrong ends with one sentence and exit code 2, an interrupt with 130
and the command that goes on.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rnr_dist.errors import InputError, LostError, told_in
from rnr_dist.machine.ending import ENDING, going_on, kill_all, leave, signals_end

app = typer.Typer(
    help="Find out what a language model knows of a target, make it forget, and prove it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

RUNS = Path("runs")
# What a system says of a place where nothing (more) can be written.
SQLITE = b"SQLite format 3\0"  # how such a database begins
CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, see configs/.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a config key (repeat).")
]
NewRun = Annotated[
    Path | None, typer.Option("--run", help="Run directory to make (runs/NAME-TIME).")
]
Reread = Annotated[
    bool,
    typer.Option(
        "--reread", help="Read the split final again under another config; tables say so."
    ),
]
Resume = Annotated[
    Path | None, typer.Option("--resume", help="Run directory to go on with; done stages stay.")
]

# The stage that a command goes to; None: the recipe's last.
STAGES = {
    "run": None,
    "reveal": "reveal",
    "release": "release",
    "evaluate": "evaluate",
    "baselines": "baselines",
    "icu": "icu",
    "sweep": "sweep",
}


@dataclass(frozen=True)
class Where:
    """The run directory to make, or to go on with; whether its sealed split may be read again."""

    run: Path | None
    resume: Path | None
    reread: bool = False


def _pipeline(command: str, config: Path, overrides: list[str], where: Where) -> None:
    from rnr_dist.commands.check import check_checkpoint, check_inputs, first_lines
    from rnr_dist.config.file import load_config
    from rnr_dist.run.lock import held
    from rnr_dist.run.places import require_writable
    from rnr_dist.run.progress import say

    if where.run and where.resume:
        raise InputError("--run and --resume: found both, expected one")
    if where.resume and not (where.resume / "config.json").exists():
        raise InputError(f"--resume {where.resume}: no run directory (no config.json)")
    loaded = load_config(config, overrides)
    task = check_inputs(loaded, methods=command == "baselines")
    # Only now: the stages of all recipes load torch and Ray.
    from rnr_dist.recipes.pipeline import open_run, recipe_of, run_folder, run_pipeline

    recipe, stage = recipe_of(loaded, STAGES[command])
    if command == "icu":  # the whole picture, of the recipe that has this stage
        stage = recipe.last
    path = where.resume or where.run or run_folder(RUNS, loaded.name)
    options = [word for one in overrides for word in ("--set", one)]
    options += ["--reread"] if where.reread else []
    require_writable(path, "the run directory")
    with held(path), going_on("rnr", command, config, *options, "--resume", path):
        directory = open_run(path, loaded, where.resume is not None, where.reread)
        say(f"run directory {directory.path}")
        for line in first_lines(loaded, task):
            say(line)
        run_pipeline(loaded, task, directory, stage, check_checkpoint, where.reread)
    print(directory.path)


def _stage_command(name: str, describe: str) -> None:
    """`rnr NAME CONFIG`: everything up to and with a stage."""

    @app.command(name, help=describe)
    def command(
        config: ConfigPath,
        overrides: Overrides = [],  # noqa: B006 (typer copies it)
        run: NewRun = None,
        resume: Resume = None,
        reread: Reread = False,
    ) -> None:
        _pipeline(name, config, overrides, Where(run, resume, reread))


_stage_command("run", "Run the recipe that the config names: the whole picture, with its report.")
_stage_command(
    "reveal",
    "Search instructions that make the model speak about the target; write the forget set.",
)
_stage_command(
    "release", "Train forget and retain adapters and search their weights (after reveal)."
)
_stage_command("evaluate", "Measure the base, controls and every step on the evaluated split.")
_stage_command("baselines", "Put the methods of the config beside the recipe's own, at its budget.")
_stage_command("icu", "Make a model forget given sequences: memorise, pair, unlearn, measure.")
_stage_command("sweep", "Try every setting of `sweep` on the tuning sequences (after memorising).")


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file, see configs/studies/.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where its runs go (runs/STUDY).")
    ] = None,
    reread: Reread = False,
) -> None:
    """Run a config for several seeds and variants, and put all methods in one table."""
    from rnr_dist.commands.check import check_checkpoint, check_inputs
    from rnr_dist.config.file import load_study
    from rnr_dist.recipes.study import run_study, study_cells
    from rnr_dist.run.places import require_writable

    place = folder or RUNS / load_study(file).study
    require_writable(place, "--folder")
    found, cells = study_cells(file, place)
    for cell in cells:
        check_inputs(cell.config, methods=found.until == "baselines")
    options = ["--reread"] if reread else []
    with going_on("rnr", "study", file, "--folder", place, *options):
        written = run_study(file, place, reread, check_checkpoint)
    print(written)


@app.command()
def check(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    cluster: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask whether it fits the cluster that FILE describes."),
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the model's shape from this config.json alone."),
    ] = None,
) -> None:
    """Check config, data, model, room and cost before anything costs time."""
    from rnr_dist.commands.check import Described, check_config
    from rnr_dist.run.shown import shown

    for line in check_config(config, overrides, Described(cluster, model_config)):
        print(shown(line))


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
    from rnr_dist.run.places import require_writable

    for option, target in (("--adapter", adapter), ("--merged", merged)):
        if target:
            require_writable(target, option)
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
    from rnr_dist.report.grading import print_grades, read_scores, scale_lines, write_sheet
    from rnr_dist.run.places import require_writable

    if bool(sheet) == bool(scores):
        raise InputError("grade: expected either --sheet or --scores")
    if sheet:
        require_writable(sheet.absolute().parent, "--sheet")
        rows = write_sheet(run, sheet, count, seed)
        print(f"{sheet}: {rows} rows; fill in `score`:", *scale_lines(), sep="\n")
    else:
        print_grades(read_scores(run, scores or []))


@app.command()
def verify(run: RunPath) -> None:
    """Read everything in a run, and say what is not as it was left; exit code 1 where anything."""
    from rnr_dist.commands.verify import verify_run

    found = verify_run(run)
    print(*found.lines(), sep="\n")
    if found.problems:
        raise typer.Exit(1)


@app.command()
def clean(
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what runs that ended have left on this machine, and say how much."""
    from rnr_dist.commands.clean import clean_machine, told

    print(*told(clean_machine(runs, dry_run), dry_run), sep="\n")


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
    with (runs / "mlflow.db").open("rb") as database:
        if database.read(len(SQLITE)) != SQLITE:
            raise InputError(f"{database.name}: found no SQLite database; expected MLflow's own")
    command = ui_command(default_uri(runs), port=port)
    print(runs_page(default_uri(runs), port), flush=True)
    os.execv(command[0], command)


def guarded(command: Callable[[], object]) -> int:
    """Exit code of a command: 0, 2 for bad input or a full or closed disk, 1 for what a run has
    lost, and 130 or 143 for what has ended it."""
    try:
        code = command()
    except typer.TyperException as error:  # wrong usage
        return _told(2, error.format_message())
    except KeyboardInterrupt:
        return ENDING.code
    except Exception as error:
        if ENDING.signal:  # whatever broke while it was ended
            ENDING.tell()
            return ENDING.code
        told = sentence(error)
        if told is None:
            raise
        return _told(*told)
    # Typer catches an interrupt within a command and returns 130.
    return ENDING.code if ENDING.signal or code == 130 else code if isinstance(code, int) else 0


def sentence(error: Exception) -> tuple[int, str] | None:
    """Exit code and sentence of an error that a user can do something about; None: a fault of ours.

    What was raised in another process counts like what was raised here.
    """
    if bad := told_in(error, InputError):
        return 2, str(bad)
    if isinstance(error, OSError) and error.errno in CLOSED:
        told = "no space is left" if error.errno == errno.ENOSPC else error.strerror
        place = error.filename or "a disk"
        return 2, f"{place}: {told}; what is finished is kept, --resume goes on"
    if lost := told_in(error, LostError):
        return 1, str(lost)
    ray = sys.modules.get("ray")
    if ray and (gone := told_in(error, ray.exceptions.RayError)):
        reason = (str(gone).strip().splitlines() or [""])[0]
        return 1, f"Ray has lost a process or a node ({type(gone).__name__}: {reason})"
    return None


def _told(code: int, sentence: str) -> int:
    from rnr_dist.run.shown import shown

    print("rnr:", shown(sentence), file=sys.stderr)
    if code == 1:
        ENDING.tell()
    return code


def main() -> None:
    with signals_end():
        code = guarded(lambda: app(sys.argv[1:] or ["--help"], standalone_mode=False))
    if ENDING.signal:
        kill_all()
        leave(ENDING.code)
    sys.exit(code)
