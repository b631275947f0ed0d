"""contexts -> reveal -> release -> evaluate -> report: the whole picture, stage by stage.

In: a config and a run directory. Out: the same directory with every stage done. Invariant: a stage
whose manifest stands with the same fingerprint is never done again, so a run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rnr_dist.config import Config
from rnr_dist.machine import Machine
from rnr_dist.report.meter import Meter
from rnr_dist.report.progress import say
from rnr_dist.report.tracking import Tracker, default_uri
from rnr_dist.run_dir import RunDir, read_json, read_rows, write_json, write_rows
from rnr_dist.tasks.toxicity import TaskData
from rnr_dist.types import Adapter, ModelRef, Sample, Split, digest

StageName = Literal["reveal", "release", "evaluate", "report"]
STAGES: tuple[StageName, ...] = ("reveal", "release", "evaluate", "report")

REVEAL_KEYS = ("seed", "model", "task", "reveal", "engines.dtype")
RELEASE_KEYS = (*REVEAL_KEYS, "retain", "release", "perplexity", "workers.dtype")
EVALUATE_KEYS = (*RELEASE_KEYS, "evaluate")


def run_pipeline(config: Config, data: TaskData, run: RunDir, until: StageName = "report") -> None:
    """Do what is not done yet, up to and with the stage `until`."""
    uri = config.tracking.uri or default_uri(run.path.parent)
    tracker = Tracker(uri, config.tracking.experiment, run.path / "mlflow-spool.jsonl")
    stages: dict[StageName, tuple[tuple[str, ...], Callable[..., None]]] = {
        "reveal": (REVEAL_KEYS, reveal_stage),
        "release": (RELEASE_KEYS, release_stage),
        "evaluate": (EVALUATE_KEYS, evaluate_stage),
        "report": (tuple(Config.model_fields), report_stage),
    }
    wanted = STAGES[: STAGES.index(until) + 1]
    try:
        with (
            Machine(config) as machine,
            tracker.parent(config.name, config.model_dump(mode="json")),
        ):
            for name in wanted:
                keys, stage = stages[name]
                fingerprint = config.fingerprint(*keys)
                if run.done(name, fingerprint):
                    say(f"{name}: done before")
                    continue
                meter = Meter()
                with meter.stage(name), tracker.nested(name, {}):
                    stage(config, data, run, machine, tracker)
                note_stage(run, name, meter)
                run.finish(name, fingerprint)
    finally:
        tracker.close()


def note_stage(run: RunDir, name: str, meter: Meter) -> None:
    """Add to what a stage took in earlier, interrupted attempts of this run."""
    path = run.path / "stages.json"
    stages = read_json(path) if path.exists() else []
    write_json(path, [*stages, *meter.stages])


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
    write_json(folder / "fills.json", [asdict(fill) for fill in history.fills])
    write_json(folder / "pulls.json", [asdict(pull) for pull in history.pulls])
    tracker.artifact(write_instructions(history.pulls, history.rechecks, folder))
    tracker.metrics({"forget_rows": len(rows)})
    say(f"forget set: {len(rows)} rows")


def release_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Eq. 1 under the 90 %/95 % rules, and the retain-only control."""
    from rnr_dist.release.examples import forget_examples, retain_answers, retain_examples
    from rnr_dist.release.loop import ReleasedStep, release
    from rnr_dist.release.merge_search import make_probe, read_model
    from rnr_dist.report.summary import trial_rows
    from rnr_dist.train.collate import texts
    from rnr_dist.train.launch import train_adapter

    folder = run.stage("release")
    answers_path = folder / "retain_answers.parquet"
    if not answers_path.exists():
        write_rows(
            answers_path,
            retain_answers(
                config, data, machine.base, machine.pool, machine.scorer, machine.tokenizer
            ),
        )
    passages = data.texts(Split.RETAIN)["in_domain"]
    rows = read_rows(run.path / "reveal" / "forget_set.parquet", Sample)
    examples = {
        "forget": forget_examples(rows, data.contexts, config, machine.tokenizer),
        "retain": retain_examples(
            read_rows(answers_path, Sample), passages, config, machine.tokenizer
        ),
    }

    def train(name: str, role: Literal["forget", "retain"], model: ModelRef) -> Adapter:
        _ = machine.ray
        training = config.release.forget if role == "forget" else config.release.retain
        output = folder / "adapters" / name
        identity = digest([[[*e.token_ids], e.prompt_tokens] for e in examples[role]])
        fingerprint = digest([identity, model.digest, training.model_dump(), config.seed])
        note = folder / "adapters" / f"{name}.json"
        if note.exists() and read_json(note)["fingerprint"] == fingerprint:
            return Adapter(**read_json(note)["adapter"])
        say(f"training {name} on {len(examples[role])} examples")
        with tracker.nested(f"train {name}", training.model_dump()):
            adapter = train_adapter(
                texts(examples[role]),
                model,
                training,
                config.workers,
                output,
                role,
                config.seed,
                folder / "train",
                lambda report: tracker.metrics(
                    {key: report[key] for key in ("loss", "tokens_per_second")},
                    int(report["step"]),
                ),
                config.trust_remote_code,
            )
        write_json(note, {"fingerprint": fingerprint, "adapter": asdict(adapter)})
        return adapter

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
    steps = release(
        config, machine.base, train, probe, machine.pool, machine.scorer, folder, log_step
    )
    start = read_model(machine.base, probe, machine.pool, machine.scorer, folder / "readings")
    control = machine.base
    restored = sum(step.coefficient for step in steps if step.name.startswith("+"))
    if restored:
        control = control.plus(restored, train("retain-only", "retain", machine.base))
    models = [{"name": step.name, "model": step.model.to_json()} for step in steps]
    write_json(
        folder / "models.json",
        {
            "base": machine.base.to_json(),
            "control": control.to_json(),
            "steps": models,
            "fallbacks": [step.name for step in steps if not step.feasible],
            "trials": trial_rows(steps, start, config.release),
        },
    )


