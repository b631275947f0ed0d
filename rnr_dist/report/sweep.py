"""The table of a sweep: what each place reached on the tuning sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box

from rnr_dist.report.narrow import WholeTable
from rnr_dist.report.table import NO_VALUE, literal, print_notes
from rnr_dist.run.shown import shown, terminal

# What is shown of a place: heading, key, style.
SHOWN = (
    ("EL", "extraction", ".3f"),
    ("MA", "memorisation", ".3f"),
    ("PPL", "perplexity", ".1f"),
    ("pool", "pool", ".2f"),
    ("AUC", "auc", ".2f"),
    ("epochs", "epochs", "d"),
    ("violation", "violation", ".3f"),
)


def print_sweep(name: str, keys: Sequence[str], places: Sequence[Mapping[str, Any]]) -> None:
    """Print the places by their values of `keys`; a place that lost says why below."""
    table = WholeTable(
        title=shown(f"{name} on the tuning sequences"),
        caption="PPL: general text; pool: nats a token; AUC: NLL against never seen; "
        "violation: how far the best epoch is from both limits",
        box=box.HORIZONTALS,
        collapse_padding=True,
    )
    tried = [key.rpartition(".")[2] for key in keys]
    for key in (*tried, *(heading for heading, _, _ in SHOWN)):
        table.add_column(shown(key), justify="right", overflow="fold")
    for place in places:
        own = [literal(_brief(place["overrides"][key])) for key in keys]
        reached = [
            format(place[key], style) if key in place else NO_VALUE for _, key, style in SHOWN
        ]
        table.add_row(*own, *reached)
    console = terminal()
    console.print(table)
    lost = [f"{place['overrides']}: {place['lost']}" for place in places if "lost" in place]
    print_notes(lost, console)


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
