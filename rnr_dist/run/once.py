"""What a stage reads once: kept in a file with all that it was read from.

In: a path, its inputs, a function. Out: the function's value. Invariant: a file that came from
other inputs is read anew, so that nothing of an earlier config is taken for what stands now.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnr_dist.run.directory import read_json, write_json
from rnr_dist.types import digest


def once(path: Path, inputs: Any, find: Callable[[], Any]) -> Any:
    """The JSON value in `path`, found by `find` where it is not there or came from other inputs."""
    fingerprint = digest(inputs)
    if not (path.exists() and read_json(path).get("fingerprint") == fingerprint):
        write_json(path, {"fingerprint": fingerprint, "content": find()})
    return read_json(path)["content"]
