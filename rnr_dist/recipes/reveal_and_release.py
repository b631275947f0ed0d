"""What each stage of the pipeline does, from the files of those before it to its own.

In: config, data, run directory, machine, tracker. Out: files in the stage's folder. Invariant:
what a stage has finished within itself is a file, so that a stage that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rnr_dist.bench import Machine
from rnr_dist.config.schema import Config
from rnr_dist.machine.threads import side_by_side
from rnr_dist.run.directory import RunDir, read, read_json, read_rows, write, write_json, write_rows
from rnr_dist.run.progress import say
from rnr_dist.run.tracking import Tracker
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.toxicity import TaskData
from rnr_dist.types import Adapter, ModelRef, Sample, Split

if TYPE_CHECKING:
    from rnr_dist.config.baselines import MethodName
    from rnr_dist.train.collate import Example


def reveal_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Algorithm 1: the forget set."""
    from rnr_dist.errors import InputError
    from rnr_dist.report.instructions import write_instructions
    from rnr_dist.reveal.history import Fill
    from rnr_dist.reveal.search import Listeners, search
    from rnr_dist.reveal.setting import Setting

    def log_fill(fill: Fill) -> None:
        with tracker.nested(f"outer iteration {fill.outer + 1}", {"instruction": fill.instruction}):
            figures = ("score", "relevance", "diversity", "n_generated", "n_rows")
            tracker.metrics({key: getattr(fill, key) for key in figures})

    def log_pull(number: int, figures: dict[str, float]) -> None:
        tracker.metrics({f"pull/{key}": value for key, value in figures.items()}, number)

    folder = run.stage("reveal")
    setting = Setting.of(config, data, machine, folder)
    history = search(setting, Listeners(log_pull, log_fill))
    rows = history.forget_rows()
    if not rows:
        raise InputError(
            f"{folder}: no response reached reveal.min_relevance {config.reveal.min_relevance}; "
            "lower it, or raise reveal.budget or reveal.fill_per_context"
        )
    write_rows(folder / "forget_set.parquet", rows)
    write(folder / "fills.json", history.fills)
    write(folder / "pulls.json", history.pulls)
    tracker.artifact(write_instructions(history.pulls, history.rechecks, folder))
    tracker.metrics({"forget_rows": len(rows)})
    say(f"forget set: {len(rows)} rows")


def training_examples(
    config: Config, data: TaskData, run: RunDir, machine: Machine
) -> dict[Literal["forget", "retain"], list[Example]]:
    """What R&R's adapters are trained on; the base's own answers are drawn once a run."""
    from rnr_dist.release.examples import forget_examples, retain_answers, retain_examples

    path = run.stage("release") / "retain_answers.parquet"
    if not path.exists():
        answers = retain_answers(
            config, data, machine.base, machine.pool, machine.scorer, machine.tokenizer
        )
        write_rows(path, answers)
    passages = data.texts(Split.RETAIN)["in_domain"]
    rows = read_rows(run.path / "reveal" / "forget_set.parquet", Sample)
    return {
        "forget": forget_examples(rows, data.contexts, config, machine.tokenizer),
        "retain": retain_examples(read_rows(path, Sample), passages, config, machine.tokenizer),
    }


def release_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Eq. 1 under the 90 %/95 % rules, and the retain-only control."""
    from rnr_dist.release.choice import Reader
    from rnr_dist.release.joint import AS_IT_WAS, Point, search_jointly
    from rnr_dist.release.loop import RELEASED, Released, ReleasedModel, ReleasedStep, release
    from rnr_dist.release.probe import make_probe
    from rnr_dist.report.summary import trial_rows
    from rnr_dist.train.adapters import Trainings
    from rnr_dist.train.collate import texts

    folder = run.stage("release")
    items = {
        role: texts(examples)
        for role, examples in training_examples(config, data, run, machine).items()
    }
    trainings = Trainings(config, folder, tracker, lambda: machine.ray)

    def train(name: str, role: Literal["forget", "retain"], model: ModelRef) -> Adapter:
        training = config.release.forget if role == "forget" else config.release.retain
        return trainings.adapter(name, items[role], training, role, model)

    def log_step(step: ReleasedStep) -> None:
        for trial in step.trials:
            with tracker.nested(f"trial {step.name}", {"coefficient": trial["coefficient"]}):
                tracker.metrics({key: trial[key] for key in ("forget", "utility", "violation")})
                tracker.tag("rule", trial["rule"] or f"broken: {', '.join(trial['broken'])}")
        with tracker.nested(f"step {step.name}", {"coefficient": step.coefficient}):
            tracker.tag("feasible", str(step.feasible))
        verdict = f"rule {step.rule}" if step.feasible else f"fallback ({', '.join(step.broken)})"
        say(f"{step.name}: weight {step.coefficient:g} by {verdict}")

    probe = make_probe(config, data, machine.tokenizer)
    reader = Reader(config, probe, machine.pool, machine.scorer, folder / "readings")
    steps = release(config, machine.base, train, reader, folder, log_step)
    start = reader.read(machine.base)
    models = [ReleasedModel(step.name, step.model) for step in steps]
    fallbacks = [step.name for step in steps if not step.feasible]
    result = steps[-1].model
    points: list[Point] = []
    if config.release.joint.trials:
        choice, result, points = search_jointly(
            result, start, reader, config.release.joint, config.seed
        )
        with tracker.nested("joint search", config.release.joint.model_dump()):
            for number, point in enumerate(points):
                told = {"utility": point.utility, "forget": point.forget}
                tracker.metrics({key: v for key, v in told.items() if v is not None}, number)
        assert choice.reading.forget  # read whole, also where the candidate had lost before
        say(f"joint search: {choice.candidate}, toxic {choice.reading.forget.value:.2%}")
        if choice.candidate != AS_IT_WAS:
            models.append(ReleasedModel("joint", result))
            fallbacks += ["joint"] * (not choice.verdict.feasible)
    control = machine.base
    restored = sum(term.coefficient for term in result.terms if term.adapter.role == "retain")
    if restored:
        control = control.plus(restored, train("retain-only", "retain", machine.base))
    trials = trial_rows(steps, start, config.release)
    write(
        run.path / RELEASED,
        Released(
            machine.base, control, tuple(models), tuple(fallbacks), tuple(trials), tuple(points)
        ),
    )


def released_models(run: RunDir) -> list[tuple[str, ModelRef]]:
    """(name, model): base, the retain-only control if there is one, then every step of Eq. 1."""
    from rnr_dist.release.loop import RELEASED, Released

    found = read(run.path / RELEASED, Released)
    controls = [("retain-only", found.control)] if found.control.terms else []
    return [("base", found.base), *controls, *((step.name, step.model) for step in found.steps)]


def evaluate_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Every step of Eq. 1, the base and the control on the evaluated split."""
    models = released_models(run)
    if config.evaluate.steps == "ends":
        models = [pair for pair in models[:-1] if pair[0] in ("base", "retain-only")] + models[-1:]
    folder = run.stage("evaluate")
    found = evaluate_models(config, data, machine, tracker, models, folder)
    write_json(folder / "order.json", [name for name, _ in models])
    tracker.headline({key: measure.value for key, measure in found[models[-1][0]].items()})


