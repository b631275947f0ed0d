"""The report: what was measured is written, read and shown, and hostile text is harmless."""

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from rnr_dist.errors import InputError
from rnr_dist.measures.measure import Measure, Measures
from rnr_dist.measures.results import Results, read_results
from rnr_dist.report.findings import like_control
from rnr_dist.report.summary import (
    Details,
    Summary,
    package_versions,
    read_summary,
    summary_rows,
    write_summary,
)
from rnr_dist.report.table import (
    instructions_table,
    measure_tables,
    print_report,
    trials_table,
)
from rnr_dist.run.directory import write, write_json
from tests.unit.report_fakes import (
    BEHAVIOUR,
    EMPTY,
    MEMBER,
    RUDE,
    SHORT,
    behaviour_results,
    sequence_results,
)
from tests.unit.stage_findings import FILLS, READER, TRIALS

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "summary_schema.md"
STORED = ROOT / "docs" / "results"


def results_tables(results, preset=""):
    """All tables that the results' measures ask for."""
    return measure_tables(summary_rows(results), results.declared, results.reference, preset)


def summary_of(results, **details):
    recipe = "reveal-and-release" if results.reference == "base" else "unlearn-sequences"
    config = SimpleNamespace(
        content=lambda: {"name": "demo"},
        recipe=recipe,
        task=SimpleNamespace(name="rudeness"),
        preset="default",
        seed=3,
    )
    stages = [{"name": "reveal", "wall_seconds": np.float64(12.5), "peak_memory_gib": math.nan}]
    return Summary.of(config, results, stages, Details(**details), ["no candidate met the rules"])


def released_summary():
    similar = {"one": "f0", "other": "r1", "mean": 0.123, "std": 0.01, "chance": 0.04}
    return summary_of(
        behaviour_results(),
        fills=tuple(FILLS),
        trials=tuple(TRIALS),
        subspaces=({**similar, "maximum": 0.354, "modules": 30},),
    )


def written(path, summary):
    write_summary(path, summary)
    return read_summary(path)


def shown(*printed, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    for item in printed:
        console.print(item)
    return console.export_text()


# The file


@pytest.mark.parametrize("results", [behaviour_results(), sequence_results()])
def test_a_summary_comes_back_equal_and_the_file_is_strict_json(tmp_path, results):
    path, given = tmp_path / "summary.json", summary_of(results)
    back = written(path, given)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"found {name}"))
    assert back.stages == ({"name": "reveal", "wall_seconds": 12.5, "peak_memory_gib": None},)
    assert (back.measures, back.reference, back.seeds) == (
        given.measures,
        given.reference,
        {"seed": 3},
    )
    for found, row in zip(back.rows, given.rows, strict=True):
        assert (found.name, found.kind, found.notes) == (row.name, row.kind, row.notes)
        for name, score in row.scores.items():
            if name == EMPTY.name and row.kind != "reference":
                continue  # NaN equals nothing
            assert found.scores[name] == score
    written(tmp_path / "again.json", back)
    assert (tmp_path / "again.json").read_text() == path.read_text()


def test_what_could_not_be_measured_comes_back_as_no_number(tmp_path):
    back = written(tmp_path / "summary.json", released_summary())
    base, first = back.rows[0].scores[EMPTY.name], back.rows[1].scores[EMPTY.name]
    assert (base.ratio, base.ratio_ci95) == (None, None)
    assert math.isnan(first.ratio) and np.isnan(first.ratio_ci95).all()
    assert back.own.name == "+r1"


def test_scores_are_those_of_the_clusters():
    results = behaviour_results()
    score = summary_rows(results)[2].scores[RUDE.name]
    assert score.value == pytest.approx(0.0125) and (score.n_clusters, score.n_samples) == (40, 400)
    assert score.ratio == pytest.approx(0.0125 / 0.16)
    assert score.ci95[0] <= score.value <= score.ci95[1]


