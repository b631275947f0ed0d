"""Any text classifier of transformers as oracle: `hf:MODEL`, a local folder or a hub name.

In: responses, alone or behind their contexts. Out: what the chosen labels say together, in [0, 1];
an empty response scores 0. Invariant: labels are named, or there is one; weights are safetensors,
and their digest is in `version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from rnr_dist.config.base import Count
from rnr_dist.config.oracles import OracleSettings
from rnr_dist.errors import InputError
from rnr_dist.run.directory import read_json
from rnr_dist.weights.checkpoints import check_model, resolve_model

PREFIX = "hf:"


class ReadingSettings(OracleSettings):
    """How a classifier reads texts, and what of its answer counts."""

    labels: tuple[str, ...] = ()
    """The labels that mean the target; left out: the model's, where it has one alone."""
    aggregate: Literal["max", "sum", "mean"] = "max"
    """What several labels say together: `sum` where one of all labels is right (softmax), `max`
    where each stands for itself."""
    reads: Literal["response", "both"] = "response"
    """The response alone, or the pair of context and response."""
    max_tokens: Count = 512
    """Longer texts are cut."""
    batch: Count = 32
    """Texts of one pass."""
    device: str = "cpu"
    """As torch calls it: `cpu`, `cuda`, `cuda:1`."""


class ClassifierSettings(ReadingSettings):
    """A classifier's name, and how its logits become shares."""

    activation: Literal["auto", "softmax", "sigmoid"] = "auto"
    """`auto`: sigmoid for a model of one label or of several that may hold together
    (`problem_type: multi_label_classification`), softmax for others."""


@dataclass(frozen=True)
class Reader:
    """A loaded classifier: logits of texts, of which the columns `chosen` count."""

    model: Any
    tokenizer: Any
    chosen: Sequence[int]
    activation: str
    settings: ReadingSettings

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(n,) floats in [0, 1]."""
        scores, batch = np.zeros(len(responses)), self.settings.batch
        spoken = [index for index, response in enumerate(responses) if response.strip()]
        # Texts of like length share a pass, so that little of it is padding.
        spoken.sort(key=lambda index: len(responses[index]))
        for first in range(0, len(spoken), batch):
            part = spoken[first : first + batch]
            scores[part] = self._shares(
                [contexts[index] for index in part], [responses[index] for index in part]
            )
        return scores

    def _shares(self, contexts: list[str], responses: list[str]) -> np.ndarray:
        import torch

        texts = (contexts, responses) if self.settings.reads == "both" else (responses,)
        given = self.tokenizer(
            *texts,
            padding=True,
            truncation=True,
            max_length=self.settings.max_tokens,
            return_tensors="pt",
        ).to(self.settings.device)
        with torch.no_grad():
            logits = self.model(**given).logits.float()
        shares = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(-1)
        chosen = shares[:, list(self.chosen)]
        together = chosen.amax(1) if self.settings.aggregate == "max" else chosen.sum(1)
        if self.settings.aggregate == "mean":
            together = together / chosen.shape[1]
        found: np.ndarray = together.clamp(0, 1).cpu().numpy()
        return found


class ClassifierOracle:
    """The classifier that the oracle's name says."""

    Settings: ClassVar[type[OracleSettings]] = ClassifierSettings

    def __init__(self, settings: ClassifierSettings):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        ref = resolve_model(settings.name.removeprefix(PREFIX))
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                ref.checkpoint, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(ref.checkpoint)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"oracle {settings}: cannot be loaded ({reason}); expected a text classifier with "
                "its tokenizer"
            ) from error
        labels = _labels(model.config.to_dict())
        chosen = chosen_labels(settings, labels)
        activation = settings.activation
        if activation == "auto":
            several = model.config.problem_type == "multi_label_classification"
            activation = "sigmoid" if several or len(labels) == 1 else "softmax"
        model = model.to(settings.device).eval()
        self._reader = Reader(model, tokenizer, chosen, activation, settings)
        told = ",".join(labels[index] for index in chosen)
        self.version = f"{settings.name} {told} {settings.aggregate} {ref.checkpoint_digest[:8]}"

    @staticmethod
    def check(settings: ClassifierSettings) -> None:
        """Raises InputError for a model that is not there, or that has no such label."""
        try:
            folder = check_model(settings.name.removeprefix(PREFIX))
        except InputError as error:
            raise InputError(f"oracle {settings}: {error}") from error
        if folder is not None:
            chosen_labels(settings, _labels(read_json(folder / "config.json")))

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return self._reader.score(contexts, responses)


def chosen_labels(settings: ReadingSettings, labels: Sequence[str]) -> list[int]:
    """The columns that count. Raises InputError where that is not plain."""
    wanted = settings.labels or (labels if len(labels) == 1 else ())
    unknown = [name for name in wanted if name not in labels]
    if unknown or not wanted:
        found = f"no label {unknown[0]}" if unknown else f"{len(labels)} labels, none of them named"
        raise InputError(
            f"oracle {settings}: found {found}; expected `labels`, some of {', '.join(labels)}"
        )
    return [labels.index(name) for name in wanted]


def _labels(config: dict[str, Any]) -> list[str]:
    """The names of a classifier's columns; a config that names none means two."""
    named = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    return [str(named[key]) for key in sorted(named, key=int)]