@dataclass(frozen=True)
class Evaluated:
    """Measures of a model by their names; `model` is its digest."""

    name: str
    model: str
    measures: dict[str, ClusterMean]


def evaluate_models(
    config: Config,
    data: TaskData,
    machine: Machine,
    tracker: Tracker,
    models: Sequence[tuple[str, ModelRef]],
    folder: Path,
) -> dict[str, dict[str, ClusterMean]]:
    """Measures of each named model; what stands in `folder` already is not read again."""
    from rnr_dist.score.oracles import make_oracle
    from rnr_dist.tasks.evaluation import evaluate_model

    judge = make_oracle(config.task.second_judge)
    for name, model in models:
        path = folder / f"{name}.json"
        if path.exists() and read(path, Evaluated).model == model.digest:
            continue
        with tracker.nested(f"evaluate {name}", {}):
            measures = evaluate_model(
                config,
                data,
                machine.pool,
                machine.scorer,
                judge,
                machine.tokenizer,
                model,
                machine.base,
                folder,
                name,
            )
            tracker.metrics({key: measure.value for key, measure in measures.items()})
        write(path, Evaluated(name, model.digest, measures))
    return {name: read_measures(folder, name) for name, _ in models}


def read_measures(folder: Path, name: str) -> dict[str, ClusterMean]:
    """The measures of a model that was evaluated into `folder`."""
    return read(folder / f"{name}.json", Evaluated).measures


def report_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """summary.json, figures, the terminal table."""
    from rnr_dist.report.assemble import assemble

    for path in assemble(config, run, dict(released_models(run))):
        tracker.artifact(path)


def baselines_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """The methods that R&R is compared with, within its budget, in one table with it."""
    from rnr_dist.commands.check import check_baseline_layers
    from rnr_dist.machine.cluster import trainings_at_once
    from rnr_dist.methods.preparation import gather, spent
    from rnr_dist.methods.registry import METHODS
    from rnr_dist.methods.runner import Result, run_method
    from rnr_dist.release.choice import Reader
    from rnr_dist.release.probe import make_probe
    from rnr_dist.report.comparison import OURS, write_comparison
    from rnr_dist.train.adapters import Trainings

    check_baseline_layers(config, Path(machine.base.checkpoint))
    folder = run.stage("baselines")
    examples = training_examples(config, data, run, machine)
    materials = gather(config, data, run, machine, examples["forget"], examples["retain"], folder)
    probe = make_probe(config, data, machine.tokenizer)
    # The readings of R&R's own search hold the base's, which all methods are compared with.
    readings = run.path / "release" / "readings"
    reader = Reader(config, probe, machine.pool, machine.scorer, readings)
    start, budget = reader.read(machine.base), spent(run)
    trainings = Trainings(config, folder, tracker, lambda: machine.ray)
    say(f"budget of each method: {budget.tokens:,} tokens, {budget.candidates} candidates")

    def run_one(name: MethodName) -> Result:
        with tracker.nested(f"method {name}", {}):
            result = run_method(
                name,
                METHODS[name],
                getattr(config.baselines, name),
                materials,
                machine.base,
                start,
                reader,
                trainings.adapter,
                budget,
                folder,
            )
            tracker.tag("candidate", result.candidate)
            tracker.tag("feasible", str(result.feasible))
        return result

    names = config.baselines.methods
    finished = side_by_side(run_one, names, trainings_at_once(config))
    results: dict[str, Result] = dict(zip(names, finished, strict=True))
    chosen = [(name, result.model) for name, result in results.items()]
    found = evaluate_models(config, data, machine, tracker, chosen, folder / "evaluate")
    own = run.path / "evaluate"
    order = read_json(own / "order.json")
    rows = {name: read_measures(own, name) for name in order if name in ("base", "retain-only")}
    rows |= {OURS: read_measures(own, order[-1]), **found}
    path = folder / "baselines.json"
    content = config.model_dump(mode="json")
    write_comparison(path, rows, results, budget, config.evaluate.split, content)
    tracker.artifact(path)