def test_every_written_key_is_documented(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, released_summary())
    content, schema = json.loads(path.read_text()), SCHEMA.read_text()
    details = content["details"]
    rows = [*content["stages"], *content["measures"], *content["rows"]]
    rows += [row for key in ("fills", "trials", "subspaces") for row in details[key]]
    scores = [found for given in content["rows"] for found in given["scores"].values()]
    terms = [term for row in content["rows"] for term in row["notes"].get("terms", [])]
    keys = {key for row in (content, details, *rows, *scores, *terms) for key in row}
    assert {key for key in keys if f"`{key}`" not in schema} == set()


def test_a_newer_schema_or_no_summary_is_refused_by_name(tmp_path):
    path = tmp_path / "summary.json"
    with pytest.raises(InputError, match=r"summary\.json: no readable summary"):
        read_summary(path)
    path.write_text("[]")
    with pytest.raises(InputError, match=r"summary\.json: no readable summary"):
        read_summary(path)
    path.write_text('{"schema_version": 7}')
    with pytest.raises(InputError, match="found schema_version 7, expected 1 to 2") as refused:
        read_summary(path)
    assert "\n" not in str(refused.value)
    path.write_text('{"schema_version": 1, "steps": [{"name": "base"}]}')
    with pytest.raises(InputError, match=r"neither schema_version 2 nor a whole summary"):
        read_summary(path)
    write_json(path, {"schema_version": 2, "config": {}})
    with pytest.raises(InputError, match=r"summary\.json: found no `recipe`"):
        read_summary(path)


def test_results_of_a_newer_schema_are_refused(tmp_path):
    path = tmp_path / "results.json"
    write(path, behaviour_results())
    back = read_results(path)
    assert back.measures == BEHAVIOUR
    assert back.scores["+r1"][RUDE.name] == behaviour_results().scores["+r1"][RUDE.name]
    write_json(path, {**json.loads(path.read_text()), "schema_version": 3})
    with pytest.raises(InputError, match=r"results\.json: found schema_version 3, expected 2"):
        read_results(path)
    with pytest.raises(InputError, match=r"none\.json: no readable results"):
        read_results(tmp_path / "none.json")


def test_sequences_results_come_back_with_their_auc(tmp_path):
    path = tmp_path / "results.json"
    write(path, sequence_results())
    assert (
        read_results(path).row("icu").values[MEMBER.name]
        == sequence_results().row("icu").values[MEMBER.name]
    )


def test_versions_name_what_is_installed():
    versions = package_versions()
    assert versions["torch"] and versions["ray"] and versions["mlflow"] and versions["vllm"]
    assert "rnr-dist" in versions


# Schema 1


def test_a_released_run_of_schema_1_is_read():
    path = STORED / "demo-seed0.json"
    old, found = json.loads(path.read_text()), read_summary(path)
    kinds = [row.kind for row in found.rows]
    assert kinds == ["reference", "control", "step", "step", "step"]
    assert [row.label for row in found.rows][2:] == ["−2·f0", "+1·r1", "−0.02·f1"]
    assert (found.recipe, found.reference, found.task) == ("reveal-and-release", "base", "toxicity")
    for step, row in zip(old["steps"], found.rows, strict=True):
        assert list(step["scores"]) == list(row.scores)
        for name, score in step["scores"].items():
            assert row.scores[name].value == score["value"]
            assert row.scores[name].n_clusters == score["n_contexts"]
            versus = score["vs_base"]
            if versus and versus["ratio"] is not None:
                assert row.scores[name].ratio == versus["ratio"]
                assert list(row.scores[name].ratio_ci95) == versus["ci95"]
    assert len(found.details.fills) == len(old["reveal"]) and found.notes == tuple(old["notes"])
    assert len(found.details.trials) == len(old["trials"])


