"""Direct preference optimisation (Rafailov et al., 2023), and a retain loss if wanted.

In: items of a `chosen` and a `rejected` example, with `retain_weight` also of at most one `retain`.
Out: `dpo`, a mean over pairs, -log sigma(beta [(log pi - log pi_0)(chosen) - (log pi - log pi_0)
(rejected)]), log pi summed over the response; `retain`, nats a token. Invariant: log 2 at theta0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.nn.functional import logsigmoid

from rnr_dist.config.objectives import DpoObjective
from rnr_dist.train.collate import IGNORED, Item
from rnr_dist.train.passes import token_nll
from rnr_dist.train.trainable import Trained


class Dpo:
    """Prefers the chosen response to the rejected one, measured from theta0."""

    remembered = ("chosen", "rejected")

    def __init__(self, settings: DpoObjective):
        self.settings = settings
        self.roles: dict[str, tuple[int, int]] = {"chosen": (1, 1), "rejected": (1, 1)}
        if settings.retain_weight:
            self.roles["retain"] = (0, 1)

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        sides = [[*item["chosen"], *item["rejected"]] for item in items]
        counts = {"dpo": sum(all(example.labels for example in pair) for pair in sides)}
        if self.settings.retain_weight:
            counts["retain"] = sum(text.labels for item in items for text in item["retain"])
        return counts

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        # theta0 first: nothing of the trained model's graph exists yet while it is switched off.
        before = margin(trained.reference_nll, batch)
        gained = margin(lambda rows: token_nll(trained.model, rows)[:2], batch) - before
        # A response that was cut away altogether has no say.
        paired = has_response(batch["chosen"]) & has_response(batch["rejected"])
        loss = -logsigmoid(self.settings.beta * gained)[paired].sum()
        terms = {"dpo": (loss, int(paired.sum()))}
        if self.settings.retain_weight:
            nll, _, _ = token_nll(trained.model, batch["retain"])
            terms["retain"] = (self.settings.retain_weight * nll.sum(), len(nll))
        return terms


def margin(nll: Callable[..., tuple[Any, Any]], batch: Mapping[str, Mapping[str, Any]]) -> Any:
    """(pairs,) log pi(chosen) - log pi(rejected), each the sum over its response.

    nll: of each label of some rows, and its row.
    """
    return log_probability(nll, batch["chosen"]) - log_probability(nll, batch["rejected"])


def log_probability(nll: Callable[..., tuple[Any, Any]], rows: Mapping[str, Any]) -> Any:
    """(B,) log probability of each row's response given its prompt, nats."""
    lost, row = nll(rows)
    return lost.new_zeros(len(rows["labels"])).index_add(0, row, -lost)


def has_response(rows: Mapping[str, Any]) -> Any:
    """(B,) bool: rows with a label."""
    return (rows["labels"] != IGNORED).any(1)
