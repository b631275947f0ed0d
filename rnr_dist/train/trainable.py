"""A model under training: which of its weights are trained, theta0 within it, how it is saved.

In: a loaded transformers model and a `training` section. Out: a `Trained` for objectives and loop.
Invariant: theta0 is no second model; it is this one with what is trained switched off, or, where
all is trained, its last hidden states and its head, kept from before the first step. It has no
gradient and no dropout. What is trained is fp32 above weights of any dtype.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from transformers.pytorch_utils import Conv1D

from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.machine.held import head_parts
from rnr_dist.train.collate import Example, pad
from rnr_dist.train.divided import gathered
from rnr_dist.train.job import SUMMARY
from rnr_dist.train.passes import label_states, predicted, token_nll
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import COMPANIONS
from rnr_dist.weights.composition import exact_factors, save_adapter


class Trained(ABC):
    """`model` is what runs, `base` what it was composed from, `seed` the training's. head_parts:
    that the labels of a pass go through the head in (`machine.held`)."""

    model: Any
    head_parts: int = 1

    def __init__(self, base: ModelRef, seed: int):
        self.base = base
        self.seed = seed

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within the block `model` is theta0."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.switched_off():
                yield
        finally:
            self.model.train(training)

    def head(self, states: Any) -> Any:
        """Logits of (labels, d) hidden states."""
        return self.model.get_output_embeddings()(states)

    def remember(self, examples: Iterable[Example]) -> None:  # noqa: B027 (most need no memory)
        """Told before the first step which examples theta0 will be asked about."""

    def reference_states(self, rows: Mapping[str, Any]) -> Any:
        """(labels, d): theta0's `label_states` of examples that were remembered."""
        with self.reference():
            return label_states(self.model, rows)

    def reference_head(self, states: Any) -> Any:
        """theta0's logits of its states."""
        with self.reference():
            return self.head(states)

    def reference_nll(self, rows: Mapping[str, Any]) -> tuple[Any, Any]:
        """theta0's -log p (nats) of each token with a label, and its row."""
        with self.reference():
            nll, row, _ = token_nll(self, rows)
        return nll, row

    @abstractmethod
    def switched_off(self) -> AbstractContextManager[None]:
        """Within the block `model` computes without what was trained."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained to an existing folder, as a PEFT LoRA in fp32."""


class Lora(Trained):
    """A LoRA on the chosen layers; its initial A follows from torch's seed."""

    def __init__(self, model: Any, training: Training, base: ModelRef, seed: int):
        from peft import LoraConfig, get_peft_model

        super().__init__(base, seed)
        layers = [model.get_submodule(name) for name in chosen(model, training)]
        self.model = get_peft_model(
            model,
            LoraConfig(
                r=training.rank,
                lora_alpha=training.alpha,
                lora_dropout=training.dropout,
                target_modules=training.target_modules,
                layers_to_transform=training.layers,
                fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers),
                task_type="CAUSAL_LM",
            ),
        )

    def switched_off(self) -> AbstractContextManager[None]:
        return self.model.disable_adapter()

    def save(self, folder: Path) -> None:
        # False: "auto" would ask the hub for the checkpoint's vocabulary size.
        self.model.save_pretrained(folder, save_embedding_layers=False)


class Matrices(Trained):
    """The weight matrices of the chosen layers; everything else is frozen."""

    def __init__(self, model: Any, training: Training, base: ModelRef, seed: int):
        super().__init__(base, seed)
        self.model = model.requires_grad_(False)
        self.matrices: dict[str, Matrix] = {}
        for name in chosen(model, training):
            layer = model.get_submodule(name)
            if not isinstance(layer, torch.nn.Linear | Conv1D):
                raise InputError(
                    f"target_modules: {name} is a {type(layer).__name__}; expected a linear layer"
                )
            self.matrices[name] = Matrix(layer)
            model.set_submodule(name, self.matrices[name])

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        for matrix in self.matrices.values():
            matrix.switched_off = True
        try:
            yield
        finally:
            for matrix in self.matrices.values():
                matrix.switched_off = False

    def save(self, folder: Path) -> None:
        factors, rank = exact_factors({name: m.delta() for name, m in self.matrices.items()})
        save_adapter(
            folder,
            factors,
            alpha=rank,
            base=self.base.checkpoint,
            trained_on=self.base.digest,
            side="forget",
        )


class Matrix(torch.nn.Module):
    """A linear layer whose weight is trained in fp32, with the weight that it had beside it.

    The weight lies as the layer's does: (out, in), or (in, out) of a Conv1D.
    """

    def __init__(self, layer: torch.nn.Linear | Conv1D):
        super().__init__()
        self.before: torch.Tensor
        self._transposed = isinstance(layer, Conv1D)
        with gathered(layer):
            self.register_buffer("before", layer.weight.detach().clone(), persistent=False)
        self.weight = torch.nn.Parameter(self.before.to(torch.float32, copy=True))
        self.bias = layer.bias
        self.switched_off = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = (self.before if self.switched_off else self.weight).to(inputs.dtype)
        return linear(inputs, weight.T if self._transposed else weight, self.bias)

    def delta(self) -> torch.Tensor:
        """(out, in) fp32: what the training changed."""
        change = self.weight.detach() - self.before.float()
        return change.T.contiguous() if self._transposed else change