def test_unlearned_sequences_of_schema_1_are_read():
    path = STORED / "icu_table" / "seed-1.json"
    old, found = json.loads(path.read_text()), read_summary(path)
    assert [row.kind for row in found.rows] == [
        "other", "reference", "control", "step", "method", "method", "method", "method",
    ]  # fmt: skip
    own = found.own
    assert (own.name, own.notes["best"], own.notes["met"]) == ("icu", 12, True)
    assert own.scores["auc"].value == old["rows"][3]["auc"][0]
    assert own.scores["auc"].ci95 == tuple(old["rows"][3]["auc"][1:])
    assert found.details.limits == old["limits"] and found.seeds == {"seed": 1}
    assert len(found.details.curves["icu"]) == len(old["rows"][3]["epochs"])
    assert found.preset == "default" and found.recipe == "unlearn-sequences"


def test_a_comparison_of_schema_1_is_read():
    found = read_summary(STORED / "toxicity_table" / "seed-0.json")
    kinds = {row.name: row.kind for row in found.rows}
    assert (kinds["base"], kinds["retain-only"]) == ("reference", "control")
    assert (kinds["R&R"], kinds["cmd"]) == ("step", "method")
    [cmd] = [row for row in found.rows if row.name == "cmd"]
    assert (cmd.notes["tokens"], cmd.notes["feasible"]) == (85080, True)
    assert 0.056 < next(iter(cmd.against_own.values())).value < 0.057


# Tables


def numbers(text):
    return re.findall(r"[-−+]?\d+(?:\.\d+)?", text)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("results", [behaviour_results(), sequence_results()])
