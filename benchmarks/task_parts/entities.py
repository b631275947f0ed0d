"""Micro F1 by type on published sets, against a scorer and readers that share no code with ours.

RNR_DATA_DIR holds wnut17/train.conll and crossner/politics_first400.json. Answers are the truth,
damaged: names lost, invented and doubled, and one answer in ten no list at all. The other side
reads the files by itself and asks scikit-learn. The last line is one JSON object.

    python benchmarks/task_parts/entities.py
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sklearn.metrics import f1_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rnr_dist.config.entities import MarkedSource
from rnr_dist.data.marked import load_marked
from rnr_dist.measures.entities import Answer, EntityMeasures

WNUT = ("person", "location", "group", "corporation", "product", "creative-work")
POLITICS = (
    *("person", "politician", "political party", "election", "location", "organization"),
    *("country", "event"),
)
Truth = dict[tuple[str, str], list[str]]  # by text and type


def of_columns(path: Path) -> Truth:
    """WNUT-17 by another way: a sentence at a time, entities by where they begin."""
    found: Truth = {}
    for block in path.read_text(encoding="utf-8").replace("\n\t\n", "\n\n").split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if line.strip()]
        if not rows:
            continue
        text = " ".join(word for word, _ in rows)
        if (text, WNUT[0]) in found:
            continue
        for kind in WNUT:
            starts = [at for at, (_, tag) in enumerate(rows) if tag == f"B-{kind}"]
            names = []
            for start in starts:
                end = start + 1
                while end < len(rows) and rows[end][1] == f"I-{kind}":
                    end += 1
                names.append(" ".join(word for word, _ in rows[start:end]))
            found[text, kind] = names
    return found


def of_conversations(path: Path) -> Truth:
    found: Truth = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        said = [turn["value"] for turn in row["conversations"]]
        kind = said[2].replace("What describes ", "").replace(" in the text?", "")
        found.setdefault((said[0][len("Text: ") :], kind), json.loads(said[3]))
    return found


def damaged(names: list[str], draw: random.Random) -> tuple[str, list[str]]:
    """(an answer, the names that it says)."""
    said = [name for name in names if draw.random() < 0.75]
    said += ["Nobody", "No One"][: draw.choice((0, 0, 0, 1, 2))]
    if draw.random() < 0.1:
        return "There is: " + ", ".join(said), []
    doubled = said + said[: draw.randrange(2)]
    return draw.choice((json.dumps, repr))(doubled), said


def errors(source: MarkedSource, types: tuple[str, ...], truth: Truth) -> Iterator[float]:
    """The difference of each type's F1."""
    texts = load_marked(source, types, "source")
    draw, answers = random.Random(0), []
    theirs: dict[str, list[tuple[bool, bool]]] = {name: [] for name in types}
    for (text, kind), gold in truth.items():
        if kind in theirs:
            answer, said = damaged(gold, draw)
            answers.append((text, kind, answer))
            theirs[kind] += [(n in gold, n in said) for n in {*gold, *said}]
    marked = {one.text: one.entities for one in texts}
    read = [
        Answer.of(text, kind, answer, marked[text.strip()][kind], "strict")
        for text, kind, answer in answers
    ]
    order = list(dict.fromkeys(text for text, _, _ in answers))
    found = EntityMeasures(types[0], types[1:]).read(read, types, order)
    for kind, pairs in theirs.items():
        expected = f1_score([true for true, _ in pairs], [said for _, said in pairs])
        ours = found[f"entities/{kind}/f1"].value
        print(f"{Path(source.source).name}  {kind:16s} {ours:.6f} {expected:.6f}")
        yield abs(ours - expected)


def published(folder: Path) -> dict[str, Any]:
    """`ner_f1_error`: the largest difference of a type's F1, over both sets; nothing where
    RNR_DATA_DIR is not set. Nothing is kept in `folder`."""
    if not (named := os.environ.get("RNR_DATA_DIR")):
        return {}
    data = Path(named)
    wnut, politics = data / "wnut17/train.conll", data / "crossner/politics_first400.json"
    found = [
        *errors(MarkedSource(source=str(wnut), format="conll"), WNUT, of_columns(wnut)),
        *errors(
            MarkedSource(source=str(politics), format="universal_ner"),
            POLITICS,
            of_conversations(politics),
        ),
    ]
    return {"ner_f1_error": max(found), "ner_types": len(found)}


if __name__ == "__main__":
    print(json.dumps(published(Path())))
