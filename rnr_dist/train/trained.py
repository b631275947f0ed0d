"""A model under training: which of its weights are trained, theta0 within it, how it is saved.

In: a loaded transformers model and a `training` section. Out: a `Trained` for objectives and loop.
Invariant: theta0 is no second model; it is this one with what is trained switched off, without a
gradient and without dropout. What is trained is fp32 above weights of any dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from rnr_dist.config import Training
from rnr_dist.errors import InputError
from rnr_dist.release.composition import exact_factors, save_adapter
from rnr_dist.types import ModelRef


class Trained(ABC):
    """`model` is what runs, `base` what it was composed from, `seed` the training's."""

    model: Any

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
        chosen(model, training)
        self.model = get_peft_model(
            model,
            LoraConfig(
                r=training.rank,
                lora_alpha=training.alpha,
                lora_dropout=training.dropout,
                target_modules=training.target_modules,
                layers_to_transform=training.layers,
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
            if not isinstance(layer, torch.nn.Linear):
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
            role="forget",
        )


class Matrix(torch.nn.Module):
    """A linear layer whose weight is trained in fp32, with the weight that it had beside it."""

    def __init__(self, layer: torch.nn.Linear):
        super().__init__()
        self.before: torch.Tensor
        self.register_buffer("before", layer.weight.detach(), persistent=False)
        self.weight = torch.nn.Parameter(self.before.to(torch.float32, copy=True))
        self.bias = layer.bias
        self.switched_off = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        weight = self.before if self.switched_off else self.weight
        return linear(inputs, weight.to(inputs.dtype), self.bias)

    def delta(self) -> torch.Tensor:
        """(out, in) fp32: what the training changed."""
        return self.weight.detach() - self.before.float()


PARAMETERS: dict[str, type[Lora] | type[Matrices]] = {"lora": Lora, "matrices": Matrices}


def make_trained(model: Any, training: Training, base: ModelRef, seed: int) -> Trained:
    """`model` made ready to train what `training` says, in place; it runs composed as `base`."""
    trained = PARAMETERS[training.parameters](model, training, base, seed)
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
