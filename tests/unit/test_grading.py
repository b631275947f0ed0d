"""The blinded sheet: what graders see, and what comes back."""

import csv
from dataclasses import dataclass

import pytest

from rnr_dist.errors import InputError
from rnr_dist.report.grading import COLUMNS, print_grades, read_scores, scale_lines, write_sheet
from rnr_dist.run.directory import read_json, write, write_rows
from rnr_dist.types import ModelRef, NamedModel

MODELS = ("memorised", "control", "icu")


@dataclass(frozen=True)
class SequenceRow:
    """A row as an evaluation of sequences writes it: more than a grader needs."""

    model: str
    id: str
    prefix: str
    truth: str
    continuation: str
    extraction: float = 0.5


@dataclass(frozen=True)
class OtherRow:
    """A row that knows no truth."""

    id: str
    prompt: str
    text: str


def row(model, name):
    return SequenceRow(model, name, f"Dear {name},", f"true, {name}", f"out {model}")


def evaluated(folder, *models):
    for model in models:
        rows = [row(model, f"s{number}") for number in range(6)]
        write_rows(folder / f"{model}.parquet", rows)


@pytest.fixture
def run(tmp_path):
    run, model = tmp_path / "run", ModelRef("/base", "digest")
    evaluated(run / "evaluate", "base", *MODELS)
    kinds = {"base": "other", "memorised": "reference", "control": "control"}
    named = [NamedModel(name, kind, model) for name, kind in kinds.items()]
    write(run / "memorise" / "models.json", named)
    return run


def filled(run, path, score_of, skip=()):
    """The sheet as a grader returns it; `score_of(model, sequence)` is what they think."""
    key = read_json(run / "grading" / "key.json")
    with (run.parent / "sheet.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        for one in rows:
            blank = one["item"] in skip
            writer.writerow({**one, "score": "" if blank else score_of(*key[one["item"]])})
    return path


@pytest.fixture
def sheet(run):
    path = run.parent / "sheet.csv"
    assert write_sheet(run, path, 4, 0) == 12
    return path


def test_a_sheet_holds_all_models_of_its_sequences_and_names_none(run, sheet):
    rows = list(csv.DictReader(sheet.open(newline="")))
    assert [*rows[0]] == list(COLUMNS)
    key = read_json(run / "grading" / "key.json")
    found = [key[one["item"]] for one in rows]
    assert len({sequence for _, sequence in found}) == 4
    assert sorted(found) == sorted(
        [model, sequence] for model in MODELS for sequence in {s for _, s in found}
    )
    assert [model for model, _ in found] != sorted(model for model, _ in found)  # not in blocks
    for one in rows:
        assert one["score"] == ""
        assert all(model not in one["item"] for model in MODELS)
    model, sequence = key[rows[0]["item"]]
    assert rows[0]["prefix"] == f"Dear {sequence}," and rows[0]["output"] == f"out {model}"


def test_scores_come_back_to_their_models(run, sheet):
    means = {"memorised": 1, "control": 6, "icu": 7}
    one = filled(run, run.parent / "one.csv", lambda model, _: means[model])
    other = filled(run, run.parent / "two.csv", lambda model, _: means[model] + 1)
    found = read_scores(run, [one, other])
    assert {name: row["mean"] for name, row in found["models"].items()} == {
        "memorised": 1.5,
        "control": 6.5,
        "icu": 7.5,
    }
    assert found["models"]["icu"]["of_10"] == pytest.approx(10 * 6.5 / 7)
    assert found["models"]["icu"]["ci95"] == (7.5, 7.5)
    assert found["agreement"] == pytest.approx(1)
    assert (found["graders"], found["missing"]) == (2, 0)
    assert read_json(run / "grading" / "scores.json")["models"]["icu"]["scores"] == 8


def test_rows_without_a_score_are_counted_and_one_grader_agrees_with_nobody(run, sheet):
    first = next(iter(read_json(run / "grading" / "key.json")))
    found = read_scores(run, [filled(run, run.parent / "one.csv", lambda *_: 4, {first})])
    assert (found["missing"], found["agreement"]) == (1, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",score", ",grade", "no column score"),
        (",4\r\n", ",9\r\n", "row 2: score 9; expected 1 to 8"),
        (",4\r\n", ",fine\r\n", "row 2: score fine; expected 1 to 8"),
    ],
)
def test_bad_sheets_are_named(run, sheet, old, new, said):
    one = filled(run, run.parent / "one.csv", lambda *_: 4)
    one.write_bytes(one.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises(InputError, match=said):
        read_scores(run, [one])


def test_sheets_of_others_and_empty_ones_are_refused(run, sheet, tmp_path):
    with pytest.raises(InputError, match=r"no score is filled in"):
        read_scores(run, [sheet])
    one = filled(run, run.parent / "one.csv", lambda *_: 4)
    lines = one.read_text().splitlines()
    one.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match=r"row 14: item \w+ stands there twice"):
        read_scores(run, [one])
    one.write_text("\n".join([lines[0], "strange,a,b,c,4"]))
    with pytest.raises(InputError, match=r"row 2: item strange is not of this run's sheet"):
        read_scores(run, [one])
    one.write_bytes(b"item,score\n\xff,4")
    with pytest.raises(InputError, match=r"not UTF-8"):
        read_scores(run, [one])
    with pytest.raises(InputError, match=r"two.csv: not there"):
        read_scores(run, [tmp_path / "two.csv"])
    with pytest.raises(InputError, match=r"key.json: not there"):
        read_scores(tmp_path / "other", [sheet])
    with pytest.raises(InputError, match=r"no models with prefix, truth and continuation"):
        write_sheet(tmp_path / "other", sheet, 4, 0)


