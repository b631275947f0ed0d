"""Which setting of a method is taken: each place of its grid unlearns the tuning sequences.

In: a method's grid. Out: the chosen place, and what each reached. Invariant: the forget sequences
play no part, and every method has as many places as its config says, told beside the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.config_icu import IcuConfig, IcuMethodName, Unlearning
from rnr_dist.evaluate.perplexity import perplexity, windows
from rnr_dist.icu.data import IcuData
from rnr_dist.machine import Machine
from rnr_dist.report.progress import say
from rnr_dist.run_dir import read_json, write_json


def choose(
    name: IcuMethodName,
    method: Unlearning,
    config: IcuConfig,
    data: IcuData,
    machine: Machine,
    forget: Callable[[str, Sequence[Any], Any], Any],
    folder: Path,
) -> dict[str, Any]:
    """`{"chosen": overrides, "places": [...]}`.

    Among places that met both limits the lowest perplexity on general text; none did: the least
    violation. A grid of one place is taken as it is.
    """
    if len(method.grid) == 1:
        return {"chosen": method.grid[0], "places": []}
    asked = list(windows(data.general, machine.tokenizer, config.perplexity))
    places = []
    for number, overrides in enumerate(method.grid):
        path = folder / "tuning" / f"{name}-{number}.json"
        if not path.exists():
            result = forget(f"{name}-tuning-{number}", data.tuning, method.trained_with(overrides))
            best = result.epochs[result.best]
            fluent = perplexity(machine.pool.run(result.model, asked)).value
            place = {
                "overrides": overrides,
                "violation": best["violation"],
                "extraction": float(np.mean(best["extraction"])),
                "memorisation": float(np.mean(best["memorisation"])),
                "epochs": result.best,
                "perplexity": fluent,
            }
            write_json(path, place)
            told = f"violation {place['violation']:.2f}, perplexity {fluent:.1f}"
            say(f"{name} {json.dumps(overrides)}: {told}")
            if method.training.parameters == "full":
                # As large as the model, and read for the last time.
                for file in Path(result.model.checkpoint).glob("*.safetensors"):
                    file.unlink()
        places.append(read_json(path))
    winner = min(places, key=lambda place: (place["violation"], place["perplexity"]))
    return {"chosen": winner["overrides"], "places": places}
