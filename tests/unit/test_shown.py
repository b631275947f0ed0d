"""Texts of models and data where people see them: shown, never obeyed."""

import csv

import pytest
from rich.console import Console

from rnr_dist.commands.cli import guarded
from rnr_dist.errors import InputError
from rnr_dist.report.continuations import write_continuations
from rnr_dist.report.study import write_study
from rnr_dist.report.sweep import print_sweep
from rnr_dist.report.table import literal
from rnr_dist.reveal.instructions_file import write_instructions
from rnr_dist.run.progress import progress_bar, say
from rnr_dist.run.shown import cell, in_markdown, shown, terminal
from rnr_dist.types import Pull, TokenSequence

ANSI = "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x9b2J \rback \x00 \u202eturned [/red] [bold]:smile:"
CONTROLS = {"\x1b", "\x07", "\x9b", "\r", "\x00", "\u202e"}


def test_a_line_holds_no_control_or_direction_character():
    told = shown(f"{ANSI}\nnext")
    assert not CONTROLS & set(told) and "\n" not in told
    assert "[/red] [bold]:smile:" in told and "next" in told
    assert shown("Grüße, 你好 🙂  two spaces") == "Grüße, 你好 🙂  two spaces"
    assert literal("a \n  b").plain == "a b"


def test_progress_and_refusals_obey_nothing(capsys):
    say(ANSI)
    with progress_bar(ANSI, 1) as advance:
        advance(1, ANSI)

    def refuse():
        raise InputError(f"{ANSI}: found")

    assert guarded(refuse) == 2
    said = capsys.readouterr().err
    assert not CONTROLS & set(said)
    assert said.count("[/red] [bold]:smile:") == 4
    assert len(said.splitlines()) == 3


def test_names_in_tables_are_no_markup(tmp_path, capsys):
    places = [{"overrides": {"rate": "[/x]\x1b[2J"}, "lost": "[/red]"}]
    print_sweep("[/bold]", ["rate"], places)
    write_study(tmp_path / "study.json", "[/bold]", [], ["[/x]"])
    said = capsys.readouterr().out
    assert said.count("[/bold]") == 2 and said.count("[/x]") == 3 and "\x1b" not in said
    assert not terminal()._markup


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n=", "＝", "\x00="])
def test_a_cell_is_no_formula(start):
    kept = cell(f'{start}HYPERLINK("http://x.org","here")')
    assert not kept.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert kept.endswith('HYPERLINK("http://x.org","here")')


def test_ordinary_cells_stay_as_they_are():
    for text in ("say = 1", "two\nlines", "", "1 - 2", "«Grüße»"):
        assert cell(text) == text


def test_the_table_of_instructions_holds_no_formula(tmp_path):
    pull = Pull("0", 0, 0, '=HYPERLINK("http://x.org")', 0.5, 0.5, 0.5, 0, 16)
    with write_instructions([pull], [], tmp_path).open(newline="", encoding="utf-8") as handle:
        [row] = csv.DictReader(handle)
    assert row["instruction"] == '\'=HYPERLINK("http://x.org")'


def test_markdown_and_html_of_data_stand_as_text(tmp_path):
    assert in_markdown("el_t0 _so_ __x__") == r"el_t0 \_so\_ \_\_x\_\_"
    assert in_markdown("<script>*a*|[b](c)\n# d") == r"\<script\>\*a\*\|\[b\](c) \# d"

    class Words:
        def decode(self, ids):
            return "<img src=x>\n# heading\x1b[2J"

    sequence = TokenSequence("<b>id</b>", "co|rpus", (1, 2, 3), 1)
    rows = [{"epoch": 0, "continuations": ["<script>alert(1)</script>\n\n# said"]}]
    text = write_continuations([sequence], rows, Words(), tmp_path).read_text(encoding="utf-8")
    outside = [line for line in text.splitlines() if line and not line.startswith("    ")]
    assert outside == [
        "# Continuations by epoch",
        r"## co\|rpus \<b\>id\</b\>",
        "prefix:", "truth:", "before:",
    ]  # fmt: skip
    assert "\x1b" not in text


def test_a_console_of_reports_shows_brackets(capsys):
    Console(markup=False).print("[/x]")
    terminal().print("[/x] :smile:")
    assert capsys.readouterr().out == "[/x]\n[/x] :smile:\n"
