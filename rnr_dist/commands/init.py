"""`rnr init NAME`: a config to begin with, which says what its keys mean.

In: a name, and an example or a config that ships. Out: the file NAME.yaml in the working folder.
Invariant: nothing is overwritten.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from rnr_dist.config.base import file_name
from rnr_dist.config.shipped import ENDINGS, examples, shipped
from rnr_dist.errors import InputError

NAMED = re.compile(r"^name: .*$", re.MULTILINE)


def write_config(name: str, example: str) -> Path:
    """Write the example under `name`, which the config gets too; returns the file.

    Raises InputError for a name that can be none, an example that is not there, and a file that is.
    """
    plain = Path(name).stem if Path(name).suffix in ENDINGS else name
    try:
        file_name(plain)
    except ValueError as error:
        raise InputError(f"init: found the name {name!r}; {error}") from error
    known = examples() | shipped()
    if example not in known:
        raise InputError(f"--from {example}: expected one of {', '.join(known)}")
    text = known[example].read_text(encoding="utf-8")
    text = NAMED.sub(lambda _: f"name: {json.dumps(plain, ensure_ascii=False)}", text, count=1)
    path = Path(f"{plain}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(
            f"{path}: is there already and is not overwritten; expected another name"
        ) from error
    return path
