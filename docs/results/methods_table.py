"""The tables of docs/baselines.md from `toxicity_table/`: python docs/results/methods_table.py

Reads what `benchmarks/table_toxicity.py` wrote and prints Markdown: a table a seed.
"""

from __future__ import annotations

import json
from pathlib import Path

from make_table import COLUMNS, cell

SHOWN = ("toxic", "second judge", "PPL in", "PPL out", "length", "distinct-2", "base NLL")
GIVEN = ("toxic, minus R&R's", "tokens", "candidates", "chosen", "rules")
TOXIC = COLUMNS["toxic"]


def table(path: Path) -> str:
    content = json.loads(path.read_text())
    lines = [
        f"### Seed {content['seed']}: {content['minutes']:.0f} min, {content['machine']}",
        "",
        f"| method | {' | '.join([*SHOWN, *GIVEN])} |",
        "|---" * (1 + len(SHOWN) + len(GIVEN)) + "|",
    ]
    for row in content["rows"]:
        cells = [cell(row["scores"][COLUMNS[name]]) for name in SHOWN]
        versus = row["against_ours"].get(TOXIC)
        more = ""
        if versus:
            low, high = versus["ci95"]
            more = f"{versus['difference']:+.3f} ({low:+.3f} … {high:+.3f})"
        met = {None: "", True: "met", False: f"missed: {', '.join(row['broken'])}"}
        given = [str(row[key] or "") for key in ("tokens", "candidates", "candidate")]
        cells += [more, *given, met[row["feasible"]]]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {note}" for note in content["notes"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for found in sorted((Path(__file__).parent / "toxicity_table").glob("*.json")):
        print(table(found))
