"""What the presets of an ICU run fill in: what the paper says, and what its code does.

In: nothing. Out: plain values by section, as a config file would give them (docs/icu.md has the
differences side by side, tests/unit/test_presets.py each with its place). Invariant: what a file
says stands above them.
"""

from __future__ import annotations

from typing import Any

# Section 5.3: every method goes through "the same training and evaluation procedure", so its rate
# (5.4) is everyone's. Adam's betas are the code's, since the paper names none. What KL and LLMU
# hold beside their pairs is ours.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "icu": {
        "name": "icu",
        "forget_weight": 1.0,
        "learn_weight": 0.5,
        "kl_weight": 1.0,
        "retain": 0,
        "ceiling": None,
        "natural": False,
    },
    "kumpr": {"name": "kumpr"},
    "kl": {"name": "kl", "kl_weight": 1.0, "retain": 0},
    "dpo": {"name": "dpo"},
    "llmu": {"name": "llmu", "retain": 0},
}
TRAINING = {
    "learning_rate": 5e-6,
    "schedule": "constant",
    "betas": [0.9, 0.98],
    "weight_decay": 0.0,
    "clip_norm": None,
    "batch_size": 8,
}
REFINEMENT = {"bertscore_below": 0.3, "bleu_below": 0.01, "recall": False, "neighbours": 0}
# Neither knows a last epoch; the paper's longest runs took 132 (Table 5).
STOPPING = {
    "extraction": 0.0499,
    "memorisation": 0.5994,
    "memorisation_over": "all",
    "epochs": 200,
}


def _methods(icu: dict[str, Any], **training: Any) -> dict[str, Any]:
    """Every method with one place in its grid; `icu` is what else its objective says."""
    objectives = {**OBJECTIVES, "icu": {**OBJECTIVES["icu"], **icu}}
    return {
        name: {"training": {**TRAINING, **training, "objective": objective}, "grid": [{}]}
        for name, objective in objectives.items()
    }


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "pairing": {"exclude_content": False},
        "refinement": {**REFINEMENT, "combine": "and", "sticky": True},
        "stopping": {**STOPPING, "extraction_over": "all"},
        "methods": _methods({"reduction": "sequence", "divergence": "kl", "whole": False}),
    },
    "reference": {
        "task": {"prefix_tokens": 150, "max_tokens": 200},
        # A training's own limit would cut the last of the 200 tokens.
        "memorise": {"training": {"max_tokens": 200}},
        "pairing": {"exclude_content": False},
        "refinement": {**REFINEMENT, "combine": "or", "sticky": False},
        # The code reads EL for prefixes of 150 tokens and more, MA at every token.
        "stopping": {**STOPPING, "extraction_over": "continuation"},
        "methods": _methods(
            {"reduction": "token", "divergence": "cross_entropy", "whole": True}, max_tokens=200
        ),
    },
}
