"""Wall time, peak memory and machine of each stage.

Invariant: memory is that of this process and all its descendants (Ray's workers and the engines);
the pages that they share count once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from rnr_dist.run.precision import machine_name
from rnr_dist.run.repeated import repeated

SAMPLE_SECONDS = 5.0


@dataclass
class Meter:
    """Collects one record a stage: name, wall_seconds, peak_memory_gib, machine."""

    stages: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        peak = [0.0]

        def look() -> None:
            peak[0] = max(peak[0], resident_gib())

        began = time.monotonic()
        try:
            with repeated(look, SAMPLE_SECONDS, "stage's memory"):
                yield
        finally:
            self.stages.append(
                {
                    "name": name,
                    "wall_seconds": round(time.monotonic() - began, 1),
                    "peak_memory_gib": round(peak[0], 2),
                    "machine": machine_name(),
                }
            )


def resident_gib() -> float:
    """Private resident memory of this process tree and the largest shared part in it, GiB.

    Exact proportional sizes cost the kernel a walk over all pages: 14 % of a core for two engines.
    """
    own = psutil.Process()
    private, shared = 0, [0]
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info()
            private += memory.rss - memory.shared
            shared.append(memory.shared)
    return (private + max(shared)) / 2**30
