"""What the presets of an ICU run fill in: what the paper says, and what its code does.

In: nothing. Out: plain values by section, as a config file would give them (docs/icu.md has the
differences side by side). Invariant: what a file says stands above them.
"""

from __future__ import annotations

from typing import Any


def _icu(**objective: Any) -> dict[str, Any]:
    papers = {
        "name": "icu",
        "kl_weight": 1.0,
        "retain": 0,
        "ceiling": None,
        "natural": False,
        "whole": False,
    }
    return {"training": {"objective": {**papers, **objective}, "learning_rate": 5e-6}}


PAPER_RULE = {"bertscore_below": 0.3, "bleu_below": 0.01, "recall": False, "neighbours": 0}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "pairing": {"exclude_content": False},
        "refinement": {
            **PAPER_RULE,
            "combine": "and",
            "sticky": True,
        },
        "stopping": {"extraction": 0.0499, "memorisation": 0.5994, "epochs": 100},
        "methods": {"icu": {**_icu(reduction="sequence"), "grid": [{}]}},
    },
    "reference": {
        "task": {"prefix_tokens": 150, "max_tokens": 200},
        "pairing": {"exclude_content": False},
        "refinement": {
            **PAPER_RULE,
            "combine": "or",
            "sticky": False,
        },
        "stopping": {"extraction": 0.0499, "memorisation": 0.5994, "epochs": 100},
        "methods": {
            "icu": {**_icu(divergence="cross_entropy", whole=True), "grid": [{}]},
        },
    },
}
