"""What a checkpoint's config.json says, however it is written: whose weights an engine may take.

In: checkpoint folders. Out: plain values, equal for models of one shape that compute alike.
Invariant: what a file leaves out is what its kind has by default, so files of a hub and of this
version of transformers compare by what they mean; no weight is read.
"""

from __future__ import annotations

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError
from rnr_dist.weights.skeleton import skeleton

# Of weights, of files and of passes; and what generation is told, which transformers moves out of
# a config that it writes.
PASSING = ("dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache")
TOLD = 3  # keys that a sentence names, at most


def architecture(checkpoint: str | Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """A checkpoint's config as transformers reads it, without what may differ between weights of
    one shape."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    return _lasting(read.to_dict())


def require_reloadable(folder: Path, key: str, trust_remote_code: bool = False) -> None:
    """Raises InputError where no engine of a checkpoint could take weights that were trained from
    it: what transformers writes beside them is read as another architecture.

    key: of the training, which trains all weights. A model that nothing knows is passed over.
    """
    model = skeleton(folder, trust_remote_code)
    if model is None:
        return
    written = copy.deepcopy(model.config)
    written.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as aside:
        written.save_pretrained(aside)
        after = architecture(aside, trust_remote_code)
    before = architecture(folder, trust_remote_code)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    if changed:
        raise InputError(
            f"{key}.parameters: found full, but {folder} is written with another "
            f"{', '.join(changed[:TOLD])} once it was trained, which its engines cannot take; "
            "expected a model of text alone that transformers writes as it reads it"
        )


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in _passing()}
    return value


@cache
def _passing() -> frozenset[str]:
    from transformers import GenerationConfig

    return frozenset({*PASSING, *vars(GenerationConfig())})
