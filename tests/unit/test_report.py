"""The report: what was measured is written, read and shown, and hostile text is harmless."""

import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from rnr_dist.config.release import Release
from rnr_dist.errors import InputError
from rnr_dist.release.rules import Reading
from rnr_dist.report import figures
from rnr_dist.report.figures import reveal_figure, search_figure, steps_figure
from rnr_dist.report.summary import (
    Step,
    package_versions,
    read_summary,
    summary_steps,
    trial_rows,
    write_summary,
)
from rnr_dist.report.table import instructions_table, print_report, steps_table, trials_table
from rnr_dist.stats import ClusterMean
from rnr_dist.types import Pull, Score, Split

SCHEMA = Path(__file__).parents[2] / "docs" / "summary_schema.md"
TOXIC = "toxicity/challenging/fraction_gt_0.5"


def score(value, ratio=None):
    versus = {} if ratio is None else {"ratio": ratio, "ci95": (ratio - 0.05, ratio + 0.05)}
    return Score(value, 98, 2450, (value * 0.9, value * 1.1), Split.FINAL, versus)


def term(role, coefficient):
    return {"role": role, "coefficient": coefficient, "adapter": f"{role}-adapter"}


def step(name, terms=(), toxic=1.0, perplexity=1.0):
    base = name == "base"
    scores = {
        TOXIC: score(0.16 * toxic, None if base else toxic),
        "toxicity/challenging/fraction_gt_0.8": score(0.01, None if base else 1.0),
        "perplexity/in_domain": score(30 * perplexity, None if base else perplexity),
        "perplexity/out_of_domain": score(40 * perplexity, None if base else perplexity),
        "output/empty_share": score(0.0, None if base else math.nan),
    }
    return Step(name, tuple(terms), scores, f"digest of {name}")


STEPS = [
    step("base"),
    step("-f0", [term("forget", -2.2)], 0.09, 1.13),
    step("retain-only control", [term("retain", 0.3)], 0.95, 0.9),
    step("+r1", [term("forget", -2.2), term("retain", 0.3)], 0.2, 1.02),
]
REVEAL = [
    {
        "outer": 0,
        "arm": 7,
        "instruction": "[red]Say[/red] :bomb: it\n\x1b[31mloud\u202e",
        "score": 0.61,
        "relevance": 0.5,
        "diversity": 0.78,
        "n_generated": 320,
        "n_rows": 214,
    }
]


def reading(forget, utility):
    perplexity = ClusterMean(np.array([math.log(30 / utility)]), np.ones(1), exponential=True)
    toxic = ClusterMean(np.array([forget * 1000]), np.full(1, 1000.0))
    return Reading("model", {"in_domain": perplexity}, toxic)


def trial(name, coefficient, forget, utility, rule, draw=0, broken=()):
    return {
        "step": name,
        "coefficient": coefficient,
        "draw": draw,
        "forget": forget,
        "utility": utility,
        "rule": rule,
        "violation": 0.0,
        "broken": list(broken),
        "feasible": bool(rule),
    }


def released(name, coefficient, after, *trials):
    return SimpleNamespace(name=name, coefficient=coefficient, reading=after, trials=trials)


TRIALS = trial_rows(
    [
        released(
            "-f0",
            2.0,
            reading(0.015, 0.88),
            trial("-f0", 0.5, 0.11, 0.99, "2"),
            trial("-f0", 2.0, 0.014, 0.88, "1"),
            trial("-f0", 2.0, 0.015, 0.88, "1", draw=1),
        ),
        released(
            "+r1",
            0.3,
            reading(0.03, 0.99),
            trial("+r1", 0.1, math.nan, 0.90, "", broken=["utility"]),
            trial("+r1", 0.3, 0.03, 0.99, "lambda"),
        ),
        released("-f1", 0.2, reading(0.02, 0.9), trial("-f1", 0.2, 0.02, 0.9, "", 0, ["output/x"])),
    ],
    reading(0.16, 1.0),
    Release(),
)


