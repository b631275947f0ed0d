"""The frame of a benchmark of parts: those that were asked for are measured, and told in JSON.

In: the words of a command line, a registry of parts. Out: one JSON object on the last line of the
output; a headline that no part brought is null. Invariant: nothing is measured where a word names
no part, and a part's module is loaded when that part is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

# Takes the place where it may keep what it makes; gives figures by their names in the JSON object.
Part = Callable[[Any], dict[str, Any]]
Parts = Mapping[str, Part]


def later(module: str, function: str) -> Part:
    """A part that is FUNCTION of `benchmarks.MODULE`, which is loaded when the part is measured."""

    def part(place: Any) -> dict[str, Any]:
        found = importlib.import_module(f"benchmarks.{module}")
        measured: dict[str, Any] = getattr(found, function)(place)
        return measured

    return part


def parser_of(description: str, parts: Parts) -> argparse.ArgumentParser:
    """A parser that takes names of parts; a benchmark adds its own options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    return parser


def asked(
    parser: argparse.ArgumentParser, parts: Parts, words: Sequence[str] | None
) -> argparse.Namespace:
    """What the words say (None: those of the command line), with `parts` as the names to measure,
    in the registry's order: all where none is named. Exit code 2 where one is unknown."""
    given = parser.parse_args(words)
    if unknown := set(given.parts) - set(parts):
        parser.error(f"found {', '.join(sorted(unknown))}; expected some of {', '.join(parts)}")
    given.parts = [name for name in parts if name in (given.parts or parts)]
    return given


@dataclass(frozen=True)
class Benchmark:
    """A command whose parts take the folder that `--folder` names."""

    name: str
    """Of its folder in the user's cache, too."""
    description: str
    folder_of: str
    """What the folder holds, for `--help`."""
    parts: Parts
    headlines: Sequence[str]
    follows: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: {}
    """Headlines that follow from what several parts found."""

    def main(self, words: Sequence[str] | None = None) -> None:
        parser = parser_of(self.description, self.parts)
        cache = Path(platformdirs.user_cache_dir("rnr_dist")) / "benchmarks" / self.name
        told = f"of {self.folder_of} ({cache})"
        parser.add_argument("--folder", type=Path, default=cache, help=told)
        given = asked(parser, self.parts, words)
        folder = given.folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {}
        for name in given.parts:
            found |= self.parts[name](folder)
        print(json.dumps({**dict.fromkeys(self.headlines), **self.follows(found), **found}))