def released_models(run: RunDir) -> list[tuple[str, ModelRef]]:
    """(name, model): base, the retain-only control if there is one, then every step of Eq. 1."""
    content = read_json(run.path / "release" / "models.json")
    base, control = (ModelRef.from_json(content[key]) for key in ("base", "control"))
    steps = [(step["name"], ModelRef.from_json(step["model"])) for step in content["steps"]]
    controls = [("retain-only", control)] if control.terms else []
    return [("base", base), *controls, *steps]


def evaluate_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """Every step of Eq. 1, the base and the control on the evaluated split."""
    from rnr_dist.evaluate.evaluation import evaluate_model
    from rnr_dist.oracles import make_oracle

    folder = run.stage("evaluate")
    judge = make_oracle(config.task.second_judge)
    models = released_models(run)
    if config.evaluate.steps == "ends":
        models = [pair for pair in models[:-1] if pair[0] in ("base", "retain-only")] + models[-1:]
    for name, model in models:
        path = folder / f"{name}.json"
        if path.exists() and read_json(path)["model"] == model.digest:
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
        named = {key: measure.to_json() for key, measure in measures.items()}
        write_json(path, {"name": name, "model": model.digest, "measures": named})
    write_json(folder / "order.json", [name for name, _ in models])


def report_stage(
    config: Config, data: TaskData, run: RunDir, machine: Machine, tracker: Tracker
) -> None:
    """summary.json, figures, the terminal table."""
    from rnr_dist.report.assemble import assemble

    for path in assemble(config, run, dict(released_models(run))):
        tracker.artifact(path)


def run_folder(runs: Path, name: str) -> Path:
    """A new folder's name for a run: its config's name and the time."""
    import time

    return runs / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