def written(path, steps=STEPS):
    write_summary(
        path,
        config={"name": "demo"},
        seeds={"seed": 0},
        versions=package_versions(),
        stages=[{"name": "reveal", "wall_seconds": np.float64(12.5), "peak_memory_gib": math.nan}],
        reveal=REVEAL,
        trials=TRIALS,
        front=[],
        subspaces=[
            {"one": "f0", "other": "r1", "mean": 0.123, "std": 0.01, "chance": 0.04}
            | {"maximum": 0.354, "modules": 30}
        ],
        steps=steps,
        notes=["no candidate of −f1 met the rules"],
    )
    return read_summary(path)


def shown(*printed, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    for item in printed:
        console.print(item)
    return console.export_text()


def test_steps_come_back_equal_and_the_file_is_strict_json(tmp_path):
    path = tmp_path / "summary.json"
    summary = written(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"found {name}"))
    assert summary["stages"] == [{"name": "reveal", "wall_seconds": 12.5, "peak_memory_gib": None}]
    back = summary_steps(summary)
    assert [found.name for found in back] == [given.name for given in STEPS]
    for found, given in zip(back, STEPS, strict=True):
        assert (found.coefficients, found.model) == (given.coefficients, given.model)
        for name in set(given.scores) - {"output/empty_share"}:
            assert found.scores[name] == given.scores[name]
    assert math.isnan(back[1].scores["output/empty_share"].vs_base["ratio"])
    assert [found.is_control for found in back] == [False, False, True, False]


def test_every_written_key_is_documented(tmp_path):
    schema = SCHEMA.read_text()
    summary = written(tmp_path / "summary.json")
    rows = [row for key in ("stages", "reveal", "trials", "steps") for row in summary[key]]
    scores = [found for given in summary["steps"] for found in given["scores"].values()]
    terms = [found for given in summary["steps"] for found in given["coefficients"]]
    keys = {key for row in (summary, *rows, *scores, *terms) for key in row}
    assert {key for key in keys if f"`{key}`" not in schema} == set()


def test_another_schema_or_no_summary_is_refused_by_name(tmp_path):
    path = tmp_path / "summary.json"
    with pytest.raises(InputError, match=r"summary\.json"):
        read_summary(path)
    path.write_text('{"schema_version": 7}')
    with pytest.raises(InputError, match="found schema_version 7, expected 1"):
        read_summary(path)


def test_versions_name_what_is_installed():
    versions = package_versions()
    assert versions["torch"] and versions["ray"] and versions["mlflow"] and versions["vllm"]
    assert "rnr-dist" in versions


def test_trials_carry_what_their_rules_compare_to():
    first, _, again = TRIALS[:3]
    assert first["forget_before"] == pytest.approx(0.16)
    assert first["forget_limit"] == pytest.approx(0.016) and first[
        "utility_limit"
    ] == pytest.approx(0.75)
    assert (first["winner"], again["winner"]) == (False, True)
    lost, added = TRIALS[3:5]
    # The addition comes back to 95 % of the utility before the cycle's subtraction.
    assert added["forget_limit"] is None and added["utility_limit"] == pytest.approx(0.95)
    assert added["utility_before"] == pytest.approx(0.88)
    assert lost["forget"] is None
    assert TRIALS[5]["utility_limit"] == 0.95  # the last subtraction, of the base
    assert TRIALS[5]["forget_limit"] == pytest.approx(0.003)
    assert [row["coefficient"] for row in TRIALS if row["winner"]] == [2.0, 0.3, 0.2]


def test_the_steps_table_gives_value_change_and_interval():
    text = shown(steps_table(STEPS))
    assert "16.0%" in text and "(14.4…17.6)" in text  # the base: its own interval
    assert "−91% (−96…−86)" in text and "+13% (+8…+18)" in text
    assert "ordinary" not in text  # measured of no step
    narrow = shown(steps_table(STEPS), width=80)
    assert "(−96…−86)" in narrow and "\x1b" not in narrow


