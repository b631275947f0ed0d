"""Detoxify's checkpoints as oracle, without its package: a `.ckpt` and the folder of its encoder.

In: responses. Out: the chosen labels' shares, by default `toxicity`, each by a sigmoid as its
authors read them; an empty response scores 0. Invariant: of the file, which is a pickle, tensors
and plain values alone are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from rnr_dist.config.oracles import OracleSettings
from rnr_dist.errors import InputError
from rnr_dist.run.digests import checksum
from rnr_dist.score.oracles.classifier import Reader, ReadingSettings, chosen_labels

# What the labels of its first data set are called in all of its models (detoxify 0.5).
RENAMED = {
    "toxic": "toxicity",
    "identity_hate": "identity_attack",
    "severe_toxic": "severe_toxicity",
}
UNUSED = "position_ids"  # a buffer that older versions of transformers kept
EXPECTED = "expected a checkpoint of Detoxify: `config` and `state_dict`"


class DetoxifySettings(ReadingSettings):
    """Where its weights and its encoder lie."""

    name: Literal["detoxify"] = "detoxify"
    checkpoint: str
    """Its weights, a `.ckpt`."""
    encoder: str
    """A folder with config and tokenizer of the encoder that it extends (`bert-base-uncased` for
    the model `original`)."""
    labels: tuple[str, ...] = ("toxicity",)
    """Labels as Detoxify calls them: `toxicity`, `severe_toxicity`, `obscene`, `threat`..."""


class DetoxifyOracle:
    """One of its models, from files."""

    Settings: ClassVar[type[OracleSettings]] = DetoxifySettings

    def __init__(self, settings: DetoxifySettings):
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        self.check(settings)
        labels, state = _checkpoint(Path(settings.checkpoint).expanduser())
        chosen = chosen_labels(settings, labels)
        try:
            encoder = Path(settings.encoder).expanduser()
            config = AutoConfig.from_pretrained(encoder, num_labels=len(labels))
            model = AutoModelForSequenceClassification.from_config(config)
            wanted = {key: value for key, value in state.items() if not key.endswith(UNUSED)}
            model.load_state_dict(wanted)
            tokenizer = AutoTokenizer.from_pretrained(encoder)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"oracle {settings}: {settings.checkpoint} does not fit {settings.encoder} "
                f"({reason}); expected the encoder that it extends, with its tokenizer"
            ) from error
        model = model.to(settings.device).eval()
        self._reader = Reader(model, tokenizer, chosen, "sigmoid", settings)
        told = ",".join(settings.labels)
        content = checksum(Path(settings.checkpoint).expanduser())[:8]
        self.version = f"detoxify {told} {settings.aggregate} {content}"

    @staticmethod
    def check(settings: DetoxifySettings) -> None:
        """Raises InputError where a file or folder is not there."""
        encoder = Path(settings.encoder).expanduser()
        for path in (Path(settings.checkpoint).expanduser(), encoder / "config.json"):
            if not path.is_file():
                raise InputError(f"oracle {settings}: {path}: no such file; expected one")

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return self._reader.score(contexts, responses)


def _checkpoint(path: Path) -> tuple[list[str], dict[str, Any]]:
    """(labels, weights) of a checkpoint. Raises InputError."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        classes, state = loaded["config"]["dataset"]["args"]["classes"], loaded["state_dict"]
        return [RENAMED.get(name, name) for name in classes], dict(state)
    except Exception as error:  # the unpickler's own, and whatever the file holds instead
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); {EXPECTED}") from error
