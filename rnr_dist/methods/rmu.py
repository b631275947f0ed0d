"""RMU, representation misdirection for unlearning (Li et al., 2024).

In: items of a `forget` and a `retain` example. Out, h the output of decoder layer l: `forget`,
|h(x_f) - c u|^2, u a random unit vector; `retain`, alpha |h(x_r) - h_0(x_r)|^2, h_0 of theta0; both
means over attended tokens (prompts too) and hidden units. Invariant: layers after l never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Positive, Weight, Whole
from rnr_dist.config.methods import MethodSettings, Way
from rnr_dist.config.training import ObjectiveSettings, Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import Item
from rnr_dist.train.materials import Materials, Need, example_of, paired_texts
from rnr_dist.train.passes import layer_states
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class RmuSettings(ObjectiveSettings):
    """Representation misdirection: steer the forget texts' hidden states to a random direction.

    Meant for `parameters: matrices`, `target_modules: [down_proj]`, `layers: [5, 6, 7]` (`layer`
    and the two before it), `learning_rate: 5e-5`, `batch_size: 4`.
    """

    name: Literal["rmu"] = "rmu"
    layer: Whole = 7
    """Decoder layer whose output is steered, 0 the first; later layers do not run."""
    coefficient: Positive = 6.5
    """c: length of the vector that the forget texts' hidden states are steered to (6.5 to 20)."""
    alpha: Weight = 1200.0
    """Weight of the retain texts' hidden states staying where theta0 has them (100 to 1,200)."""


class RmuObjective:
    """Moves the forget texts' hidden states to one random point and holds the retain texts'."""

    Settings = RmuSettings
    remembered: tuple[str, ...] = ()
    parts: Mapping[str, tuple[int, int]] = {"forget": (1, 1), "retain": (1, 1)}

    def __init__(self, settings: RmuSettings):
        self.settings = settings

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        return {
            part: sum(len(example.token_ids) for item in items for example in item[part])
            for part in self.parts
        }

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        forget, retain = batch["forget"], batch["retain"]
        with trained.reference():
            before = self._states(trained, retain)
        steered = self._states(trained, forget)
        held = self._states(trained, retain)
        goal = self.settings.coefficient * direction(steered.shape[-1], trained.seed)
        return {
            "forget": (squares(steered - goal.to(steered.device), forget), tokens(forget)),
            "retain": (self.settings.alpha * squares(held - before, retain), tokens(retain)),
        }

    def _states(self, trained: Trained, rows: Mapping[str, Any]) -> Any:
        return layer_states(trained.model, rows["input_ids"], self.settings.layer).float()


def direction(size: int, seed: int) -> Any:
    """(size,) unit vector of positive entries; drawn on the CPU, so the same on every rank."""
    import torch

    entries = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return entries / entries.norm()


def squares(difference: Any, rows: Mapping[str, Any]) -> Any:
    """Sum over the attended tokens of the mean square over hidden units."""
    return difference[rows["attention_mask"].bool()].square().mean(-1).sum()


def tokens(rows: Mapping[str, Any]) -> int:
    """Attended tokens."""
    return int(rows["attention_mask"].sum())


class Rmu:
    """Forget sequences beside retain texts; the trained matrices' change is added with the
    strength."""

    name: ClassVar[str] = "rmu"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "retain"})
    Objective = RmuObjective
    adapters: ClassVar[Mapping[str, Side]] = {"misdirected": "forget"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings | None:
        if way == "epochs":
            return None
        training = Training(
            objective=RmuSettings(),
            parameters="matrices",
            target_modules=["down_proj"],
            layers=[5, 6, 7],
            batch_size=4,
            learning_rate=5e-5,
        )
        places = ((5e-5, 6.5), (1e-3, 20.0), (1e-3, 100.0))
        grid = [{"learning_rate": rate, "objective": {"coefficient": c}} for rate, c in places]
        return MethodSettings(training=training, grid=grid, low=0.5, high=64)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        if not materials.retain:
            raise InputError("method rmu: found no retain texts; expected some to hold")
        return paired_texts([*map(example_of, materials.forget)], materials.retain)

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["misdirected"])
