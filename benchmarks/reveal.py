"""What a search costs beside the generators' time, and that it loses nothing.

Each part runs in a process of its own and prints its figures; the last line is one JSON object.

    python benchmarks/reveal.py                 all parts, about 15 minutes on two cores
    python benchmarks/reveal.py choice scoring  some of them
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = Path(__file__).parent / "reveal_parts"


def run(script: str, *arguments: object) -> dict[str, float]:
    """The figures that a part prints on its last line."""
    command = [sys.executable, str(PARTS / f"{script}.py"), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(script, *arguments, json.dumps(found), flush=True)
    return found


def choice() -> dict[str, float]:
    """Choosing among 10,000 arms; the worse of both hidden sizes."""
    both = [run("choice", d) for d in (576, 4096)]
    return {
        "first_choice_speedup": min(found["first_choice_speedup"] for found in both),
        "lazy_choice_speedup": min(found["lazy_choice_speedup"] for found in both),
        "choice_difference": max(found["largest_difference"] for found in both),
        "choice_memory": max(found["memory_to_float64_table"] for found in both),
    }


def scoring() -> dict[str, float]:
    return run("scoring")


def speed() -> dict[str, float]:
    """The whole search on the real model, and one engine killed."""
    with tempfile.TemporaryDirectory() as name:
        ours = run("search_speed", "ours", name)
        theirs = run("search_speed", "instinct", name)
        killed = run("search_speed", "killed", name)
    return {
        "search_speedup": ours["pulls_a_minute"] / theirs["pulls_a_minute"],
        "pulls_a_minute": ours["pulls_a_minute"],
        **{f"real_{key}": value for key, value in killed.items()},
    }


def efficiency() -> dict[str, float]:
    """Share of the list-scheduling optimum, by number of generators."""
    sizes = {1: 24, 4: 80, 16: 320, 64: 1000}
    return {
        f"efficiency_{machines}": run("simulated", "efficiency", machines, pulls)["efficiency"]
        for machines, pulls in sizes.items()
    }


def kills() -> dict[str, float]:
    """A random generator killed every 5 s."""
    return {f"simulated_{key}": found for key, found in run("simulated", "kills", 16, 400).items()}


def bandit() -> dict[str, float]:
    return run("replay", 200, 20)


ALL = {part.__name__: part for part in (choice, scoring, efficiency, kills, speed, bandit)}


def main() -> None:
    figures: dict[str, float] = {}
    for name in sys.argv[1:] or ALL:
        figures |= ALL[name]()
    # Both kill tests count: with pretended engines, and with a real one.
    lost = [figures[key] for key in ("simulated_lost_pulls", "real_lost_pulls") if key in figures]
    if lost:
        figures["lost_pulls"] = sum(lost)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
