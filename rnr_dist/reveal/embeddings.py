"""Input embeddings: what soft prompts stand beside, and whether a model takes them for tokens.

In: a checkpoint. Out: rows of its embedding layer. Invariant: they are what the model itself makes
of the same tokens, so a prompt of embeddings gives the logits of the prompt of tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnr_dist.errors import InputError
from rnr_dist.reveal.instructions import FeatureReader
from rnr_dist.run.precision import compute_dtype
from rnr_dist.weights.checkpoints import weight_files
from rnr_dist.weights.skeleton import embedding_key, embeddings_stand_for_tokens, skeleton


def require_embeddings(folder: Path, backend: str, trust_remote_code: bool) -> None:
    """Raises InputError for a checkpoint that cannot be given soft prompts on that backend."""
    model = skeleton(folder, trust_remote_code)
    if model is None or embedding_key(folder, model) is None:
        raise InputError(
            f"{folder}: found no weight of an input embedding that transformers knows; expected "
            "one, since instructions are decoded from soft prompts"
        )
    if not embeddings_stand_for_tokens(model):
        raise InputError(
            f"{folder}: {type(model).__name__} treats embeddings otherwise than the tokens that "
            "they are of; expected a model that takes soft prompts"
        )
    width, states = model.get_input_embeddings().weight.shape[1], model.config.hidden_size
    if backend == "vllm" and width != states:
        raise InputError(
            f"engines.backend: found vllm, which takes soft prompts as wide as the {states} states "
            f"of {folder}, whose embeddings have {width}; expected transformers"
        )


class InputEmbeddings:
    """What a model makes of token ids before anything else: its own embedding layer, alone.

    Scaled where the layer scales (Gemma), as wide as its rows are (OPT-350m's are narrower than its
    states), in the number format `dtype` that the engines compute in. Of the checkpoint no other
    weight is read. Raises InputError where the embedding layer's weight is not in the files.
    """

    def __init__(self, reader: FeatureReader, on_gpu: bool = False):
        import torch
        from safetensors import safe_open

        folder = Path(reader.checkpoint)
        model = skeleton(folder, reader.trust_remote_code)
        key = None if model is None else embedding_key(folder, model)
        if key is None:
            raise InputError(
                f"{folder}: found no weight of the model's input embedding; expected one in its "
                "files"
            )
        layer = copy.deepcopy(model.get_input_embeddings()).to_empty(device="cpu")
        model._init_weights(layer)  # what is in no file: a scale
        for path in weight_files(folder):
            with safe_open(path, "pt") as file:
                if key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    layer.weight = torch.nn.Parameter(file.get_tensor(key), requires_grad=False)
        self._layer = layer.to(getattr(torch, compute_dtype(reader.dtype, on_gpu)))
        self.vocabulary, self.hidden = self._layer.weight.shape

    def of(self, token_ids: Sequence[int]) -> np.ndarray:
        """(tokens, hidden) float32."""
        import torch

        with torch.no_grad():
            rows: np.ndarray = self._layer(torch.tensor(list(token_ids)).long()).float().numpy()
        return rows

    def std(self) -> float:
        """Standard deviation of all entries."""
        count = self.vocabulary * self.hidden
        total = square = 0.0
        for first in range(0, self.vocabulary, 4096):
            block = self.of(range(first, min(first + 4096, self.vocabulary))).astype(np.float64)
            total += float(block.sum())
            square += float((block**2).sum())
        return float(np.sqrt(square / count - (total / count) ** 2))