def test_all_tables_fit_and_hold_every_value(results, width):
    tables = results_tables(results, "paper")
    assert [table.title for table in tables] == list(results.declared.tables())
    text = shown(*tables, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text and "preset paper" in text
    for row in summary_rows(results):
        assert row.label in text
        for measure in results.measures:
            value = format(row.scores[measure.name].value, measure.style).replace("-", "−")
            assert value in text, (row.name, measure.name)


def test_a_table_gives_value_change_and_interval():
    text = shown(*results_tables(behaviour_results()))
    assert "16.0%" in text and "14.5…17.5" in text  # the base: its own interval
    assert "−92% (−97…−86)" in text and "+13%" in text
    assert "for base, the value's own interval" in text
    narrow = shown(*results_tables(behaviour_results()), width=60)
    assert "(−97…−86)" in narrow
    assert shown(*results_tables(behaviour_results())).count("–") == 3  # the base's share is 0


def test_measures_that_are_not_compared_stand_alone_and_an_auc_has_its_interval():
    recalled, kept = results_tables(sequence_results())
    text = shown(recalled)
    icu = sequence_results().scores["icu"]
    low, high = icu[MEMBER.name].ci95
    assert f"{low:.2f}…{high:.2f}" in text
    assert "(" not in text and "change" not in text
    assert "never saw short prefixes, AUC" in " ".join(text.split())
    assert "change against memorised" in shown(kept)
    line = next(line for line in shown(recalled).splitlines() if " icu " in line)
    assert numbers(line)[:2] == ["4.9", "2.5"]


def test_measures_of_no_row_and_tables_of_no_measure_are_left_out():
    odd = Measure("never", "never read", "share", "lower", table="Nothing")
    results = replace(behaviour_results(), measures=(*BEHAVIOUR, odd))
    assert [table.title for table in results_tables(results)] == list(
        behaviour_results().declared.tables()
    )


def test_many_columns_fit_eighty():
    """A table as wide as the widest of a task's, with a method that went far astray."""
    extra = [
        Measure(f"m{place}", f"m {place}", "nats", "lower", table=RUDE.table, compared=not place)
        for place in range(2)
    ]
    astray = zip(behaviour_results().rows, (0.5, 0.6, 14, 0.4), strict=True)
    rows = [
        replace(
            row,
            values={
                **row.values,
                extra[0].name: extra[0].mean(np.full(9, size)),
                extra[1].name: extra[1].mean(np.linspace(3, 4, 9)),
            },
        )
        for row, size in astray
    ]
    results = Results((*BEHAVIOUR, *extra), tuple(rows), "base")
    text = shown(*results_tables(results), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "+2700%" in text and "+2700…+2700" in text and "−92%" in text and "−97…−86" in text


def test_the_best_epoch_stands_below_the_name():
    trained = replace(sequence_results().row("icu"), notes={"best": 12, "met": False})
    others = sequence_results().rows[:-1]
    text = shown(*results_tables(replace(sequence_results(), rows=(*others, trained))))
    assert "epoch 12*" in text


def test_an_instruction_is_shown_literally():
    text = shown(instructions_table(FILLS))
    assert "[red]Say[/red] :bomb: it �[31mloud�" in text


def test_trials_carry_what_their_rules_compare_to():
    first, _, again = TRIALS[:3]
    assert first["forget_before"] == pytest.approx(0.16)
    assert first["forget_limit"] == pytest.approx(0.016)
    assert first["utility_limit"] == pytest.approx(0.75)
    assert (first["winner"], again["winner"]) == (False, True)
    lost, added = TRIALS[3:5]
    # The addition comes back to 95 % of the utility before the cycle's subtraction.
    assert added["forget_limit"] is None and added["utility_limit"] == pytest.approx(0.95)
    assert added["utility_before"] == pytest.approx(0.88)
    assert lost["forget"] is None
    assert TRIALS[5]["utility_limit"] == 0.95  # the last subtraction, of the base
    assert TRIALS[5]["forget_limit"] == pytest.approx(0.003)
    assert [row["coefficient"] for row in TRIALS if row["winner"]] == [2.0, 0.3, 0.2]


def test_trials_say_who_won_and_what_was_missed():
    lines = shown(trials_table(TRIALS, READER.task.measures)).splitlines()
    (winner,) = [line for line in lines if "−f0" in line and "chosen" in line]
    assert "fresh" in winner and "meets rule 1" in winner and "1.5%" in winner
    assert any("misses utility" in line and " – " in line for line in lines)
    assert any("misses tokens" in line and "chosen" in line for line in lines)


def test_the_whole_report_prints_from_the_file(tmp_path):
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(written(tmp_path / "summary.json", released_summary()), console)
    text = console.export_text()
    for expected in (
        "−2.2·f0",
        "Instructions found",
        "−92%",
        "chosen",
        "12",
        "no candidate met",
        "0.123 ± 0.010",
    ):
        assert expected in text


def test_a_stored_run_gives_the_figures_that_it_gave():
    """Of a run that an earlier version wrote, under measures as a task declares them now."""
    found = read_summary(STORED / "demo-seed0.json")
    measures = [
        Measure(name, name, "share", "lower", style=".1%", table="t")
        for name in ("toxicity/challenging/fraction_gt_0.5", "judge/challenging/fraction")
    ]
    measures.append(
        Measure("perplexity/out_of_domain", "p", "perplexity", "lower", style=".1f", table="t")
    )
    text = shown(*measure_tables(found.rows, Measures(tuple(measures)), found.reference))
    for expected in (
        "21.5%",
        "16.3…27.1",
        "−92% (−98…−83)",
        "93.4",
        "+19% (+17…+22)",
        "+2% (+1…+3)",
    ):
        assert expected in text


def test_who_is_told_from_the_control():
    scores = sequence_results().scores
    assert like_control(SHORT, scores["icu"][SHORT.name], scores["control"][SHORT.name])
    assert not like_control(SHORT, scores["memorised"][SHORT.name], scores["control"][SHORT.name])
    low, high = scores["control"][MEMBER.name].ci95
    for value, like in ((low - 0.01, False), (low, True), (high, True), (high + 0.01, False)):
        found = replace(scores["icu"][MEMBER.name], value=value)
        assert like_control(MEMBER, found, scores["control"][MEMBER.name]) is like
