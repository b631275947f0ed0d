"""Which backend a model's engines run on, decided before any engine starts.

In: the engines' config and a checkpoint's config.json. Out: `vllm` or `transformers`, and why.
Invariant: no model and no vLLM is loaded in this process; what vLLM serves is asked of it in a
process of its own, once a version (7 s), and kept in the cache folder.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnr_dist.config.engines import Engines
from rnr_dist.errors import InputError
from rnr_dist.run.directory import read_json, write_json
from rnr_dist.run.places import cache_folder, require_writable

ASK_VLLM = """
import json
from vllm.model_executor.models.registry import ModelRegistry
print(json.dumps(sorted(ModelRegistry.get_supported_archs())))
"""
NO_VLLM = "vLLM is not installed, rnr-dist[gpu] brings it"
# What configs call the number of a model's positions; the smallest one holds.
POSITIONS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)


@dataclass(frozen=True)
class BackendChoice:
    """A backend and the reason, which completes the sentence "... because"."""

    backend: Literal["vllm", "transformers"]
    why: str


def choose_backend(
    engines: Engines,
    model: str,
    architectures: Collection[str],
    causal: Collection[str],
    served: Collection[str] | None,
) -> BackendChoice:
    """The backend of a model.

    architectures: what its config names. causal: the architectures that generate text. served:
    those that vLLM knows; None where it is not installed. Raises InputError for a model that no
    backend serves, for `vllm` where it does not serve it, and for what the chosen backend lacks.
    """
    named = ", ".join(architectures) or "no architecture"
    if not set(architectures) & set(causal):
        raise InputError(
            f"model: found {model} of {named}, which no backend generates text with; expected a "
            "causal language model, such as LlamaForCausalLM"
        )
    known = bool(set(architectures) & set(served or ()))
    missing = f"vLLM does not serve {named}" if served is not None else NO_VLLM
    if engines.backend == "vllm" and not known:
        raise InputError(
            f"engines.backend: found vllm, but {missing}; expected transformers or auto for {model}"
        )
    if engines.backend == "vllm" or (known and engines.backend == "auto"):
        return BackendChoice("vllm", f"vLLM serves {named}")
    if engines.weights == "lora":
        raise InputError(
            "engines.weights: found lora, but engines of transformers hold one model at a time; "
            "expected reload"
        )
    if engines.gpus_each > 1:
        raise InputError(
            f"engines.gpus_each: found {engines.gpus_each:g}, but engines of transformers hold a "
            "model on one GPU; expected at most 1"
        )
    return BackendChoice(
        "transformers", missing if engines.backend == "auto" else "the config says so"
    )


def backend_of(
    engines: Engines, checkpoint: str | Path, trust_remote_code: bool = False
) -> BackendChoice:
    """`choose_backend` for a checkpoint folder. Also raises InputError where `max_model_len` is
    above the positions that the model has, which vLLM ends with a trace for."""
    content = read_json(Path(checkpoint) / "config.json")
    architectures = content.get("architectures") or []
    causal = set(causal_architectures())
    if trust_remote_code and "AutoModelForCausalLM" in content.get("auto_map", {}):
        causal |= set(architectures)
    served = frozenset() if engines.backend == "transformers" else vllm_architectures()
    choice = choose_backend(engines, str(checkpoint), architectures, causal, served)
    positions = positions_of(content)
    if positions and engines.max_model_len > positions:
        raise InputError(
            f"engines.max_model_len: found {engines.max_model_len}, but {checkpoint} has "
            f"{positions:g} positions; expected at most so many"
        )
    return choice


def positions_of(content: Mapping[str, Any]) -> int | None:
    """How many positions the model of a config.json has, as vLLM counts them; None: nothing says.

    What the file leaves out is its kind's default. Rotary embeddings that are stretched linearly or
    dynamically have `factor` times as many; other kinds count the stretched ones already, as Gemma
    3 does.
    """
    from transformers import CONFIG_MAPPING

    told = dict(content.get("text_config") or content)
    if (model := told.get("model_type")) in CONFIG_MAPPING:
        told = {**CONFIG_MAPPING[model]().to_dict(), **told}
    known = [told[key] for key in POSITIONS if isinstance(told.get(key), int)]
    if not known:
        return None
    rope = told.get("rope_scaling") or told.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type"))
    stretched = kind in ("linear", "dynamic") and "gemma3" not in str(model)
    return int(min(known) * (rope.get("factor") or 1.0 if stretched else 1.0))


def causal_architectures() -> Collection[str]:
    """Classes that transformers loads as causal language models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def vllm_architectures(cache: Path | None = None) -> frozenset[str] | None:
    """Architectures that the installed vLLM has models of its own for; None without vLLM.

    Raises InputError where it is installed and cannot be imported.
    """
    if importlib.util.find_spec("vllm") is None:
        return None
    folder = cache or cache_folder()
    path = folder / f"vllm-{_vllm_version()}-architectures.json"
    if not path.exists():
        require_writable(folder, "the cache folder (RNR_CACHE_DIR)")
        environment: Mapping[str, Any] = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
        asked = subprocess.run(
            [sys.executable, "-c", ASK_VLLM], env=environment, capture_output=True, text=True
        )
        if asked.returncode:
            reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(
                f"engines.backend: vLLM is installed but cannot be imported ({reason}); expected "
                "a whole installation, or transformers"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, json.loads(asked.stdout.strip().splitlines()[-1]))
    return frozenset(read_json(path))


def _vllm_version() -> str:
    """Of whichever distribution brings the package; its CPU builds have names of their own."""
    for name in importlib.metadata.packages_distributions().get("vllm", ()):
        return f"{name}-{importlib.metadata.version(name)}"
    return "unknown"
