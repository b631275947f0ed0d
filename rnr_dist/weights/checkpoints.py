"""Turn the name of a model or embedder into a folder that everything can load.

In: `embedded:NAME`, a local folder (of a checkpoint, or of a PEFT adapter) or a hub name. Out: a
`ModelRef` of a plain checkpoint. Invariant: a checkpoint that is handed out is whole, an adapter is
added to the base that it belongs to; no torch is loaded except to make or compare these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from rnr_dist.errors import InputError
from rnr_dist.run.directory import BASE_NOTE, read, replacing_folder, write
from rnr_dist.run.extras import require_packages
from rnr_dist.run.places import cache_folder, require_cache
from rnr_dist.run.progress import say
from rnr_dist.types import ModelRef
from rnr_dist.weights.adapters import (
    composed_digest,
    is_adapter,
    named_base,
    require_base,
    require_fits,
    write_composed,
)
from rnr_dist.weights.embedded import EMBEDDED, converted_folder, embedder_folder, weights_file

# Who asks for a checkpoint mostly asks for these too.
from rnr_dist.weights.folders import COMPANIONS as COMPANIONS
from rnr_dist.weights.folders import EXPECTED, checkpoint_digest, require_checkpoint
from rnr_dist.weights.folders import companions as companions
from rnr_dist.weights.folders import require_content as require_content
from rnr_dist.weights.folders import weight_files as weight_files

log = logging.getLogger(__name__)


def resolve_model(name: str, trust_remote_code: bool = False) -> ModelRef:
    """The checkpoint called `name`, on this machine's disk, as a reference without terms.

    An embedded model is converted on first use (17 s for 135M parameters) and kept in the cache
    folder, RNR_CACHE_DIR or the user's, and so is the sum of an adapter and its base; a hub model
    is downloaded, its code only where `trust_remote_code` allows it. Raises InputError.
    """
    if name.startswith(EMBEDDED):
        folder = build_once(converted_folder(name), lambda aside: _convert(name, aside))
    else:
        folder = _local_folder(name) or _snapshot(name, trust_remote_code)
    if is_adapter(folder):
        folder = _composed(folder, resolve_model(named_base(folder), trust_remote_code))
    require_checkpoint(folder)
    return ModelRef(str(folder), checkpoint_digest(folder))


def check_model(name: str) -> Path | None:
    """Raise InputError where `resolve_model` would, without conversion, weights or torch.

    Returns a folder that holds the model's config.json; None for an embedded model before its
    first use.
    """
    if name.startswith(EMBEDDED):
        return checkpoint_here(name)
    if folder := _local_folder(name):
        if is_adapter(folder):
            return _check_adapter(folder)
        require_checkpoint(folder)
        return folder
    from huggingface_hub import hf_hub_download

    return Path(_from_hub(hf_hub_download, name, filename="config.json")).parent


def checkpoint_here(name: str) -> Path | None:
    """The folder of a model that lies on this disk; None for an embedded one, and for an adapter
    with its base, before its first use, and for a hub name. Raises InputError for a folder that is
    missing."""
    if name.startswith(EMBEDDED):
        folder = converted_folder(name)
        if folder.exists():
            return folder
        require_cache()
        return None
    local = _local_folder(name)
    if local is None or not is_adapter(local):
        return local
    require_cache()
    base = checkpoint_here(named_base(local))
    composed = base and _composed_folder(local, checkpoint_digest(base))
    return composed if composed and composed.exists() else None


def resolve_embedder(name: str) -> str:
    """What SentenceTransformer is given for `name`: a folder or a hub name. Raises InputError."""
    if name.startswith(EMBEDDED):
        return str(embedder_folder(name) / "model")
    return str(_local_folder(name) or name)


def keep_base(run: Path, base: ModelRef) -> None:
    """Note at a run's first start what its base is, and later where it lies now.

    Raises InputError where the weights are not those of the first start.
    """
    note = run / BASE_NOTE
    if note.exists():
        known = read(note, ModelRef)
        if known == base:
            return
        if known.checkpoint_digest != base.checkpoint_digest:
            raise InputError(
                f"{run}: found {base.checkpoint} with digest {base.checkpoint_digest}; expected "
                f"the run's base checkpoint, digest {known.checkpoint_digest}"
            )
    write(note, base)


def find_base(run: Path, model: str, trust_remote_code: bool = False) -> None:
    """Make sure that a finished run's base is there, with the weights that the run began with.

    Where it is not at the place that was noted, `model` of the run's config is looked for. Raises
    InputError.
    """
    known = read(run / BASE_NOTE, ModelRef)
    name = known.checkpoint if Path(known.checkpoint).exists() else model
    try:
        base = resolve_model(name, trust_remote_code)
    except InputError as error:
        raise InputError(
            f"{run}: found no base checkpoint at {known.checkpoint}, nor elsewhere ({error}); "
            f"expected the one of digest {known.checkpoint_digest}"
        ) from error
    keep_base(run, base)


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, made by `build` if it is missing; of racing processes one builds, the rest wait.

    `build` fills the folder that it is given, which takes its name only when it is whole.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                with replacing_folder(folder) as aside:
                    build(aside)
    return folder


def _composed_folder(adapter: Path, base_digest: str) -> Path:
    """Where the sum of an adapter and its base is kept."""
    return cache_folder() / f"{adapter.name}-{composed_digest(adapter, base_digest)}"


def _composed(adapter: Path, base: ModelRef) -> Path:
    """The folder of an adapter with its base, made once. Raises InputError for another base."""
    require_base(adapter, base.checkpoint_digest)
    folder = _composed_folder(adapter, base.checkpoint_digest)
    if not folder.exists():
        log.info("adding %s to its base, once", adapter)
    return build_once(folder, lambda aside: write_composed(adapter, base, aside))


def _check_adapter(adapter: Path) -> Path | None:
    """What `check_model` returns of an adapter: its base's folder. Raises InputError where the base
    is not there, or is another than the adapter's."""
    name = named_base(adapter)
    try:
        base = check_model(name)
    except InputError as error:
        raise InputError(f"{adapter}: its base: {error}") from error
    if here := checkpoint_here(name):
        require_base(adapter, checkpoint_digest(here))
        require_fits(adapter, here)
    return base


def _convert(name: str, folder: Path) -> None:
    """Unpack a GGUF model into a plain bf16 checkpoint with its tokenizer and chat template."""
    require_packages(["gguf"], name)
    log.info("converting %s to a plain checkpoint, once", name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with weights_file(name) as gguf:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),  # a packed model cannot be saved
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _local_folder(name: str) -> Path | None:
    """The absolute path that `name` is; None where it can only be a hub name."""
    path = Path(name).expanduser()
    if path.exists():
        return path.absolute()
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such folder; {EXPECTED}, or a hub name")
    return None


def _snapshot(name: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [*COMPANIONS, "README.md", "*.safetensors", *(["*.py"] if trust_remote_code else [])]
    unwanted = ["*/*", "consolidated*"]  # the same weights again, in other formats
    say(f"looking for {name} in the cache, else fetching it from the hub")
    return Path(_from_hub(snapshot_download, name, allow_patterns=wanted, ignore_patterns=unwanted))


def _from_hub(fetch: Callable[..., str], name: str, **options: Any) -> str:
    try:
        return fetch(name, **options)
    except Exception as error:  # the client's own, its HTTP library's and the system's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            f"{name}: found neither a local folder nor a hub model that can be fetched "
            f"({type(error).__name__}: {reason}); {EXPECTED}, or a hub name"
        ) from error
