"""The table of a sweep: places by the values that they tried."""

import pytest

from rnr_dist.config.presets import PRESETS
from rnr_dist.config.unlearning import Stopping
from rnr_dist.report.findings import stopping_note
from rnr_dist.report.sweep import print_sweep


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
    print_sweep("icu", keys, places)
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines() if " token " in line or " sequence " in line]
    assert rows[0] == ["3e-05", "token", "0.100", "0.250", "20.0", "1.50", "0.40", "3", "0.000"]
    assert rows[1][:2] == ["1", "sequence"] and set(rows[1][2:]) == {"–"}
    assert "loss nan" in told


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        ("default", "EL over t≥t0 and MA over t≥t0"),
        ("paper", "EL over all t and MA over all t"),
        ("reference", "EL over t≥t0 and MA over all t"),
    ],
)
def test_a_note_says_what_stopping_went_over(preset, told):
    given = PRESETS.get(preset, {}).get("stopping", {})
    assert stopping_note(Stopping.model_validate(given)).endswith(told)
