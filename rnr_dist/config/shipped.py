"""The configs that ship: `demo` for a name, a file that ends with .yaml for one's own.

In: a name or a path. Out: the path. Invariant: in a checkout they lie in `configs/` and nowhere
else; a wheel holds that folder, put there by setup.py. What has an ending or a folder is a path.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from rnr_dist.errors import InputError, shown

PACKAGE = Path(__file__).parents[1]
ENDINGS = (".yaml", ".yml")
STUDIES = "studies"


def shipped(folder: str = "") -> dict[str, Path]:
    """The configs that ship by their names; those of `studies` are studies."""
    inside = PACKAGE / "configs"
    place = inside if inside.is_dir() else PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted((place / folder).glob("*.yaml"))}


def examples() -> dict[str, Path]:
    """The commented configs that `rnr init` begins with, by their names."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("examples").glob("*.yaml"))}


def config_path(name: str | Path, folder: str = "") -> Path:
    """Where a config lies: `name` itself where it is a path, else that which ships under it.

    A path ends with .yaml or .yml, or names a folder; a file beside never hides one that ships.
    Raises InputError for a name under which none ships.
    """
    path = Path(name)
    if path.suffix in ENDINGS or len(path.parts) > 1:
        return path
    known = shipped(folder)
    if str(name) in known:
        return known[str(name)]
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(
        f"{shown(str(name), str)}: no config of that name ships (there are {', '.join(known)}); "
        f"expected one of them, or a path that ends with .yaml{hint}"
    )
