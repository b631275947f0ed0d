"""The report of an ICU run: one table, curves by epoch, continuations by epoch, one JSON file.

In: judgements and epoch rows. Out: files in the stage's folder, and the table on the terminal.
Invariant: the table shows where a method loses too; continuations are masked as the data is
private: they go to files of the run only, never to the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from rnr_dist.config.icu import BASE, CONTROL, MEMORISED, IcuConfig
from rnr_dist.icu.forgotten import Unlearned
from rnr_dist.icu.judging import Judgement
from rnr_dist.icu.launch import EpochRun
from rnr_dist.report.epochs import epochs_figure
from rnr_dist.report.grading import SCALE
from rnr_dist.report.summary import package_versions, plain
from rnr_dist.report.table import literal
from rnr_dist.run.codec import to_plain
from rnr_dist.run.directory import RunDir, read, read_json, replacing, write_json
from rnr_dist.stats import interval, paired_ratio
from rnr_dist.train.worker import SUMMARY
from rnr_dist.types import TokenSequence

# Column, measure, style, whether the change against the memorised model is told. Two tables, so
# that 80 columns hold them.
RECALLED = (
    ("EL", "extraction/el", ".1%", False),
    ("EL, t≥t0", "extraction/el_t0", ".1%", False),
    ("MA, t≥t0", "extraction/ma_t0", ".1%", False),
    ("BERT", "extraction/bertscore", ".2f", False),
    ("short prefixes", "extraction/el_short", ".1%", False),
    ("sampled", "extraction/sampled", ".1%", False),
)
KEPT = (
    ("entropy", "output/entropy", ".2f", True),
    ("tokens", "output/length", ".1f", True),
    ("pool NLL", "pool/nll", ".2f", True),
    ("perplexity", "perplexity/general", ".1f", True),
    ("choices", "problems/choices", ".0%", False),
    ("dialogue F1", "problems/dialogues", ".1%", False),
)
# What a sweep shows of a place: heading, key, style.
SWEPT = (
    ("EL", "extraction", ".3f"),
    ("MA", "memorisation", ".3f"),
    ("PPL", "perplexity", ".1f"),
    ("pool", "pool", ".2f"),
    ("AUC", "auc", ".2f"),
    ("epochs", "epochs", "d"),
    ("violation", "violation", ".3f"),
)
# Which measures the control's interval must hold for the result to pass as one that never saw.
HIDDEN = ("extraction/sampled", "extraction/el_short")


def write_report(
    config: IcuConfig, run: RunDir, names: Sequence[str], judged: Path, path: Path
) -> list[Path]:
    """Write `path` and the figure beside it, print the table. names: of `judged`'s rows, in order.

    Returns what was written.
    """
    found = {name: read(judged / f"{name}.json", Judgement) for name in names}
    rows = [_row(name, found, run) for name in names]
    content = {
        "config": config.model_dump(mode="json"),
        "preset": config.preset,
        "versions": package_versions(),
        "limits": to_plain(read(run.path / "icu" / "result.json", Unlearned).limits),
        "rows": rows,
    }
    write_json(path, plain(content))
    curves = {
        row["name"]: row["epochs"] for row in rows if row["epochs"] and row["name"] != MEMORISED
    }
    picture = path.with_name("epochs.png")
    epochs_figure(curves, content["limits"], picture)
    console = Console()
    console.print(
        _table(
            rows,
            recalled_columns(config),
            "What is still recalled",
            f"preset {config.preset}; training stops by {stopping_sentence(config)}; it never saw "
            f"{_unseen(config)}sampled and AUC (of NLL against never-seen sequences)",
            ("AUC", [f"{auc:.2f}\n{low:.2f}…{high:.2f}" for auc, low, high in _aucs(rows)]),
        )
    )
    console.print(
        _table(
            rows,
            KEPT,
            "What was kept",
            "change against the memorised model; best epoch, * where a limit was missed",
            ("epoch", [_best(row) for row in rows]),
        )
    )
    for note in _notes(rows):
        console.print(literal(f"Note: {note}"))
    return [path, picture]


def stopping_sentence(config: IcuConfig) -> str:
    """What unlearning ends by: `EL_10 over t≥t0 and MA over t≥t0`."""
    over = {"continuation": "t≥t0", "all": "all t"}
    stop = config.stopping
    return (
        f"EL_{config.task.n} over {over[stop.extraction_over]} and MA over "
        f"{over[stop.memorisation_over]}"
    )


def recalled_columns(config: IcuConfig) -> tuple[tuple[str, str, str, bool], ...]:
    """RECALLED with the MA that stopping reads."""
    if config.stopping.memorisation_over == "continuation":
        return RECALLED
    whole = ("MA", "extraction/ma", ".1%", False)
    return tuple(whole if c[1] == "extraction/ma_t0" else c for c in RECALLED)


def _unseen(config: IcuConfig) -> str:
    """Short prefixes are unseen only where stopping begins at t0."""
    return "short prefixes, " if config.stopping.extraction_over == "continuation" else ""


def _row(name: str, found: Mapping[str, Judgement], run: RunDir) -> dict[str, Any]:
    own, base = found[name], found[MEMORISED]
    scores = {}
    for key, measure in own.measures.items():
        ratio, bounds = paired_ratio(measure, base.measures[key])
        scores[key] = {
            "value": measure.value,
            "ci95": interval(measure),
            "vs_memorised": {"ratio": ratio, "ci95": bounds},
        }
    row: dict[str, Any] = {"name": name, "scores": scores, "auc": own.auc, "epochs": []}
    control = found.get(CONTROL)
    if control and name not in (BASE, CONTROL):
        row["like_control"] = {
            key: own.measures[key].value <= interval(control.measures[key])[1] for key in HIDDEN
        }
        row["like_control"]["auc/nll"] = control.auc[1] <= own.auc[0] <= control.auc[2]
    for stage in ("icu", "baselines"):
        summary = run.path / stage / "models" / name / SUMMARY
        choice = run.path / stage / f"{name}.json"
        if summary.exists() and choice.exists():
            trained = read_json(summary)
            row["epochs"] = [_epoch(epoch) for epoch in trained["epochs"]]
            row |= {key: trained[key] for key in ("best", "tokens", "seconds", "reading_seconds")}
            row["met"] = trained["epochs"][trained["best"]]["violation"] == 0
            row["tuning"] = read_json(choice)
    return row


def _epoch(row: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch without its texts: averages, terms, how many left and by which measure."""
    figures = ("bertscore", "bleu", "extraction", "memorisation")
    means = {key: float(np.mean(row[key])) for key in figures}
    kept = ("epoch", "terms", "trained_on", "left_by", "violation", "seconds", "reading_seconds")
    return {**means, **{key: row[key] for key in kept}, "forgotten": sum(row["forgotten"])}


