"""NPO against numbers worked out by hand."""

import pytest
import torch

from rnr_dist.config.training import Training
from rnr_dist.methods import npo
from rnr_dist.train.objectives import make_objective


def test_npo_by_hand():
    """Log-ratios of 0, -10 and +10 nats at beta .1, by a pocket calculator."""
    ratios = torch.tensor([0.0, -10.0, 10.0])
    rows = {"labels": torch.tensor([[-100, 5], [-100, 5], [-100, 5]])}

    class Known:
        reference_nll = staticmethod(lambda rows: (torch.zeros(3), torch.arange(3)))

    objective = make_objective(Training(objective={"name": "npo", "retain": 0}).objective)
    told = pytest.MonkeyPatch()
    told.setattr(npo, "token_nll", lambda model, rows: (-ratios, torch.arange(3), None))
    Known.model = None
    loss, count = objective.terms(Known(), {"forget": rows})["npo"]
    told.undo()
    # 20 ln 2, 20 ln(1 + e^-1), 20 ln(1 + e)
    assert loss.item() == pytest.approx(13.862944 + 6.265234 + 26.265234, rel=1e-6)
    assert count == 3
