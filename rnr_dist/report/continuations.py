"""What a model says after each epoch of unlearning, as Markdown (ICU paper, Figure 5).

In: sequences and rows by epoch. Out: `continuations.md`. Invariant: texts are as private as the
data, so they go to files of the run and never to the terminal; they are shown as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnr_dist.report.table import literal
from rnr_dist.run.directory import replacing
from rnr_dist.run.shown import in_markdown
from rnr_dist.types import TokenSequence


def write_continuations(
    sequences: Sequence[TokenSequence],
    epochs: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    folder: Path,
    shown: int = 8,
) -> Path:
    """Of the first `shown` sequences prefix, truth and continuation by epoch.

    epochs: rows with `epoch` and `continuations`, one a sequence in their order. An epoch that
    changed nothing is left out.
    """
    lines = ["# Continuations by epoch", ""]
    for at, sequence in enumerate(sequences[:shown]):
        ids, t0 = sequence.token_ids, sequence.prefix_tokens
        lines += [f"## {in_markdown(f'{sequence.corpus} {sequence.id}')}", ""]
        lines += _block("prefix", tokenizer.decode(ids[:t0]))
        lines += _block("truth", tokenizer.decode(ids[t0:]))
        last = None
        for row in epochs:
            said = row["continuations"][at]
            if said != last:
                lines += _block(f"epoch {row['epoch']}" if row["epoch"] else "before", said)
            last = said
    path = folder / "continuations.md"
    with replacing(path) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _block(title: str, text: str) -> list[str]:
    """Text as an indented block, which Markdown shows as it stands."""
    inner = [f"    {literal(line)}" for line in text.splitlines() if line.strip()]
    return [f"{title}:", "", *(inner or ["    (nothing)"]), ""]
