"""The schema of a cluster as `rnr check --cluster FILE` is told of it.

In: plain values. Out: a validated `Cluster`. Invariant: what a file leaves out is not there, but
memory, which is then not asked about.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rnr_dist.config.base import Count, Positive, Section, Whole


class Nodes(Section):
    """Machines of one kind."""

    count: Count = 1
    """So many of them."""
    cpus: Count
    """Cores of each."""
    gpus: Whole = 0
    """GPUs of each."""
    gpu_gib: Positive | None = None
    """Memory of one GPU, GiB."""
    memory_gib: Positive | None = None
    """Memory of one machine, GiB."""
    rnr_engine: Whole = 0
    """Places for engines on CPUs, as the node is started with them (cluster/README.md)."""


class Cluster(Section):
    """All machines that a run has."""

    nodes: Annotated[list[Nodes], Field(min_length=1)]
    """Kinds of machines."""
