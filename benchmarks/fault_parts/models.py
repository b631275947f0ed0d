"""What `rnr check` promises of models: of every architecture each use is right, or is refused.

In: a folder to write tiny checkpoints in. Out: a table, and how many cases are right, refused or
wrong in silence. Invariant: a use that raises after the check let it pass counts as wrong.

    python -m benchmarks.fault_parts.models     the whole matrix, about 3 minutes on two cores
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.fault_parts import tiny
from benchmarks.fault_parts.model_uses import USES, Place
from rnr_dist.commands.check import check_architecture
from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = {"reveal": "configs/demo.yaml", "sequences": "configs/icu_small.yaml"}
LORA = {"reveal": ("release.forget", "release.retain"), "sequences": ("methods.icu.training",)}
# The recipes whose check speaks of a use; left out: both.
NEEDS = {"embeddings": ("reveal",), "sequences": ("sequences",)}
TITLES = {
    "embeddings": "soft prompts",
    "training": "LoRA step",
    "composition": "merging",
    "sequences": "given sequences",
    "export": "export",
}


@dataclass(frozen=True)
class Case:
    """A use of a kind: `right`, `refused` with its sentence, or `wrong` with what was found."""

    kind: str
    use: str
    verdict: str
    said: str = ""


def config_of(recipe: str, place: Place, *overrides: str) -> Config:
    """A config that ships, for this model."""
    wanted = f"[{', '.join(place.kind.targets)}]"
    asked = [f"model={place.checkpoint}", f"engines.max_model_len={tiny.PLACES}"]
    asked += [f"{key}.target_modules={wanted}" for key in LORA[recipe]]
    return load_config(ROOT / CONFIGS[recipe], [*asked, *overrides])


def uses_of(kind: tiny.Kind, folder: Path) -> list[Case]:
    """Every use of a kind: what the check says of it, and whether it is so.

    What both recipes do is refused where the check of both refuses.
    """
    place = Place(kind, tiny.write(kind, folder / "base"), folder)
    refused = {recipe: refusal(recipe, place, "engines.backend=transformers") for recipe in CONFIGS}
    cases = []
    for use in USES:
        said = [refused[recipe] for recipe in NEEDS.get(use, tuple(CONFIGS))]
        if all(said):
            cases.append(Case(kind.name, use, "refused", said[0]))
            continue
        try:
            USES[use](place)
            cases.append(Case(kind.name, use, "right"))
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            cases.append(Case(kind.name, use, "wrong", told))
    return cases


def refusal(recipe: str, place: Place, *overrides: str) -> str:
    """The check's sentence, or "" where it lets the model pass."""
    config = config_of(recipe, place, *overrides)
    try:
        check_architecture(config, place.checkpoint)
    except InputError as error:
        return str(error).replace(str(place.checkpoint), "MODEL")
    return ""


def other_refusals(folder: Path) -> list[Case]:
    """What must be refused whatever the architecture; anything that passes is wrong."""
    llama, tied, opt = (
        next(kind for kind in tiny.KINDS if kind.name == name)
        for name in ("Llama", "Llama, tied head", "OPT-350m")
    )
    key, most = "release.forget.target_modules", tiny.PLACES + 1
    asked = {
        "max_model_len above the model's": (llama, "reveal", f"engines.max_model_len={most}"),
        "a norm in target_modules": (llama, "reveal", f"{key}=[q_proj, input_layernorm]"),
        "a tied head in target_modules": (tied, "reveal", f"{key}=[lm_head]"),
        "the embedding in target_modules": (llama, "reveal", f"{key}=[embed_tokens]"),
        "a layer that is not there": (llama, "reveal", "release.retain.layers=[7]"),
        "narrow embeddings on vLLM": (opt, "reveal", "engines.backend=vllm"),
    }
    cases = []
    for number, (name, (kind, recipe, override)) in enumerate(asked.items()):
        place = Place(kind, tiny.write(kind, folder / str(number)), folder)
        cases.append(_must_refuse(name, refusal(recipe, place, override)))
    place = Place(llama, tiny.write(llama, folder / "without"), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (place.checkpoint / file).unlink()
    cases.append(_must_refuse("no tokenizer", refusal("reveal", place)))
    return cases


def _must_refuse(name: str, said: str) -> Case:
    return Case(name, "check", "refused" if said else "wrong", said or "passed the check")


def table(cases: list[Case]) -> str:
    """The docs' table: a row a kind, and below it what refusals say."""
    kinds = list(dict.fromkeys(case.kind for case in cases if case.use != "check"))
    sentences: list[str] = []

    def cell(case: Case) -> str:
        if case.verdict != "refused":
            return {"right": "yes", "wrong": "**wrong**"}[case.verdict]
        if case.said not in sentences:
            sentences.append(case.said)
        return f"refused ({sentences.index(case.said) + 1})"

    lines = [f"| model | {' | '.join(TITLES[use] for use in USES)} |", "|---" * 6 + "|"]
    for kind in kinds:
        cells = [cell(case) for case in cases if case.kind == kind]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. `{said}`" for number, said in enumerate(sentences, 1))]
    lines += ["", "| what is refused besides | sentence |", "|---|---|"]
    lines += [f"| {case.kind} | `{case.said}` |" for case in cases if case.use == "check"]
    return "\n".join(lines)


def matrix(folder: Path) -> dict[str, Any]:
    """Run all of it in `folder` and print the table.

    `cases`: how many; `refused`: of these; `wrong_in_silence`: passed by the check, and wrong or an
    error.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)  # for networks so small threads only cost time
    cases: list[Case] = []
    for number, kind in enumerate(tiny.KINDS):
        found = uses_of(kind, folder / str(number))
        cases += found
        print(kind.name, *(case.verdict for case in found), file=sys.stderr, flush=True)
        for case in found:
            if case.verdict == "wrong":
                print(f"{case.kind}, {case.use}: {case.said}", file=sys.stderr, flush=True)
    cases += other_refusals(folder / "refused")
    print(table(cases), flush=True)
    return {
        "cases": len(cases),
        "wrong_in_silence": sum(case.verdict == "wrong" for case in cases),
        "refused": sum(case.verdict == "refused" for case in cases),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(matrix(Path(made))))
