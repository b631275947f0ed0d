"""SimNPO (Fan et al., 2024): negative preference optimisation without a reference, by length.

In: items of a `forget` sequence and what else to `retain`. Out: `simnpo`, a mean over sequences,
-2/beta log sigma(-beta/|y| log pi - gamma), log pi the sum over the |y| tokens of the response;
`retain`, nats a token. Invariant: theta0 is asked for nothing; a long response counts no more than
a short one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Positive, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_epochs, by_merge
from rnr_dist.config.training import Training
from rnr_dist.methods.npo import Npo, NpoObjective, NpoSettings
from rnr_dist.train.passes import log_probability, predicted, token_nll

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class SimnpoSettings(NpoSettings):
    """SimNPO: forget sequences are made unlikely a token, the less eagerly the less likely."""

    name: Literal["simnpo"] = "simnpo"  # type: ignore[assignment]
    beta: Positive = 2.5
    """Weight of a token's mean log-likelihood (nats); its authors take 2.5 to 4.5 on TOFU."""
    gamma: Weight = 0.0
    """Margin of reward; theirs is 0."""
    forget_weight: Weight = 0.1375
    """Weight of the loss above beside what is retained; theirs on TOFU's 5 %."""


class SimnpoObjective(NpoObjective):
    """Makes each token of the target unlikely, the less eagerly the less likely it is."""

    Settings = SimnpoSettings
    settings: SimnpoSettings
    remembered = ()

    def losses(self, trained: Trained, rows: Mapping[str, Any]) -> Any:
        from torch.nn.functional import softplus

        settings = self.settings
        total = log_probability(lambda rows: token_nll(trained, rows)[:2], rows)
        each = total / predicted(rows).sum(1).clamp(min=1)
        loss = 2 / settings.beta * softplus(settings.beta * each + settings.gamma)
        return settings.forget_weight * loss


class Simnpo(Npo):
    """Trained on what NPO is."""

    name: ClassVar[str] = "simnpo"
    Objective = SimnpoObjective

    @classmethod
    def settings(cls, way: Way) -> MethodSettings:
        """Its authors' weights for TOFU, and their rate (1e-5) by epochs."""
        if way == "epochs":
            return by_epochs(SimnpoSettings())
        return by_merge(Training(objective=SimnpoSettings()), (3e-4, 1e-3, 3e-3), 0.5, 4)
