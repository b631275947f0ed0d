"""A PEFT adapter folder as a model: which base it belongs to, and the sum of the two.

In: a folder with adapter_config.json. Out: its base's name; a plain checkpoint. Invariant: an
adapter that says by digest which base it was made for is added to no other, and none to a base
whose layers it does not fit; the tokenizer that lies beside an adapter is the one that counts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.digests import checksum
from rnr_dist.run.directory import read_json
from rnr_dist.types import Adapter, ModelRef, Term, digest
from rnr_dist.weights.folders import ADAPTER_CONFIG as CONFIG
from rnr_dist.weights.folders import ADAPTER_WEIGHTS as WEIGHTS
from rnr_dist.weights.folders import COMPANIONS

BASE_DIGEST = "rnr_base.json"  # what an export says of the base, beside PEFT's own files
# What lies beside an adapter and is none of a checkpoint's companions.
OWN = (CONFIG, BASE_DIGEST, "trainer_state.json")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no whole checkpoint."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def called_by_digest(checkpoint_digest: str) -> str:
    """What an export calls a base that has no name on a hub."""
    return f"checkpoint-{checkpoint_digest}"


def named_base(folder: Path) -> str:
    """What the adapter's config calls its base; a relative path is one beside the adapter, or in
    the current folder. Raises InputError where it names none, or one by its digest alone."""
    config = read_json(folder / CONFIG)
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not (name and isinstance(name, str)):
        raise InputError(
            f"{folder / CONFIG}: found no base_model_name_or_path; expected the folder or the hub "
            "name of the checkpoint that it is added to"
        )
    beside = folder / name
    known = _known_digest(folder)
    if known and name == called_by_digest(known) and not Path(name).exists():
        raise InputError(
            f"{folder / CONFIG}: found the base {name}, which is a digest and no place, since the "
            "base has no name on a hub; expected base_model_name_or_path to be the folder of the "
            f"checkpoint of digest {known}"
        )
    return str(beside) if name.startswith(".") and beside.exists() else name


def require_base(folder: Path, base_digest: str) -> None:
    """Raises InputError where the adapter was made for a base of another digest, as it says."""
    if not (folder / BASE_DIGEST).exists():
        return
    known = _known_digest(folder)
    if known != base_digest:
        raise InputError(
            f"{folder}: found the base {named_base(folder)} of digest {base_digest}; expected "
            f"{known}, which the adapter was made for"
        )


def _known_digest(folder: Path) -> str | None:
    """The digest of the base that the adapter was made for, where it says one."""
    note = folder / BASE_DIGEST
    content = read_json(note) if note.exists() else None
    known = content.get("checkpoint_digest") if isinstance(content, dict) else None
    return known if isinstance(known, str) else None


def require_fits(folder: Path, base: Path) -> None:
    """Raises InputError where the adapter is no plain LoRA on layers that the base has."""
    from rnr_dist.weights.composition import checkpoint_shapes, stack

    stack(_reference(folder, base, "").terms, checkpoint_shapes(base))


def composed_digest(folder: Path, base_digest: str) -> str:
    """Identity of what an adapter and a base make together, with what lies beside the adapter."""
    files = [[path.name, checksum(path)] for path in (*_beside(folder), folder / CONFIG)]
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder}: is no adapter; expected {CONFIG} and {WEIGHTS}")
    return digest([base_digest, checksum(folder / WEIGHTS), files])


def write_composed(folder: Path, base: ModelRef, target: Path) -> None:
    """Write base and adapter as one plain checkpoint into a folder; base: without terms."""
    from rnr_dist.weights.composition import materialise

    materialise(_reference(folder, Path(base.checkpoint), base.checkpoint_digest), target)
    for path in _beside(folder):
        shutil.copyfile(path, target / path.name)


def _reference(folder: Path, base: Path, base_digest: str) -> ModelRef:
    from rnr_dist.weights.composition import adapter_digest

    adapter = Adapter(str(folder), adapter_digest(folder), base_digest, "retain")
    return ModelRef(str(base), base_digest, (Term(1.0, adapter),))


def _beside(folder: Path) -> list[Path]:
    """Tokenizer and chat template that lie beside an adapter."""
    found = {path for pattern in COMPANIONS for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name not in OWN)
