"""`earlier/` of a run: what stages had made before they were made anew, and damaged files.

In: a run directory. Out: a free place there; where a path that is written in a moved file leads.
Invariant: no file there is taken for one of the run as it stands: its paths lead to what was moved
with it, or they are refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from rnr_dist.errors import InputError

EARLIER = "earlier"
_PLACE = re.compile(r"(?P<stage>.+?)(?P<damaged>-damaged)?-\d+")


def free_place(run: Path, name: str) -> Path:
    """A folder in the run's `earlier/` that is not there yet."""
    folder = run / EARLIER
    folder.mkdir(exist_ok=True)
    number = 0
    while (place := folder / f"{name}-{number}").exists():
        number += 1
    return place


def found_from(file: Path, run: Path, path: str) -> Path:
    """Where `path`, relative to the run, leads from a file of the run.

    In what a stage has made before, a path to the stage itself leads to what was moved with it.
    Raises InputError for a path from there to another stage that was made anew too, of which
    nobody knows whether it still is what the file means, and for one in a damaged file.
    """
    place = _place_of(file, run)
    if place is None:
        return run / path
    own, parts = _stage_of(place), Path(path).parts
    if own is None:
        raise InputError(
            f"{file}: found the path {path} in a file that was put aside because it was damaged; "
            "expected one of the run as it stands"
        )
    if parts[:1] == (own,):
        return place.joinpath(*parts[1:])
    again = [one for one in sorted(place.parent.iterdir()) if (_stage_of(one),) == parts[:1]]
    if again:
        raise InputError(
            f"{file}: found the path {path}, but {parts[0]} was made anew, then or later; expected "
            f"a path to what stands as it was, or one in {own}: it may have led to {again[-1]}"
        )
    return run / path


def _place_of(file: Path, run: Path) -> Path | None:
    """The folder in `earlier/` that a file lies in; None for one of the run as it stands."""
    parts = file.absolute().relative_to(run).parts
    return run.joinpath(*parts[:2]) if parts[0] == EARLIER and len(parts) > 2 else None


def _stage_of(place: Path) -> str | None:
    """The stage that was moved here whole; None where these are damaged files."""
    found = _PLACE.fullmatch(place.name)
    return found["stage"] if found and not found["damaged"] else None
