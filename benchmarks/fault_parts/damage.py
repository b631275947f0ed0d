"""20 damages to a finished run, its data, its base and its node's cache, and what may come of each.

In: a furnished place with a small finished run `rr`. Out: the same, damaged. Invariant: the right
end is a refusal in one sentence, or figures as they were before the damage; `rnr verify` sees each
that lies in the run, in its data or in its base.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.fault_parts.cases import Cut, Edit, Flip, Gone, Swap
from benchmarks.fault_parts.small import arguments

RUN = "rr"
ADAPTER = f"{RUN}/release/adapters/-f0"
EXPORT = ("export", RUN, "--merged", "out")
RESUME = tuple(arguments(RUN, "--resume", RUN))
JUDGED_ANEW = tuple(arguments(RUN, "--resume", RUN, more=("evaluate.sampling.n=2",)))
REPORT = (Gone(f"{RUN}/report"), Gone(f"{RUN}/summary.json"))
# Whether the run may also go on, and what has to be as it was: nothing, all figures, those that
# nothing is drawn for, or the rows. `anew`: it says that it makes stages anew.
Heals = Literal["", "figures", "perplexity", "rows", "anew"]


def another_perplexity(place: Path) -> None:
    """results.json in which the last model's perplexity is another, of as many characters."""
    path = place / RUN / "evaluate" / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    values = content["rows"][-1]["values"]["perplexity/in_domain"]["denominator"]
    values[0] += 1  # tokens: whole numbers below a thousand
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Rewritten:
    """A change that takes more than bytes."""

    file: str
    change: Callable[[Path], None]

    def apply(self, place: Path) -> None:
        self.change(place)


@dataclass(frozen=True)
class Damage:
    """One damage. use: the command that comes upon it. names: what its refusal says.

    seen: whether `rnr verify` can see it. cache: writes into the command's temporary folder.
    """

    name: str
    edits: tuple[Edit | Swap | Cut | Flip | Gone | Rewritten, ...]
    use: tuple[str, ...]
    heals: Heals = ""
    names: tuple[str, ...] = ()
    seen: bool = True
    cache: Callable[[Path, Path], None] | None = None

    @property
    def file(self) -> str:
        """The damaged file, "" where it lies in the cache."""
        return self.edits[0].file if self.seen else ""


def base_as_result(place: Path, scratch: Path) -> None:
    """The base's weights in the node's cache, under the digest of the run's last model."""
    from rnr_dist.run.directory import read
    from rnr_dist.types import NamedModel

    last = read(place / RUN / "release" / "models.json", list[NamedModel])[-1].model
    folder = scratch / f"rnr-weights-{os.getuid()}"
    folder.mkdir(mode=0o700)
    shutil.copytree(place / "model", folder / last.digest)


def another_adapter(place: Path) -> None:
    """models.json with the paths of the adapter rewritten to another one's of the same shape."""
    shutil.copytree(place / ADAPTER, place / "planted")
    Flip("planted/adapter_model.safetensors", 0.8).apply(place)
    path = place / RUN / "release" / "models.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("./release/adapters/-f0", str(place / "planted")),
        encoding="utf-8",
    )


DAMAGES = (
    Damage("config.json cut", (Cut(f"{RUN}/config.json"),), EXPORT, names=("config.json",)),
    Damage(
        "layout.json without its number",
        (Edit(f"{RUN}/layout.json", "{}\n"),),
        RESUME,
        names=("layout.json",),
    ),
    Damage(
        "manifest cut",
        (Cut(f"{RUN}/release/manifest.json"),),
        RESUME,
        "perplexity",
        names=("manifest.json",),
    ),
    Damage("models.json cut", (Cut(f"{RUN}/release/models.json"),), EXPORT, names=("models.json",)),
    Damage(
        "models.json names another adapter",
        (Rewritten(f"{RUN}/release/models.json", another_adapter),),
        EXPORT,
        names=("models.json", "damaged"),
    ),
    Damage(
        "adapter_config.json cut",
        (Cut(f"{ADAPTER}/adapter_config.json"),),
        EXPORT,
        names=("-f0",),
    ),
    Damage(
        "adapter_config.json with another alpha",
        (Swap(f"{ADAPTER}/adapter_config.json", '"lora_alpha": 16', '"lora_alpha": 32'),),
        EXPORT,
        names=("-f0",),
    ),
    Damage(
        "adapter's weights flipped",
        (Flip(f"{ADAPTER}/adapter_model.safetensors", 0.8),),
        EXPORT,
        names=("-f0",),
    ),
    Damage(
        "adapter's weights cut",
        (Cut(f"{ADAPTER}/adapter_model.safetensors"),),
        EXPORT,
        names=("-f0",),
    ),
    Damage(
        "event log damaged in its middle, before reveal is done",
        (
            Flip(f"{RUN}/reveal/events.jsonl", 0.0),
            Gone(f"{RUN}/reveal/manifest.json"),
            Gone(f"{RUN}/release"),
            Gone(f"{RUN}/evaluate"),
            *REPORT,
        ),
        RESUME,
        "rows",
        names=("events.jsonl",),
    ),
    Damage(
        "forget set flipped, before release",
        (
            Flip(f"{RUN}/reveal/forget_set.parquet", 0.3),
            Gone(f"{RUN}/release"),
            Gone(f"{RUN}/evaluate"),
            *REPORT,
        ),
        RESUME,
        "rows",
        names=("forget_set.parquet",),
    ),
    Damage("summary.json gone", (Gone(f"{RUN}/summary.json"),), RESUME, "figures"),
    Damage("figure emptied", (Cut(f"{RUN}/figures/steps.png", 0),), RESUME, "figures"),
    Damage("seal gone, other sampling", (Gone(f"{RUN}/final.json"),), JUDGED_ANEW),
    Damage(
        "NUL in the spool",
        (Edit(f"{RUN}/mlflow-spool.jsonl", "\x00\x00\x00\n", 0, 0),),
        RESUME,
        "figures",
    ),
    Damage(
        "data file edited",
        (Swap("challenging.jsonl", '{"text": "', '{"text": "w9 w9 '),),
        RESUME,
        "anew",
        names=("challenging.jsonl",),
    ),
    Damage("base edited in place", (Flip("model/model.safetensors", 0.9),), EXPORT),
    Damage(
        "base under the result's digest in the node's cache",
        (Gone(f"{RUN}/evaluate"), *REPORT),
        RESUME,
        "perplexity",
        seen=False,
        cache=base_as_result,
    ),
    Damage(
        "figure changed in results.json, before report",
        (Rewritten(f"{RUN}/evaluate/results.json", another_perplexity), *REPORT),
        RESUME,
        "perplexity",
        names=("results.json",),
    ),
    Damage(
        "pulls.json emptied, before report",
        (Cut(f"{RUN}/reveal/pulls.json", 0), *REPORT),
        RESUME,
        "rows",
        names=("pulls.json",),
    ),
)
