"""The bad inputs, each in a process of its own, as a user would have given it.

In: a folder for rows. Out: a row a case with its fault, "" where it was refused as it should be.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.fault_parts.bad_inputs import all_cases
from benchmarks.fault_parts.cases import Case
from benchmarks.fault_parts.outcome import ACCEPTING, fault_of, rnr
from benchmarks.fault_parts.place import furnish, released_run
from benchmarks.fault_parts.rows import Row, Rows

AT_ONCE = 2


def spoilt(case: Case) -> Row:
    """What became of one case."""
    with tempfile.TemporaryDirectory(prefix="rnr-bad-") as name:
        place = Path(name)
        furnish(place)
        if case.needs_run:
            released_run(place)
        case.spoil(place)
        ended = rnr(case.command, place, case.environment, ACCEPTING)
    told = ended.told[-1][:300] if ended.told else ""
    return {"fault": fault_of(ended, case.names), "code": ended.code, "told": told}


def bad_inputs(folder: Path) -> dict[str, Any]:
    """How many of the list are not refused in one sentence, and how."""
    cases = [(case.name, lambda case=case: spoilt(case)) for case in all_cases()]
    rows = Rows(folder, "bad-inputs").measure(cases, AT_ONCE)
    accepted = [row["case"] for row in rows if row["fault"] == "accepted"]
    unnamed = [row["case"] for row in rows if row["fault"].startswith("does not name")]
    others = [row["case"] for row in rows if row["fault"]]
    return {
        "bad_inputs": len(rows),
        "bad_inputs_accepted": len(accepted),
        "bad_inputs_unnamed": len(unnamed),
        "bad_inputs_tracebacks": len(others) - len(accepted) - len(unnamed),
        "bad_inputs_not_refused": dict(Counter(row["fault"] for row in rows if row["fault"])),
    }