class Full(Trained):
    """All weights, in fp32; of theta0 the head and the last hidden states of what is asked for."""

    def __init__(self, model: Any, training: Training, base: ModelRef, seed: int):
        super().__init__(base, seed)
        self.model = model.float().requires_grad_(True)
        # By token ids and number of labels, which are a sequence's last ones.
        self.known: dict[tuple[tuple[int, ...], int], torch.Tensor] = {}
        self.head_before: tuple[Any, Any] | None = None

    def remember(self, examples: Iterable[Example]) -> None:
        training = self.model.training
        self.model.eval()
        head = self.model.get_output_embeddings()
        with torch.no_grad():
            for example in examples:
                rows = {key: value.to(head.weight.device) for key, value in pad([example]).items()}
                key = example.token_ids, example.labels
                if key not in self.known:
                    self.known[key] = label_states(self.model, rows)
                if self.head_before is None:
                    # In the number format that it computes in: autocast would cast 28 million
                    # weights at every call, since it keeps the casts of trained weights only.
                    with gathered(head):
                        dtype = _computed_in(head.weight)
                        bias = (
                            None if head.bias is None else head.bias.detach().to(dtype, copy=True)
                        )
                        self.head_before = head.weight.detach().to(dtype, copy=True), bias
        self.model.train(training)

    def reference_states(self, rows: Mapping[str, Any]) -> Any:
        lengths = rows["attention_mask"].sum(1).tolist(), predicted(rows).sum(1).tolist()
        found = zip(rows["input_ids"].tolist(), *lengths, strict=True)
        kept = [self.known[tuple(row[:length]), labels] for row, length, labels in found if length]
        return torch.cat(kept) if kept else rows["input_ids"].new_zeros(0, self._width).float()

    @property
    def _width(self) -> int:
        return int(self.model.get_output_embeddings().in_features)

    def reference_head(self, states: Any) -> Any:
        assert self.head_before is not None, "nothing was remembered"
        weight, bias = self.head_before
        return linear(states.to(weight.dtype), weight, bias)

    def reference_nll(self, rows: Mapping[str, Any]) -> tuple[Any, Any]:
        valid = predicted(rows)
        asked = self.reference_states(rows), rows["labels"][:, 1:][valid]
        pieces = zip(*(one.tensor_split(self.head_parts) for one in asked), strict=True)
        lost = [
            cross_entropy(self.reference_head(part).float(), wanted, reduction="none")
            for part, wanted in pieces
        ]
        return torch.cat(lost), valid.nonzero()[:, 0]

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        raise InputError("parameters: full keeps no theta0 for this objective; expected lora")
        yield

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        source = Path(self.base.checkpoint)
        for pattern in COMPANIONS:
            for path in source.glob(pattern):
                # Of the weights' own files, and of what tells how they came about, only this
                # model's are true.
                own = (folder / path.name).exists() or path.name == SUMMARY
                if not own and "index" not in path.name:
                    shutil.copy(path, folder)


def _computed_in(weight: torch.Tensor) -> torch.dtype:
    """The number format of a product with `weight` here."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


PARAMETERS: dict[str, type[Lora] | type[Matrices] | type[Full]] = {
    "lora": Lora,
    "matrices": Matrices,
    "full": Full,
}


def make_trained(model: Any, training: Training, base: ModelRef, seed: int) -> Trained:
    """`model` made ready to train what `training` says, in place; it runs composed as `base`."""
    trained = PARAMETERS[training.parameters](model, training, base, seed)
    trained.head_parts = head_parts(training, model.config.get_text_config().vocab_size)
    if training.gradient_checkpointing:
        # Otherwise checkpoints need inputs with a gradient, which frozen embeddings do not give.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return trained


def chosen(model: Any, training: Training) -> list[str]:
    """Names of the modules that are trained. Raises InputError where a wanted layer has none."""
    wanted = {
        name: next((int(part) for part in name.split(".") if part.isdigit()), None)
        for name, _ in model.named_modules()
        if any(f".{name}".endswith(f".{module}") for module in training.target_modules)
    }
    missing = set(training.layers or ()) - set(wanted.values())
    if missing or not wanted:
        raise InputError(
            f"training.layers: the model has no {', '.join(training.target_modules)} in "
            f"{f'layer {min(missing)}' if missing else 'any layer'}"
        )
    return [name for name in wanted if training.layers is None or wanted[name] in training.layers]
