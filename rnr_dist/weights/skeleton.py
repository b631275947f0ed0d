"""A checkpoint's model without its weights: which layers it has, and what it does around them.

In: a checkpoint folder. Out: its linear layers by the names that transformers and PEFT give them,
with where their weights lie, and what one pass shows of embeddings and head. Invariant: of the
weights only headers are read; names come from the model itself, never from keys of files, which
may lack the model's prefix or be laid out the other way round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError
from rnr_dist.run.directory import read_json
from rnr_dist.weights.folders import weight_files

PLAIN_DTYPES = ("F32", "BF16", "F16")
# Operations that move no number: a pass from embeddings may do without a few of them.
VIEWS = ("view", "slice", "expand", "alias", "detach", "_to_copy", "squeeze")


@dataclass(frozen=True)
class Layer:
    """A linear layer: shape (out, in), `key` of its weight in the files. transposed: it lies there,
    and in the model, as (in, out), as GPT-2's layers do."""

    key: str
    shape: tuple[int, ...]
    transposed: bool = False


def skeleton(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """The model of a checkpoint on torch's meta device, where weights have shapes and no numbers.

    None where its code is its own and not trusted, or where transformers knows no such causal
    model.
    """
    config = (Path(folder) / "config.json").read_text(encoding="utf-8")
    return _skeleton(str(folder), config, trust_remote_code)


@functools.lru_cache(maxsize=4)
def _skeleton(folder: str, config: str, trust_remote_code: bool) -> Any:
    """config: its text, so that a folder that changed is read anew."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    content = read_json(Path(folder) / "config.json")
    known = content.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    own_code = trust_remote_code and "AutoModelForCausalLM" in content.get("auto_map", {})
    if not (known or own_code):
        return None
    read = AutoConfig.from_pretrained(folder, trust_remote_code=own_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read, trust_remote_code=own_code)
    return model.eval()


def linear_layers(folder: str | Path, trust_remote_code: bool = False) -> dict[str, Layer]:
    """The linear layers whose weights lie in the files in plain numbers, by name.

    A head that shares the input embedding's weight is none: it has no weight of its own. Of a
    model whose code is not known here the files' keys are the names.
    """
    held = _matrices(Path(folder))
    model = skeleton(folder, trust_remote_code)
    if model is None:
        return {name: Layer(f"{name}.weight", shape) for name, shape in held.items()}
    layers = {}
    for name, _, transposed in linear_modules(model):
        key = _held_as(name, held, model.base_model_prefix)
        if key is not None:
            shape = held[key][::-1] if transposed else held[key]
            layers[name] = Layer(f"{key}.weight", shape, transposed)
    return layers


def linear_modules(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """(name, module, whether its weight is (in, out)) of a model's own linear layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    embedding = model.get_input_embeddings().weight
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module.weight is not embedding:
            yield name, module, isinstance(module, Conv1D)


def embedding_key(folder: Path, model: Any) -> str | None:
    """The key of the weight of `model`'s input embedding in the files; None where it is not."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    key = _held_as(name, _matrices(folder), model.base_model_prefix)
    return None if key is None else f"{key}.weight"


def embeddings_stand_for_tokens(model: Any) -> bool:
    """Whether a skeleton does the same with what its embedding layer gives as with token ids.

    A model that scales what it looked up does so for ids alone; its embeddings are not its layer's.
    """
    from_rows, _ = _operations(model, lambda ids: {"inputs_embeds": _embedded(model, ids)})
    return from_rows == _operations(model, lambda ids: {"input_ids": ids})[0]


def head_is_last(model: Any) -> bool:
    """Whether a skeleton's logits are its head's of its decoder's states, and nothing more.

    Some scale or cap them (Granite, Gemma 2), some scale what goes into the head (MiniCPM).
    """
    return not _operations(model, lambda ids: {"input_ids": ids})[1]


def _embedded(model: Any, ids: Any) -> Any:
    return model.get_input_embeddings()(ids)


def _operations(model: Any, given: Callable[[Any], dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What torch computes in a pass of three tokens, in all, and around the head: between the
    decoder and it, and after it.

    Raises InputError for a model whose pass asks for numbers, which a skeleton has not.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Noted(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def __torch_dispatch__(
            self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.found.append(str(operation))
            return operation(*args, **(kwargs or {}))

    places: list[int] = []
    error: Exception | None = None
    # Most take a whole mask as it is, without looking into it; those with ALiBi take none.
    for mask in (torch.ones(1, 1, 3, 3, device="meta", dtype=torch.bool), None):
        with Noted() as noted, torch.no_grad():

            def note(*_: Any, noted: Noted = noted) -> None:
                places.append(len(noted.found))

            head = model.get_output_embeddings()
            hooks = [
                model.get_decoder().register_forward_hook(note),
                head.register_forward_pre_hook(note),
                head.register_forward_hook(note),
            ]
            try:
                rows = given(torch.zeros(1, 3, dtype=torch.long, device="meta"))
                model(**rows, attention_mask=mask, use_cache=False)
            except Exception as failed:  # the model's own code, whatever it raises
                error = failed
                continue
            finally:
                for hook in hooks:
                    hook.remove()
            decoded, begun, ended = places[-3:]
            found = noted.found
            around = [*found[decoded:begun], *found[ended:]]
            kept, beside = ([one for one in part if not _is_view(one)] for part in (found, around))
            return kept, beside
    raise InputError(
        f"model: found {type(model).__name__}, whose pass cannot be followed without weights "
        f"({error}); expected a causal model of attention layers"
    ) from error


def _is_view(operation: str) -> bool:
    return any(view in operation for view in VIEWS)


def _held_as(module: str, held: Mapping[str, Any], prefix: str) -> str | None:
    """What the files call a module: by its whole name, or without the model's prefix."""
    names = (module, module.removeprefix(f"{prefix}."))
    return next((name for name in names if name in held), None)


def _matrices(folder: Path) -> dict[str, tuple[int, ...]]:
    """{key without `.weight`: shape} of the unquantised matrices of a checkpoint, from headers."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="np") as handle:
            for key in handle.keys():  # noqa: SIM118  (no mapping)
                header = handle.get_slice(key)
                shape = tuple(header.get_shape())
                plain = header.get_dtype() in PLAIN_DTYPES
                if key.endswith(".weight") and len(shape) == 2 and plain:
                    found[key.removesuffix(".weight")] = shape
    return found
