"""The tables of docs/icu.md from `icu_table/`: python docs/results/icu_tables.py

Reads what `benchmarks/table_icu.py` wrote and prints Markdown: a table a seed, and one for each
place of `icu_rates/`, which `benchmarks/rates_icu.py` wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECALLED = {
    "EL": "extraction/el_t0",
    "MA": "extraction/ma_t0",
    "BERT": "extraction/bertscore",
    "short prefixes": "extraction/el_short",
    "sampled": "extraction/sampled",
}
KEPT = {"entropy": "output/entropy", "pool NLL": "pool/nll", "perplexity": "perplexity/general"}
PROBLEMS = {"choices": "problems/choices", "dialogue F1": "problems/dialogues"}


def table(path: Path) -> str:
    content = json.loads(path.read_text())
    limits = content["limits"]
    rates = content.get("rates", {})
    told = "".join(f", {name} {rate:g}" for name, rate in rates.items())
    columns = ["model", *RECALLED, "AUC", *KEPT, *PROBLEMS, "epoch", "tokens", "setting"]
    lines = [
        f"### Seed {content['seed']}{told}: {content['minutes']:.0f} min, {content['machine']}",
        "",
        f"Limits: EL {limits['extraction']:.3f}, MA {limits['memorisation']:.3f}. EL and MA are "
        "over t from t0 on; changes are against the memorised model.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(line(row) for row in content["rows"] if not rates or row["name"] in rates),
        "",
    ]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    scores = row["scores"]
    recalled = [f"{scores[key]['value']:.3f}" for key in RECALLED.values()]
    low, high = row["auc"][1:]
    kept = [f"{scores[key]['vs_memorised']['ratio'] - 1:+.1%}" for key in KEPT.values()]
    problems = [f"{scores[key]['value']:.1%}" for key in PROBLEMS.values()]
    trained = [""] * 3
    if row["epochs"]:
        chosen = row.get("tuning", {}).get("chosen", {})
        told = ", ".join(f"{key} {value:g}" for key, value in chosen.items())
        trained = [f"{row['best']}{'' if row['met'] else '*'}", str(row["tokens"]), told]
    auc = f"{row['auc'][0]:.2f} ({low:.2f} … {high:.2f})"
    return f"| {row['name']} | " + " | ".join([*recalled, auc, *kept, *problems, *trained]) + " |"


if __name__ == "__main__":
    for folder in ("icu_table", "icu_rates"):
        for found in sorted((Path(__file__).parent / folder).glob("*.json")):
            print(table(found))
