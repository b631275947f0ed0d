"""The fuzzer: mutants of valid configs and data that are bad by what was done to them.

    python -m benchmarks.fault_parts.fuzz > benchmarks/fault_parts/fuzzed.jsonl

In: the furnished place and a seed. Out: cases. Invariant: a mutation is one of those after which
no right reading is left, whatever place it hits, and the same seed gives the same list.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks.fault_parts.cases import Case, Edit
from benchmarks.fault_parts.place import furnish

SEED, COUNT = 21, 40
CONFIGS = {"config.yaml": "config.yaml", "icu.yaml": "icu.yaml"}
# Data and model files, and the config that reads them.
ROWS = {
    "challenging.jsonl": "config.yaml",
    "choices.jsonl": "icu.yaml",
    "forget.jsonl": "icu.yaml",
    "pool.jsonl": "icu.yaml",
}
TABLES = {"ordinary.csv": "config.yaml", "tuning.csv": "icu.yaml"}
MODEL = ("model/config.json", "model/tokenizer.json", "model/model.safetensors")
# Whole numbers that say how much of something there is; those that bound from above are left out,
# since a bound may be as large as one likes.
AMOUNTS = (
    *("budget", "arms", "hidden", "training_steps", "batch_size", "window", "stride", "trials"),
    *("cpus_each", "prefix_tokens", "repeats", "seed"),
)
NUMBERS = (*AMOUNTS, "learning_rate", "kv_cache_gib", "alpha", "temperature")
ODD = "\u0430\u0435\u200b\u00a0\u0301"  # look like an `a`, an `e`, or like nothing


@dataclass
class Place:
    """The valid files as bytes, and the one source of chance."""

    folder: Path
    draw: random.Random

    def text(self, file: str) -> str:
        return (self.folder / file).read_text(encoding="utf-8")

    def line(self, file: str, pattern: str) -> re.Match[str]:
        """One of the places in a file that a pattern fits, drawn."""
        found = list(re.finditer(pattern, self.text(file), re.MULTILINE))
        return self.draw.choice(found)


def _bytes(text: str) -> str:
    """`text` in UTF-8, as an edit holds bytes."""
    return text.encode().decode("latin-1")


def _case(file: str, config: str, why: str, edit: Edit, *names: str) -> Case:
    return Case("", f"{file}: {why}", ("check", config), (edit,), names=names or (file,))


def doubled_key(place: Place) -> Case:
    """A key of a config stands twice, with all that is below it."""
    file = place.draw.choice(list(CONFIGS))
    lines = place.text(file).splitlines(keepends=True)
    heads = [n for n, line in enumerate(lines) if re.match(r" *(- )?\w+:", line)]
    first = place.draw.choice([n for n in heads if "- " not in lines[n]])
    depth = len(lines[first]) - len(lines[first].lstrip())
    end = first + 1
    while end < len(lines) and (
        len(lines[end]) - len(lines[end].lstrip()) > depth
        or (lines[end].lstrip().startswith("- ") and lines[end].startswith(" " * depth))
    ):
        end += 1
    key = lines[first].strip().partition(":")[0]
    at = len("".join(lines[:end]))
    edit = Edit(file, "".join(lines[first:end]), at, 0)
    return _case(file, file, f"the key {key} stands twice", edit, key)


def misspelt_key(place: Place) -> Case:
    """A key that no schema knows: with a letter too many, which may not even be seen."""
    file = place.draw.choice(list(CONFIGS))
    found = place.line(file, r"^ *(\w{4,}):")
    at = place.draw.randint(found.start(1) + 1, found.end(1))
    odd = place.draw.choice(ODD + "xq")
    edit = Edit(file, _bytes(odd), at, 0)
    return _case(file, file, f"{found[1]} with {odd!a} in it", edit, file)


def other_type(place: Place) -> Case:
    """A number that became a text, a list or a mapping."""
    file = place.draw.choice(list(CONFIGS))
    found = place.line(file, r"^ *(\w+): ([\d.]+)$")
    value = place.draw.choice(["many", f"[{found[2]}]", f"{{a: {found[2]}}}", "true", "2001-01-01"])
    edit = Edit(file, value, found.start(2), len(found[2]))
    return _case(file, file, f"{found[1]} is {value}", edit, found[1])


def huge_number(place: Place) -> Case:
    """A number that nothing can have."""
    file = place.draw.choice(list(CONFIGS))
    found = place.line(file, rf"^ *({'|'.join(NUMBERS)}): ([\d.]+)$")
    values = ["-1", ".nan", ".inf", "1e400", "-.inf"]
    values += ["1" + "0" * 30, "1e18"] if found[1] in AMOUNTS else []
    value = place.draw.choice(values)
    edit = Edit(file, value, found.start(2), len(found[2]))
    return _case(file, file, f"{found[1]} is {value}", edit, found[1])


def broken_yaml(place: Place) -> Case:
    """A config that is cut, or has a byte in it that no YAML may have."""
    file = place.draw.choice(list(CONFIGS))
    text = place.text(file)
    while True:
        at = place.draw.randrange(len(text))
        edit = place.draw.choice(
            [
                Edit(file, "", at, None),
                Edit(file, place.draw.choice("\x00\x01\x07\xff\xc3"), at, 1),
                Edit(file, place.draw.choice("{[\"'&*\t"), at, 0),
            ]
        )
        if _no_mapping(text, edit):
            break
    return _case(file, file, f"broken at byte {at}", edit)


def _no_mapping(text: str, edit: Edit) -> bool:
    """Whether PyYAML alone already says that it is no YAML."""
    content = text.encode()
    end = len(content) if edit.remove is None else edit.at + edit.remove
    content = content[: edit.at] + edit.insert.encode("latin-1") + content[end:]
    try:
        return not isinstance(yaml.safe_load(content.decode()), dict)
    except (yaml.YAMLError, UnicodeDecodeError):
        return True


def broken_row(place: Place) -> Case:
    """A row of JSON lines that is cut, or is not what a row is."""
    file = place.draw.choice(list(ROWS))
    rows = place.text(file).splitlines()
    number = place.draw.randrange(len(rows))
    row, at = rows[number], sum(len(one) + 1 for one in rows[:number])
    inside = place.draw.randrange(1, len(row))
    field = place.draw.choice(list(json.loads(row)))
    fields = json.loads(row)
    changes = {
        "cut": row[:inside],
        "with NUL in it": row[:inside] + "\x00" + row[inside:],
        "no UTF-8": row[:inside] + place.draw.choice("\xff\xc3\xfe") + row[inside:],
        f"with {field} twice": f'{row[:-1]}, "{field}": {json.dumps(fields[field])}}}',
        f"with {field} null": json.dumps({**fields, field: None}),
        f"with a mapping as {field}": json.dumps({**fields, field: {"a": [1]}}),
        "with a number of 5,000 digits": f'{row[:-1]}, "number": {"9" * 5000}}}',
        "nested 20,000 deep": f'{row[:-1]}, "deep": {"[" * 20_000}{"]" * 20_000}}}',
        "a list": json.dumps([row]),
    }
    kind = place.draw.choice(list(changes))
    edit = Edit(file, changes[kind], at, len(row))
    unread = kind in ("no UTF-8", "with NUL in it")  # no text, so it has no rows either
    told = () if unread else (f"row {number + 1}",)
    return _case(file, ROWS[file], f"row {number + 1} is {kind}", edit, file, *told)


def broken_table(place: Place) -> Case:
    """A CSV whose rows do not fit its header, or whose bytes are no text."""
    file = place.draw.choice(list(TABLES))
    found = place.line(file, r"^(\w+,)?w\d.*$")
    inside = place.draw.randrange(found.start() + 4, found.end())
    odd = place.draw.choice([",", ',"', "\xff", "\xc3", ",,"])
    return _case(file, TABLES[file], f"{odd!a} at byte {inside}", Edit(file, odd, inside, 0))


def broken_parquet(place: Place) -> Case:
    """A Parquet file whose end, where its schema stands, is cut, flipped or gone."""
    file = "inside.parquet"
    edit = place.draw.choice(
        [
            Edit(file, "", -place.draw.randint(1, 400), None),
            Edit(file, "\xff\xff\xff\x7f", -8, 4),  # a footer longer than the file
            Edit(file, "\x00" * place.draw.randint(20, 60), -300, place.draw.randint(20, 60)),
            Edit(file, "", 0, place.draw.randint(1, 200)),
            Edit(file, "", 0, None),
        ]
    )
    return _case(file, "config.yaml", f"from byte {edit.at}: damaged", edit)


def broken_model(place: Place) -> Case:
    """A checkpoint's file that is cut, or has a byte in it that belongs to no JSON."""
    file = place.draw.choice(MODEL)
    size = (place.folder / file).stat().st_size
    if file.endswith(".safetensors"):
        kinds = [
            Edit(file, "", place.draw.randrange(1, size), None),
            Edit(file, "\x7f" * 4, place.draw.randrange(4, 8), 4),  # the header's length
            Edit(file, "", 0, None),
        ]
    else:
        at = place.draw.randrange(1, size - 2)
        kinds = [Edit(file, "", at, None), Edit(file, "\xff", at, 1), Edit(file, "", 0, None)]
    edit = place.draw.choice(kinds)
    return _case(file, "config.yaml", f"damaged at byte {edit.at}", edit, "model")


MUTATIONS: tuple[Callable[[Place], Case], ...] = (
    *(doubled_key, other_type, huge_number, broken_row, misspelt_key, broken_model),
    *(doubled_key, huge_number, broken_row, broken_yaml, broken_table, broken_parquet),
)


def fuzzed(seed: int = SEED, count: int = COUNT) -> list[Case]:
    """`count` cases, mutations in turn; what was drawn before is drawn anew."""
    found: list[Case] = []
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name))
        place = Place(Path(name), random.Random(seed))
        while len(found) < count:
            mutation = MUTATIONS[len(found) % len(MUTATIONS)]
            case = mutation(place)
            if case.edits not in [one.edits for one in found]:
                title = f"{len(found):02d} {mutation.__name__.replace('_', ' ')}"
                found.append(replace(case, name=title))
    return found


if __name__ == "__main__":
    for one in fuzzed():
        print(json.dumps(one.plain(), ensure_ascii=True))