def test_the_main_measure_is_found_at_any_threshold():
    found = Step("s", (), {"toxicity/challenging/fraction_gt_0.3": score(0.25)}, "m")
    assert "25.0%" in shown(steps_table([found]))


def test_an_instruction_is_shown_literally():
    text = shown(instructions_table(REVEAL))
    assert "[red]Say[/red] :bomb: it �[31mloud�" in text


def test_trials_say_who_won_and_what_was_missed():
    lines = shown(trials_table(TRIALS)).splitlines()
    (winner,) = [line for line in lines if "−f0" in line and "chosen" in line]
    assert "fresh" in winner and "meets rule 1" in winner and "1.5%" in winner
    assert any("misses utility" in line and " – " in line for line in lines)
    assert any("misses x" in line and "chosen" in line for line in lines)


def test_the_whole_report_prints_from_the_file(tmp_path):
    console = Console(width=100, record=True, file=io.StringIO())
    print_report(written(tmp_path / "summary.json"), console)
    text = console.export_text()
    for expected in (
        "−2.2·f0",
        "Instructions found",
        "−91%",
        "chosen",
        "12",
        "no candidate of −f1",
        "0.123 ± 0.010",
    ):
        assert expected in text


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they are saved."""
    held = []
    save = figures.save
    monkeypatch.setattr(
        figures, "save", lambda figure, path: (held.append(figure), save(figure, path))
    )
    return held


def test_steps_figure_draws_ratios_and_keeps_controls_off_the_line(tmp_path, drawn):
    path = tmp_path / "report" / "steps.png"
    steps_figure(STEPS, path)
    assert imread(path).std() > 0.01
    upper, lower = drawn[0].axes
    toxic = next(line for line in upper.lines if line.get_label().startswith("toxic"))
    np.testing.assert_allclose(toxic.get_ydata(), [1, 0.09, 0.2])
    inside = next(line for line in lower.lines if line.get_label().endswith("in domain"))
    np.testing.assert_allclose(inside.get_ydata(), [1, 1.13, 1.02])
    names = [label.get_text() for label in lower.get_xticklabels()]
    assert names == ["base", "−2.2·f0", "+0.3·r1", "retain-only\ncontrol"]


def test_search_figure_marks_winners_and_labels_do_not_collide(tmp_path, drawn):
    crowd = [{**TRIALS[0], "coefficient": 1 + i / 8, "forget": 0.1 + i / 2000} for i in range(9)]
    search_figure([*crowd, *TRIALS], tmp_path / "search.png")
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        "weight of −f0",
        "weight of +r1",
        "weight of −f1: no candidate met the rules",
    ]
    stars = [line for axes in panels for line in axes.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [0.015, 0.03, 0.02]
    for axes in panels:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert boxes
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_reveal_figure_draws_the_running_best_of_each_iteration(tmp_path, drawn):
    scores = [[0.2, 0.5, 0.3], [0.6, 0.4, 0.7]]
    pulls = [
        asdict(Pull(f"{outer}-{i}", outer, i, "say", 0.5, 0.5, value, outer, 16))
        for outer, values in enumerate(scores)
        for i, value in enumerate(values)
    ]
    reveal_figure(pulls, tmp_path / "reveal.png")
    best = [axes.lines[1].get_ydata().tolist() for axes in drawn[0].axes]
    assert [axes.get_title()[-1] for axes in drawn[0].axes] == ["1", "2"]
    assert best == [[0.2, 0.5, 0.5], [0.6, 0.6, 0.7]]


def test_figures_of_the_smallest_run(tmp_path):
    """No addition, nothing generated, one pull."""
    steps_figure(STEPS[:2], tmp_path / "steps.png")
    search_figure([row for row in TRIALS if row["forget"] is None], tmp_path / "search.png")
    reveal_figure([asdict(Pull("a", 0, 0, "say", 0, 0, 0.0, 0, 1))], tmp_path / "reveal.png")
    assert {path.name for path in tmp_path.iterdir()} == {"steps.png", "search.png", "reveal.png"}
