"""The command `rnr`. Parses arguments and prints; heavy imports wait until a command needs them.

Invariant: what the user did wrong ends with one sentence and exit code 2, an interrupt with 130
and the command that goes on.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from rnr_dist.commands.start import RUNS, Where, start, start_study
from rnr_dist.errors import InputError, LostError, told_in
from rnr_dist.machine.ending import ENDING, going_on, kill_all, leave, signals_end
from rnr_dist.run.extras import sentence_of

app = typer.Typer(
    help="Find out what a language model knows of a target, make it forget, and prove it.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

SQLITE = b"SQLite format 3\0"  # how such a database begins
# Read when libraries are loaded: their bars and hints would stand between ours, in a log too.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file, or the name of a config that ships.")
]
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


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print("rnr", version("rnr-dist"))
        raise typer.Exit


def _pipeline(command: str, config: Path, overrides: list[str], where: Where) -> None:
    from rnr_dist.config.file import load_config
    from rnr_dist.report.closing import Command, close
    from rnr_dist.run.shown import terminal

    where.require_one()
    options = [word for one in overrides for word in ("--set", one)]
    options += ["--reread"] if where.reread else []

    def around(path: Path) -> AbstractContextManager[None]:
        return going_on("rnr", command, config, *options, "--resume", path)

    loaded = load_config(config, overrides)
    path, page = start(command, loaded, where, around)
    called = Command(command, config, tuple(options), path)
    close(called, loaded.tracking.uri, page, terminal())
    print(path)


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
    file: Annotated[
        Path, typer.Argument(metavar="STUDY", help="YAML file, or the name of a study that ships.")
    ],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where its runs go (runs/STUDY).")
    ] = None,
    reread: Reread = False,
) -> None:
    """Run a config for several seeds and variants, and put all methods in one table."""
    options = ["--reread"] if reread else []

    def around(place: Path) -> AbstractContextManager[None]:
        return going_on("rnr", "study", file, "--folder", place, *options)

    print(start_study(file, folder, reread, around))


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """What may stand before a command."""


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the config and its file.")],
    example: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="EXAMPLE",
            help="behaviour, sequences, or the name of a config that ships.",
        ),
    ] = "behaviour",
) -> None:
    """Write an example config with comments, NAME.yaml; nothing is overwritten."""
    from rnr_dist.commands.init import write_config

    print(write_config(name, example))


@app.command()
def schema(
    of_study: Annotated[
        bool, typer.Option("--study", help="The schema of a study's file instead.")
    ] = False,
) -> None:
    """Print the JSON schema of config files, for editors."""
    import json

    from rnr_dist.config.editor import config_schema, study_schema

    print(json.dumps(study_schema() if of_study else config_schema(), indent=2))


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
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Continue a prompt with the base and with the result of a run, side by side.

    One engine answers for both, with the run's settings, also on a cluster (RAY_ADDRESS). On a
    machine without GPUs it runs on the cores.
    """
    from rnr_dist.commands.result import compare_models

    compare_models(run, prompt, n, not show, overrides)


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
    push_to: Annotated[
        str, typer.Option("--push-to", metavar="OWNER/NAME", help="Upload it; needs HF_TOKEN.")
    ] = "",
) -> None:
    """Write the result in a form that transformers, PEFT and vLLM load."""
    from rnr_dist.commands.result import export_result
    from rnr_dist.run.places import require_writable

    for option, target in (("--adapter", adapter), ("--merged", merged)):
        if target:
            require_writable(target, option)
    for line in export_result(run, adapter, merged, rank, push_to):
        print(line)


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
    if isinstance(error, ModuleNotFoundError) and (told := sentence_of(error)):
        return 2, told
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
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with signals_end():
        code = guarded(lambda: app(sys.argv[1:] or ["--help"], standalone_mode=False))
    if ENDING.signal:
        kill_all()
        leave(ENDING.code)
    sys.exit(code)
