"""Objectives on a random Llama: an item of every kind for each, and a model to take them.

A new objective's items go into `ITEMS`; test_every_objective.py then asks of it what all must keep.
"""

import copy

import torch

from rnr_dist.config.training import Training
from rnr_dist.train.collate import Example, Item, collate, texts
from rnr_dist.train.objectives import make_objective
from rnr_dist.train.trainable import make_trained
from rnr_dist.types import ModelRef
from rnr_dist.weights.composition import save_adapter

SEED = 5
LAYER = 2  # of RMU, of 4 layers
PROMPTED = [
    Example((3, 9, 4, 1, 8, 2), 2),
    Example((5, 5, 7), 0),
    Example((11, 2, 6, 2), 3),
    Example((4, 4), 2),  # no response
    Example((21, 8, 30, 7, 7, 19, 2), 4),
]
A, B, C, NOTHING, E = PROMPTED
PAIRS = [
    Item.of(chosen=[A], rejected=[B], retain=[C]),
    Item.of(chosen=[C], rejected=[E]),
    Item.of(chosen=[B], rejected=[NOTHING], retain=[A]),
]
TARGETS = [
    Item.of(forget=[A], learn=[B, E]),
    Item.of(forget=[E], learn=[C]),
    Item.of(forget=[NOTHING], learn=[A]),
]
FORGOTTEN = [
    Item.of(forget=[A], retain=[B]),
    Item.of(forget=[E]),
    Item.of(forget=[NOTHING], retain=[C]),
]
ITEMS = {
    "causal": texts(PROMPTED),
    "orthogonal": texts(PROMPTED),
    "dpo": PAIRS,
    "rmu": [Item.of(forget=[A], retain=[B]), Item.of(forget=[C], retain=[E])],
    "icu": TARGETS,
    "kl": TARGETS,
    "kumpr": [Item.of(forget=[A]), Item.of(forget=[NOTHING]), Item.of(forget=[E])],
    "npo": FORGOTTEN,
    "simnpo": FORGOTTEN,
    "llmu": [
        Item.of(forget=[A], mismatch=[B, C], learn=[E]),
        Item.of(forget=[E], mismatch=[A], learn=[B, C]),
        Item.of(forget=[NOTHING]),
    ],
    "cmd": [
        Item.of(positive=[A], negative=[B, C, E]),
        Item.of(positive=[E]),
        Item.of(positive=[C], negative=[NOTHING, A]),
        Item.of(positive=[B], negative=[NOTHING]),
    ],
}
SETTINGS = {
    "dpo": {"name": "dpo", "beta": 0.3, "retain_weight": 0.7},
    "npo": {"name": "npo", "beta": 0.3, "retain_weight": 0.7},
    "simnpo": {"name": "simnpo", "beta": 1.5, "gamma": 0.4},
    "rmu": {"name": "rmu", "layer": LAYER, "coefficient": 2.0, "alpha": 50.0},
    "cmd": {"name": "cmd", "temperature": 0.5},
}


def training(name, **more):
    chosen = {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "down_proj"]}
    if name == "rmu":
        chosen |= {"parameters": "matrices", "target_modules": ["down_proj"], "layers": [0, 1, 2]}
    return Training(objective=SETTINGS.get(name, {"name": name}), **(chosen | more))


def reference(folder):
    """A reference with two forget adapters, one of them twice, and a retain adapter."""
    ref = ModelRef("checkpoint", "digest")
    torch.manual_seed(1)
    layers = {"forget": ["down_proj", "q_proj"], "again": ["q_proj"], "retain": ["q_proj"]}
    for name, ends in layers.items():
        factors = {
            f"model.layers.{layer}.{'mlp' if end == 'down_proj' else 'self_attn'}.{end}": (
                torch.randn(3, 24 if end == "down_proj" else 16),
                torch.randn(16, 3),
            )
            for layer in (0, 3)
            for end in ends
        }
        side = "retain" if name == "retain" else "forget"
        adapter = save_adapter(folder / name, factors, alpha=3, base="", trained_on="", side=side)
        ref = ref.plus(0.5, adapter)
    return ref.plus(-0.1, ref.terms[0].adapter)


def moved_from(theta0, base, name, moved=True, **more):
    """A `Trained` of a copy of theta0 that has moved away from it, in training mode."""
    torch.manual_seed(2)
    trained = make_trained(copy.deepcopy(theta0), training(name, **more), base, SEED)
    with torch.no_grad():
        for weight in weights_of(trained) if moved else ():
            weight.add_(0.2 * torch.randn_like(weight))
    trained.model.train()
    return trained


def weights_of(trained):
    return [weight for weight in trained.model.parameters() if weight.requires_grad]


def run(trained, name, items=None, **more):
    objective = make_objective(training(name, **more).objective)
    items = ITEMS[name] if items is None else items
    return objective.terms(trained, collate(items, objective.parts))