def _aucs(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    return [row["auc"] for row in rows]


def _best(row: Mapping[str, Any]) -> str:
    return f"{row['best']}{'' if row['met'] else '*'}" if row["epochs"] else ""


def _table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[tuple[str, str, str, bool]],
    title: str,
    caption: str,
    last: tuple[str, Sequence[str]],
) -> Table:
    """One row a model; `last` is the title and the cells of a column of its own."""
    table = Table(title=title, caption=caption, box=box.HORIZONTALS, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    for name in (*(column[0] for column in columns), last[0]):
        table.add_column(name, justify="right", overflow="fold")
    for row, end in zip(rows, last[1], strict=True):
        cells = []
        for _, measure, style, compared in columns:
            score = row["scores"].get(measure)
            if score is None:  # left out by the config
                cells.append("–")
                continue
            cell = format(score["value"], style)
            if compared and row["name"] != MEMORISED:
                cell += f"\n{score['vs_memorised']['ratio'] - 1:+.0%}"
            cells.append(cell)
        table.add_row(literal(row["name"]), *cells, end)
    return table


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    for row in rows:
        if row["epochs"] and not row["met"]:
            last = row["epochs"][row["best"]]
            notes.append(
                f"{row['name']} missed a limit: mean EL {last['extraction']:.3f}, MA "
                f"{last['memorisation']:.3f} in its best epoch, {row['best']}"
            )
        told = [key for key, like in row.get("like_control", {}).items() if not like]
        if row["epochs"] and told:
            notes.append(f"{row['name']} is told from the control by {', '.join(told)}")
    return notes


def sweep_table(name: str, keys: Sequence[str], places: Sequence[Mapping[str, Any]]) -> None:
    """Print what each place of a sweep reached on the tuning sequences."""
    table = Table(
        title=f"{name} on the tuning sequences",
        caption="PPL: general text; pool: nats a token; AUC: NLL against never seen; "
        "violation: how far the best epoch is from both limits",
        box=box.HORIZONTALS,
    )
    tried = [key.rpartition(".")[2] for key in keys]
    for key in (*tried, *(heading for heading, _, _ in SWEPT)):
        table.add_column(key, justify="right", overflow="fold")
    for place in places:
        own = [_brief(place["overrides"][key]) for key in keys]
        reached = [format(place[key], style) if key in place else "–" for _, key, style in SWEPT]
        table.add_row(*own, *reached)
    Console().print(table)
    for place in places:
        if "lost" in place:
            Console().print(literal(f"Note: {place['overrides']}: {place['lost']}"))


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def scale_lines() -> list[str]:
    """The scale of the graders, a line a score."""
    return [f"  {score}  {meaning}" for score, meaning in SCALE.items()]


def grades_table(content: Mapping[str, Any]) -> None:
    """Print what the graders gave, best model first."""
    agreement = content["agreement"]
    told = f"; they agree with r = {agreement:.2f}" if agreement is not None else ""
    table = Table(
        title="Graded continuations, 1 to 8",
        caption=f"{content['graders']} graders{told}; {content['missing']} rows without a score",
        box=box.HORIZONTALS,
    )
    for name in ("model", "mean", "95 %", "of 10", "scores"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for name, row in sorted(content["models"].items(), key=lambda pair: -pair[1]["mean"]):
        low, high = row["ci95"]
        cells = [f"{row['mean']:.2f}", f"{low:.2f}…{high:.2f}", f"{row['of_10']:.2f}"]
        table.add_row(literal(name), *cells, str(row["scores"]))
    Console().print(table)


def write_continuations(
    forget: Sequence[TokenSequence],
    result: EpochRun,
    tokenizer: Any,
    config: IcuConfig,
    folder: Path,
    shown: int = 8,
) -> Path:
    """`continuations.md`: of some sequences prefix, truth and continuation by epoch (Figure 5).

    An epoch that changed nothing is left out.
    """
    t0 = config.task.prefix_tokens
    lines = ["# Continuations by epoch", ""]
    for at, sequence in enumerate(forget[:shown]):
        ids = sequence.token_ids
        lines += [f"## {sequence.corpus} {sequence.id}", ""]
        lines += [*_block("prefix", tokenizer.decode(ids[:t0]))]
        lines += [*_block("truth", tokenizer.decode(ids[t0:]))]
        last = None
        for row in result.epochs:
            said = row["continuations"][at]
            if said != last:
                name = "before" if row["epoch"] == 0 else f"epoch {row['epoch']}"
                lines += _block(name, said)
            last = said
    path = folder / "continuations.md"
    with replacing(path) as aside:
        aside.write_text("\n".join(lines) + "\n")
    return path


def _block(title: str, text: str) -> list[str]:
    """Text as an indented block, which Markdown shows as it stands."""
    inner = [f"    {line}" for line in literal_lines(text)]
    return [f"{title}:", "", *(inner or ["    (nothing)"]), ""]


def literal_lines(text: str) -> list[str]:
    return [str(literal(line)) for line in text.splitlines() if line.strip()]
