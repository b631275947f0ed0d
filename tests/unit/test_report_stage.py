"""What people see of a run: the report of both recipes, methods beside them, curves, texts."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.image import imread

from rnr_dist.config.file import load_config, validate
from rnr_dist.measures.results import Results
from rnr_dist.report.comparison import write_comparison
from rnr_dist.report.continuations import write_continuations
from rnr_dist.report.epochs import epochs_figure, read_trainings
from rnr_dist.report.findings import findings_of
from rnr_dist.report.stage import comparison_stage, report_stage, sweep_table_stage
from rnr_dist.report.summary import read_summary
from rnr_dist.run.directory import RunDir, read_json, write, write_json
from rnr_dist.stats import paired_difference
from rnr_dist.types import ModelRef, NamedModel, TokenSequence
from tests.unit.fakes import FakeTracker
from tests.unit.report_fakes import (
    BEHAVIOUR,
    EL,
    INSIDE,
    OUTSIDE,
    RUDE,
    behaviour_results,
    behaviour_row,
    sequence_results,
    sequence_row,
)
from tests.unit.stage_findings import FILLS, TRIALS

ROOT = Path(__file__).parents[2]
CONFIGS = {"toxicity": "demo.yaml", "extraction": "icu_small.yaml"}
BASE = ModelRef("/base", "digest")
LIMITS = {"bertscore": 0.9, "bleu": 0.7, "extraction": 0.05, "memorisation": 0.6}
SEQUENCE = TokenSequence("s0", "letters", (1, 2, 3, 4), "a b c d", 2)
TOKENIZER = SimpleNamespace(decode=lambda ids: " ".join(f"word{i}" for i in ids))


class Kept(FakeTracker):
    """A tracker that keeps which files it was given."""

    @property
    def files(self):
        return [told for kind, told in self.told if kind == "exhibit"]

    @property
    def tables(self):
        return [told for kind, told in self.told if kind == "table"]


def a_run(tmp_path, task):
    """(bench, run directory) of the demo, or of the built-in sequences."""
    config = load_config(ROOT / "configs" / CONFIGS[task], [])
    run = RunDir.open(tmp_path / "run", config.content(), resume=False)
    write_json(run.path / "stages.json", [])
    return SimpleNamespace(config=config, tracker=Kept(), tokenizer=TOKENIZER), run


def epoch(number, el, memorised, left):
    several = {"bertscore": [0.9, 0.8], "bleu": [0.5, 0.5], "memorisation": [memorised] * 2}
    return {
        **several,
        "epoch": number,
        "extraction": [el] * 2,
        "terms": {"forget": 0.1} if number else {},
        "trained_on": 2,
        "left_by": {"bertscore": left},
        "violation": max(0.0, (el - 0.05) / 0.05) if not math.isnan(el) else math.inf,
        "seconds": 1.0,
        "reading_seconds": 0.5,
        "forgotten": [True] * left + [False] * (2 - left),
        "continuations": [f"said {min(number, 1)}\x1b[31m", "other"],
    }


def trained(folder, name, epochs, best):
    summary = {"epochs": epochs, "best": best, "tokens": 900, "seconds": 3, "reading_seconds": 1}
    write_json(folder / "models" / name / "training.json", summary)
    write_json(folder / f"{name}.json", {"chosen": {"learning_rate": 1e-5}, "places": []})


def unlearned(run):
    """What unlearning leaves behind."""
    epochs = [epoch(0, 0.9, 0.99, 0), epoch(1, math.nan, 0.8, 1), epoch(2, 0.04, 0.59, 2)]
    trained(run.path / "icu", "icu", epochs, 2)
    write_json(run.path / "icu" / "result.json", {"best": 2, "limits": LIMITS})
    write(run.path / "evaluate" / "results.json", sequence_results())


def test_the_report_of_a_release(tmp_path, capsys):
    bench, run = a_run(tmp_path, "toxicity")
    write(run.path / "evaluate" / "results.json", behaviour_results())
    write_json(run.path / "reveal" / "fills.json", FILLS)
    pull = {"outer": 0, "score": 0.5}
    write_json(run.path / "reveal" / "pulls.json", [pull, {**pull, "score": 0.7}])
    found = {"fallbacks": ["-f1"], "trials": TRIALS, "front": []}
    write_json(run.path / "release" / "search.json", found)
    write(run.path / "release" / "models.json", [NamedModel("+r1", "step", BASE)])
    report_stage(bench, SimpleNamespace(), run)
    shown = capsys.readouterr().out
    for expected in ("What was forgotten", "−2.2·f0", "Instructions found", "chosen"):
        assert expected in shown
    names = [path.name for path in bench.tracker.files]
    assert names == ["summary.json", "steps.png", "search.png", "reveal.png"]
    for path in bench.tracker.files[1:]:
        assert imread(path).std() > 0.01
    summary = read_summary(run.path / "summary.json")
    assert summary.recipe == "reveal-and-release" and summary.task == "toxicity"
    assert summary.notes == (
        "-f1: no candidate weight satisfied its rules; the least violation was taken",
    )
    assert len(summary.details.trials) == len(TRIALS) and not summary.details.curves
    [headline] = [told for kind, told in bench.tracker.told if kind == "headline"]
    score, name = summary.own.scores[RUDE.name], f"result/{RUDE.name}"
    assert headline[name] == score.value and headline[f"{name}/low"] == score.ci95[0]
    assert headline[f"{name}/change"] == pytest.approx(score.ratio - 1)
    assert headline[f"{name}/change_low"] == pytest.approx(score.ratio_ci95[0] - 1)
    [table] = bench.tracker.tables
    found = {(row[0], row[1]): row[2] for row in read_json(table)["data"]}
    assert found["+0.3·r1", RUDE.title] == score.value
    [tags] = [told for kind, told in bench.tracker.told if kind == "tags"]
    assert "rude, street −81 %" in tags["mlflow.note.content"]
    assert validate(dict(summary.config), "x") == bench.config


def test_a_run_with_prompts_of_its_own_has_no_figure_of_a_search(tmp_path):
    bench, run = a_run(tmp_path, "toxicity")
    write(run.path / "evaluate" / "results.json", behaviour_results())
    write_json(run.path / "reveal" / "fills.json", FILLS)
    write_json(run.path / "reveal" / "pulls.json", [])
    report_stage(bench, SimpleNamespace(), run)
    assert [path.name for path in bench.tracker.files] == ["summary.json", "steps.png"]
    assert not (run.path / "figures" / "reveal.png").exists()


def test_the_report_of_given_sequences(tmp_path, capsys):
    bench, run = a_run(tmp_path, "extraction")
    unlearned(run)
    report_stage(bench, SimpleNamespace(forget=(SEQUENCE,)), run)
    shown = capsys.readouterr().out
    assert "What is still recalled" in shown and "epoch 2 " in shown and "said 1" not in shown
    names = [path.name for path in bench.tracker.files]
    assert names == ["summary.json", "steps.png", "epochs.png", "continuations.md"]
    [said] = [path for path in bench.tracker.tables if path.name == "continuations.json"]
    content = read_json(said)
    assert content["columns"] == ["sequence", "epoch", "prefix", "truth", "said"]
    assert [row[1] for row in content["data"]] == [0, 1]  # the second epoch changed nothing
    assert "\x1b" not in str(content) and "said 0" in content["data"][0][4]
    summary = read_summary(run.path / "summary.json")
    assert summary.recipe == "unlearn-sequences" and summary.details.limits == LIMITS
    assert summary.own.notes["best"] == 2 and summary.own.notes["met"] is True
    assert [row["epoch"] for row in summary.details.curves["icu"]] == [0, 1, 2]
    assert summary.details.curves["icu"][1]["extraction"] is None  # was not read
    assert "continuations" not in summary.details.curves["icu"][0]
    assert summary.details.tuning["icu"]["chosen"] == {"learning_rate": 1e-5}
    assert "training ends by EL over t≥t0 and MA over t≥t0" in summary.notes


def test_notes_say_who_missed_a_limit_and_who_is_told_from_the_control(tmp_path):
    bench, run = a_run(tmp_path, "extraction")
    unlearned(run)
    trained(run.path / "baselines", "kl", [epoch(0, 0.9, 0.99, 0), epoch(1, 0.5, 0.7, 0)], 1)
    rows = (*sequence_results().rows, sequence_row("kl", "method", 0.5, 150))
    results = replace(sequence_results(), rows=rows)
    notes = findings_of(run, bench.config, results).notes
    assert "kl missed a limit: mean EL 0.500, MA 0.700 in its best epoch, 1" in notes
    assert "kl is told from the control by short prefixes, AUC" in notes
    assert not any(note.startswith("icu") for note in notes)


def test_a_final_split_that_was_read_again_is_told(tmp_path):
    bench, run = a_run(tmp_path, "toxicity")
    reading = {"stage": "evaluate", "commit": "c", "at": "now"}
    write_json(run.path / "final.json", [{**reading, "fingerprint": mark} for mark in "ab"])
    notes = findings_of(run, bench.config, behaviour_results()).notes
    assert notes == ("the split final was read again once under another config (--reread)",)


BUDGET = {"tokens": 85080, "candidates": 15}


def compared():
    met = {**BUDGET, "dead": 5, "candidate": '{"learning_rate": 0.003} x 0.841', "feasible": True}
    missed = {**met, "feasible": False, "broken": ["utility"], "dead": 12}
    own = behaviour_results().rows
    rows = (
        *own[:-1],
        replace(own[-1], notes={**own[-1].notes, **BUDGET}),
        behaviour_row("one", "method", 0.1, 1.04, met),
        behaviour_row("other", "method", 0.14, 1.01, missed),
    )
    return Results(BEHAVIOUR, rows, "base")


def test_the_comparison_holds_every_row_and_paired_differences(tmp_path, capsys):
    _, run = a_run(tmp_path, "toxicity")
    results, folder = compared(), run.stage("baselines")
    assert write_comparison(run, results, folder) == [folder / "baselines.json"]
    content = read_json(folder / "baselines.json")
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["base", "retain-only", "release", "one", "other"]
    versus = rows["one"]["against_own"]
    assert set(versus) == {RUDE.name, INSIDE.name, OUTSIDE.name}
    pair = [results.row(name).values[RUDE.name] for name in ("one", "+r1")]
    difference, bounds = paired_difference(*pair)
    assert versus[RUDE.name] == {"value": pytest.approx(difference), "ci95": pytest.approx(bounds)}
    assert rows["release"]["against_own"] == rows["base"]["against_own"] == {}
    summary = read_summary(folder / "baselines.json")
    assert summary.own.notes["tokens"] == 85080
    assert summary.rows[3].against_own[RUDE.name].value == pytest.approx(difference)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    lines = text.split("What each was given")[1].splitlines()
    one = next(line for line in lines if " one " in line)
    assert "85,080" in one and " 5 " in one and "met" in one and "+7.0%" in one
    assert "missed" in next(line for line in lines if " other " in line)
    assert "rude, street, minus that of release" in " ".join(" ".join(lines).split())


def test_a_comparison_of_methods_by_epochs_draws_their_curves(tmp_path, capsys):
    bench, run = a_run(tmp_path, "extraction")
    unlearned(run)
    trained(run.path / "baselines", "kl", [epoch(0, 0.9, 0.99, 0), epoch(1, 0.03, 0.5, 0)], 1)
    kl = sequence_row("kl", "method", 0.03, 138, {**BUDGET, "dead": 0})
    results = replace(sequence_results(), rows=(*sequence_results().rows, kl))
    write(run.stage("baselines") / "results.json", results)
    comparison_stage(bench, SimpleNamespace(), run)
    assert [path.name for path in bench.tracker.files] == ["baselines.json", "epochs.png"]
    summary = read_summary(run.path / "baselines" / "baselines.json")
    assert set(summary.details.curves) == {"icu", "kl"}
    assert EL.name in summary.rows[-1].against_own
    assert summary.rows[-1].notes["tokens"] == 85080  # the row's own goes before the training's
    assert "epoch 1 " in capsys.readouterr().out


def test_a_sweep_is_shown_from_its_file(tmp_path, capsys):
    bench, run = a_run(tmp_path, "extraction")
    over = bench.config.sweep.places()[:1]
    places = [{"overrides": over[0], "lost": "the loss is nan"}]
    write_json(run.path / "sweep" / "sweep.json", {"method": "icu", "places": places})
    sweep_table_stage(bench, SimpleNamespace(), run)
    assert "the loss is nan" in " ".join(capsys.readouterr().out.split())


def test_curves_show_what_was_read_and_who_left(tmp_path):
    _, run = a_run(tmp_path, "extraction")
    unlearned(run)
    found = read_trainings(run, ["base", "icu"])
    assert list(found) == ["icu"]
    assert found["icu"].best["extraction"] == pytest.approx(0.04)
    assert [row["forgotten"] for row in found["icu"].epochs] == [0, 1, 2]
    epochs_figure({"icu": found["icu"].epochs}, LIMITS, "icu", tmp_path / "epochs.png")
    assert imread(tmp_path / "epochs.png").std() > 0.01
    # From a summary, whose missing numbers are null, the same picture is drawn.
    plain = json.loads(json.dumps(found["icu"].epochs).replace("NaN", "null"))
    epochs_figure({"icu": plain}, LIMITS, "icu", tmp_path / "again.png")
    assert (imread(tmp_path / "again.png") == imread(tmp_path / "epochs.png")).all()


def test_continuations_by_epoch_are_shown_as_they_stand(tmp_path):
    epochs = [epoch(number, 0.5, 0.5, 0) for number in range(3)]
    text = write_continuations([SEQUENCE], epochs, TOKENIZER, tmp_path).read_text()
    assert "## letters s0" in text
    assert "    word1 word2\n" in text and "    word3 word4\n" in text
    assert "before:\n\n    said 0�[31m" in text and "epoch 1:\n\n    said 1" in text
    assert "epoch 2" not in text  # which changed nothing
