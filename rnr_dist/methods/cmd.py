"""CMD (Tang et al., 2024): go on cleanly from a bad context, in contrast to bad responses.

In: items of one `positive` and up to three `negative` examples. Out: `nll` of the positive, nats a
token; `contrast`, a mean over items with a negative: -log of the positive's share of e^(cos/tau),
cos between the mean last hidden state of the positive's prompt and that of each response after its
own prompt. Invariant: an item without a negative has no `contrast`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rnr_dist.config.base import Count, Positive, Weight
from rnr_dist.config.methods import MethodSettings, Way, by_merge
from rnr_dist.config.training import ObjectiveSettings, Training
from rnr_dist.errors import InputError
from rnr_dist.train.collate import IGNORED, Item
from rnr_dist.train.materials import Materials, Need
from rnr_dist.train.passes import last_states, token_nll
from rnr_dist.types import Adapter, ModelRef, Side

if TYPE_CHECKING:
    from rnr_dist.train.trainable import Trained


class CmdSettings(ObjectiveSettings):
    """CMD's training: cross-entropy of a clean response, and a contrast to toxic ones."""

    name: Literal["cmd"] = "cmd"
    contrast_weight: Weight = 0.5
    """Weight of the contrast (InfoNCE, nats)."""
    temperature: Positive = 1.0
    """tau: divides the cosines."""
    negatives: Count = 3
    """Toxic responses of an item, at most; it may have none."""


class CmdObjective:
    """Cross-entropy of the positive and its InfoNCE against the negatives.

    The anchor is the prompt, so that a context calls for the clean response. It is every token
    that is not learnt: a sequence's first one at least.
    """

    Settings = CmdSettings
    remembered: tuple[str, ...] = ()

    def __init__(self, settings: CmdSettings):
        self.settings = settings
        self.parts: dict[str, tuple[int, int]] = {
            "positive": (1, 1),
            "negative": (0, settings.negatives),
        }

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        contrasted = [
            any(example.labels for example in item["positive"])
            and any(example.labels for example in item["negative"])
            for item in items
        ]
        return {
            "nll": sum(example.labels for item in items for example in item["positive"]),
            "contrast": sum(contrasted),
        }

    def terms(
        self, trained: Trained, batch: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, tuple[Any, int]]:
        import torch

        positive, negative = batch["positive"], batch["negative"]
        nll, _, states = token_nll(trained, positive)
        others = last_states(trained.model, negative["input_ids"])
        learnt, rejected = positive["labels"] != IGNORED, negative["labels"] != IGNORED
        anchor = mean_direction(states, positive["attention_mask"].bool() & ~learnt)
        clean = (anchor * mean_direction(states, learnt)).sum(1, keepdim=True)
        bad = anchor @ mean_direction(others, rejected).T

        items = torch.arange(len(anchor), device=anchor.device)
        own = (items[:, None] == negative["owner"]) & rejected.any(1)
        cosines = torch.cat([clean, bad.masked_fill(~own, -torch.inf)], dim=1)
        shares = (cosines / self.settings.temperature).log_softmax(1)[:, 0]
        contrasted = learnt.any(1) & own.any(1)
        contrast = -self.settings.contrast_weight * shares[contrasted].sum()
        return {"nll": (nll.sum(), len(nll)), "contrast": (contrast, int(contrasted.sum()))}


def mean_direction(states: Any, places: Any) -> Any:
    """(B, d) fp32 unit vectors: the mean of (B, T, d) over the (B, T) places; 0 where none is."""
    from torch.nn.functional import normalize

    mask = places[..., None]
    return normalize((states.float() * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)


class Cmd:
    """An item a contrast: its clean response as positive, the worst of its bad ones as
    negatives."""

    name: ClassVar[str] = "cmd"
    needs: ClassVar[frozenset[Need]] = frozenset({"forget", "contrasts"})
    Objective = CmdObjective
    adapters: ClassVar[Mapping[str, Side]] = {"detoxified": "retain"}
    refined: ClassVar[bool] = False

    @classmethod
    def settings(cls, way: Way) -> MethodSettings | None:
        if way == "epochs":
            return None
        return by_merge(Training(objective=CmdSettings()), (3e-4, 1e-3, 3e-3), 0.5, 4)

    def items(self, adapter: str, materials: Materials, training: Training) -> Sequence[Item]:
        settings = training.objective
        assert isinstance(settings, CmdSettings)
        if not materials.contrasts:
            raise InputError(
                "method cmd: found no context that was cleaned and has a response that says "
                "anything; expected more methods.continuations"
            )
        return [
            Item.of(positive=[contrast.positive], negative=contrast.negatives[: settings.negatives])
            for contrast in materials.contrasts
        ]

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        return base.plus(strength, adapters["detoxified"])
