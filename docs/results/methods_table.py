"""The tables of docs/baselines.md from `toxicity_table/`: python docs/results/methods_table.py

Reads what `benchmarks/table_toxicity.py` wrote and prints Markdown: a table a seed.
"""

from __future__ import annotations

import json
from pathlib import Path

from make_table import COLUMNS, cell

from rnr_dist.report.summary import read_summary

SHOWN = ("toxic", "second judge", "PPL in", "PPL out", "length", "distinct-2", "base NLL")
GIVEN = ("toxic, minus R&R's", "tokens", "candidates", "chosen", "rules")
TOXIC = COLUMNS["toxic"]


def table(path: Path) -> str:
    content, summary = json.loads(path.read_text()), read_summary(path)
    lines = [
        f"### Seed {content['seed']}: {content['minutes']:.0f} min, {content['machine']}",
        "",
        f"| method | {' | '.join([*SHOWN, *GIVEN])} |",
        "|---" * (1 + len(SHOWN) + len(GIVEN)) + "|",
    ]
    for row in summary.rows:
        cells = [cell(row.scores[COLUMNS[name]]) for name in SHOWN]
        versus, notes = row.against_own.get(TOXIC), row.notes
        more = ""
        if versus:
            low, high = versus.ci95
            more = f"{versus.value:+.3f} ({low:+.3f} … {high:+.3f})"
        missed = f"missed: {', '.join(notes.get('broken', []))}"
        met = {None: "", True: "met", False: missed}
        given = [str(notes.get(key) or "") for key in ("tokens", "candidates", "candidate")]
        cells += [more, *given, met[notes.get("feasible")]]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {note}" for note in content["notes"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for found in sorted((Path(__file__).parent / "toxicity_table").glob("*.json")):
        print(table(found))
