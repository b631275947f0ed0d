"""What a folder that holds a checkpoint is: its weights, what lies beside them, its identity.

In: a folder with config.json and safetensors. Out: its files and digests. Invariant: equal weights
have equal digests wherever they lie; no torch is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.digests import checksum
from rnr_dist.run.directory import read_json
from rnr_dist.types import ModelRef, digest

# What a checkpoint folder holds beside its weights: config, tokenizer, chat template.
COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EXPECTED = "expected a folder with config.json and model.safetensors (or its shards and index)"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder: the shards that its index names, or one."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not (found and isinstance(found, dict)):
        raise InputError(f"{index}: found no mapping weight_map; expected the shard of each weight")
    names = sorted(map(str, set(found.values())))
    for name in names:
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise InputError(
                f"{index}: found the shard {name!r}; expected the name of a safetensors file "
                "beside it"
            )
    return [folder / name for name in names]


def checkpoint_digest(folder: Path) -> str:
    """Identity of a checkpoint: its config and the content of its weights (1.3 GB/s a core)."""
    weights = [checksum(file) for file in weight_files(folder)]
    return digest([read_json(folder / "config.json"), weights])


def companions(folder: Path) -> str:
    """Identity of what lies beside a checkpoint's weights and config: tokenizer, chat template."""
    files = {path for pattern in COMPANIONS for path in folder.glob(pattern)}
    described = {folder / "config.json", folder / "model.safetensors.index.json"}
    return digest([[path.name, checksum(path)] for path in sorted(files - described)])


def require_content(model: ModelRef) -> None:
    """Raises InputError where the checkpoint's folder holds other weights than the reference says.

    Asked wherever weights are loaded; a file's content is read once a process.
    """
    folder = Path(model.checkpoint)
    try:
        found = checkpoint_digest(folder)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: found no {Path(error.filename).name}; expected the checkpoint of digest "
            f"{model.checkpoint_digest}"
        ) from error
    if found != model.checkpoint_digest:
        raise InputError(
            f"{folder}: found a checkpoint of digest {found}; expected {model.checkpoint_digest}: "
            "its config or its weights were changed, restore them"
        )


def require_checkpoint(folder: Path) -> None:
    """Raise InputError unless `folder` holds a config and whole safetensors weights."""
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise InputError(f"{folder}: found a file; {EXPECTED}")
    try:
        if not isinstance(json.loads((folder / "config.json").read_text(encoding="utf-8")), dict):
            raise ValueError("config.json is no mapping")
        for file in weight_files(folder):
            with safe_open(file, framework="np"):  # reads the header and compares the length
                pass
    except FileNotFoundError as error:
        present = sorted(entry.name for entry in folder.iterdir())
        found = ", ".join(present[:4]) + (", ..." if len(present) > 4 else "")
        raise InputError(f"{folder}: found {found or 'nothing'}; {EXPECTED}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: found a damaged file ({error}); {EXPECTED}") from error
