"""What running costs: figures of single parts, each a module of `operate_parts`.

    python benchmarks/operate.py            all parts
    python benchmarks/operate.py memory     some

The last line is one JSON object with the figures of the parts that ran.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

PARTS = sorted(path.stem for path in (Path(__file__).parent / "operate_parts").glob("[a-z]*.py"))


def main() -> None:
    wanted = sys.argv[1:] or PARTS
    if unknown := set(wanted) - set(PARTS):
        sys.exit(
            f"operate: found {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}"
        )
    figures = {}
    for name in wanted:
        figures |= importlib.import_module(f"operate_parts.{name}").measure()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