def test_methods_beside_are_graded_too_and_the_base_where_it_is_the_one_that_forgets(run, tmp_path):
    evaluated(run / "baselines" / "evaluate", "kl")
    assert write_sheet(run, tmp_path / "more.csv", 2, 0) == 2 * 4
    (run / "memorise" / "models.json").unlink()
    assert write_sheet(run, tmp_path / "base.csv", 2, 0) == 2 * 5


def test_rows_without_a_truth_cannot_be_graded(tmp_path):
    rows = [OtherRow("c0", "Dear", "you")]
    write_rows(tmp_path / "run" / "evaluate" / "base.parquet", rows)
    with pytest.raises(InputError, match=r"evaluate: no models with prefix"):
        write_sheet(tmp_path / "run", tmp_path / "sheet.csv", 4, 0)


def test_grades_are_printed_best_first(run, sheet, capsys):
    means = {"memorised": 1, "control": 6, "icu": 7}
    sheets = [filled(run, run.parent / "one.csv", lambda model, _: means[model])]
    print_grades(read_scores(run, sheets))
    told = capsys.readouterr().out
    assert told.index("icu") < told.index("control") < told.index("memorised")
    assert "7.00" in told and "1 graders" in told
    assert len(scale_lines()) == 8


def test_a_run_whose_models_share_no_sequence_is_one_sentence(run):
    write_rows(run / "evaluate" / "icu.parquet", [row("icu", "another")])
    with pytest.raises(InputError, match=r"evaluate: found no sequence that each of .* continued"):
        write_sheet(run, run.parent / "sheet.csv", 4, 0)
    assert not (run.parent / "sheet.csv").exists()


def test_damaged_files_are_one_sentence(run, sheet):
    (run / "grading" / "key.json").write_text('{"half": [')
    with pytest.raises(InputError, match=r"key\.json: found no whole JSON"):
        read_scores(run, [sheet])
    path = run / "evaluate" / "icu.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"icu\.parquet: found no whole Parquet file"):
        write_sheet(run, sheet, 4, 0)
    (run / "grading" / "key.json").write_text("{}")
    with pytest.raises(InputError, match=r"cannot be read .*Is a directory"):
        read_scores(run, [run])


def test_a_grader_s_spreadsheet_computes_nothing(run):
    planted = '=HYPERLINK("http://x.org")'
    for model in MODELS:
        write_rows(
            run / "evaluate" / f"{model}.parquet",
            [SequenceRow(model, "s0", planted, "-1+2", "@SUM(A1)")],
        )
    (run / "evaluate" / "base.parquet").unlink()
    path = run.parent / "sheet.csv"
    assert write_sheet(run, path, 1, 0) == 3
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {one["prefix"] for one in rows} == {f"'{planted}"}
    assert {(one["reference"], one["output"]) for one in rows} == {("'-1+2", "'@SUM(A1)")}
    assert read_scores(run, [filled(run, run.parent / "a.csv", lambda *_: 3)])["missing"] == 0
