"""The table of a sweep: places by the values that they tried."""

from rnr_dist.config.schema import Config
from rnr_dist.report.sequences import recalled_columns, stopping_sentence, sweep_table


def test_values_of_any_kind_are_shown_and_a_lost_place_says_why(capsys):
    keys = ["learning_rate", "objective.reduction"]
    reached = {
        "extraction": 0.1,
        "memorisation": 0.25,
        "perplexity": 20.0,
        "pool": 1.5,
        "auc": 0.4,
        "epochs": 3,
        "violation": 0.0,
    }
    places = [
        {"overrides": {"learning_rate": 3e-5, "objective.reduction": "token"}, **reached},
        {
            "overrides": {"learning_rate": 1.0, "objective.reduction": "sequence"},
            "lost": "loss nan",
        },
    ]
    sweep_table("icu", keys, places)
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines() if " token " in line or " sequence " in line]
    assert rows[0] == ["3e-05", "token", "0.100", "0.250", "20.0", "1.50", "0.40", "3", "0.000"]
    assert rows[1][:2] == ["1", "sequence"] and set(rows[1][2:]) == {"–"}
    assert "loss nan" in told


def test_the_table_says_what_stopping_went_over_and_shows_that():
    def told(**config):
        found = IcuConfig(name="t", **config)
        measures = [measure for _, measure, _, _ in recalled_columns(found)]
        shown = [name for name in ("extraction/ma", "extraction/ma_t0") if name in measures]
        return stopping_sentence(found), shown

    assert told() == ("EL_10 over t≥t0 and MA over t≥t0", ["extraction/ma_t0"])
    assert told(preset="paper") == ("EL_10 over all t and MA over all t", ["extraction/ma"])
    assert told(preset="reference") == ("EL_10 over t≥t0 and MA over all t", ["extraction/ma"])
