"""The schema of a run: every section that a recipe may read.

In: plain values (`file` reads them). Out: a validated, frozen `Config`. Invariant: unknown keys are
errors, so are sections that the recipe does not read, and values never change. A preset fills in
what a file leaves out and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, SerializeAsAny, model_validator

from rnr_dist.config.base import FileName, Flag, Section, Seed, merged
from rnr_dist.config.devices import sized_for_devices
from rnr_dist.config.engines import Engines
from rnr_dist.config.evaluation import Evaluate, Perplexity, Tracking
from rnr_dist.config.methods import (
    Methods,
    Way,
    complete_methods,
    require_same,
    trained_by_itself,
    way_of,
)
from rnr_dist.config.named import by_name
from rnr_dist.config.presets import PRESETS
from rnr_dist.config.registry import METHODS, task_class
from rnr_dist.config.release import Release, Retain
from rnr_dist.config.reveal import Reveal
from rnr_dist.config.secrets import to_be_kept
from rnr_dist.config.training import Training, Workers
from rnr_dist.config.unlearning import (
    Memorise,
    Pairing,
    Refinement,
    Stopping,
    Sweep,
    require_constant,
)
from rnr_dist.errors import InputError
from rnr_dist.types import digest

RecipeName = Literal["reveal-and-release", "teach-reveal-release", "unlearn-sequences"]
WAYS: dict[str, Way] = {
    "reveal-and-release": "merge",
    "teach-reveal-release": "merge",
    "unlearn-sequences": "epochs",
}
# The recipe's own method, and those of its paper that it is compared with.
OWN = {
    "reveal-and-release": "release",
    "teach-reveal-release": "release",
    "unlearn-sequences": "icu",
}
COMPARED = {
    "reveal-and-release": ("pem_external", "ext_sub", "dpo", "rmu", "cmd"),
    "teach-reveal-release": ("pem_external", "ext_sub", "dpo", "rmu"),
    "unlearn-sequences": ("kumpr", "kl", "dpo", "llmu"),
}
# Rows of a table beside the methods: a further model may take neither's name.
ROWS = ("base", "retain-only", "joint", "memorised", "control", "taught", "untaught")
# Sections that a recipe does not read: a file that gives one of them means another recipe.
UNREAD = {
    "reveal-and-release": ("memorise", "refinement", "stopping", "sweep"),
    "teach-reveal-release": ("memorise", "refinement", "stopping", "sweep"),
    "unlearn-sequences": ("reveal", "retain"),
}


class TaskSettings(Section):
    """What every task's own settings extend.

    only_evaluated: those that nothing before the evaluation reads. A change of one leaves what was
    made before it as it is.
    """

    only_evaluated: ClassVar[frozenset[str]] = frozenset()
    name: str
    """A name in `tasks.TASKS`, or `package.module:Class` for a task of your own."""


def _task_schema(name: str) -> type[TaskSettings]:
    found = task_class(name)
    schema = getattr(found, "Settings", None)
    if not (isinstance(schema, type) and issubclass(schema, TaskSettings)):
        raise InputError(
            f"task {name}: has no Settings; expected a class that extends TaskSettings"
        )
    return schema


class Config(Section):
    """A whole run."""

    name: FileName
    """Names the run, and with a time behind it its folder."""
    recipe: RecipeName = "reveal-and-release"
    """The stages of the run; left out: what the task says."""
    preset: Literal["default", "paper", "reference"] = "default"
    """unlearn-sequences: `paper` or `reference` fill in what these do where the file says nothing
    else; every number that comes out names its preset."""
    seed: Seed = 0
    """Seeds arms, bandit, training and bootstrap; sampling of text is not reproducible."""
    model: str = "embedded:smollm2-135m-instruct"
    """`embedded:NAME`, a local folder, or a hub name."""
    trust_remote_code: Flag = False
    """Run code that a hub model brings. Off unless you trust its author."""
    task: Annotated[SerializeAsAny[TaskSettings], BeforeValidator(by_name(_task_schema, ""))]
    """What must be forgotten, and how it is told."""
    engines: Engines = Engines()
    workers: Workers = Workers()
    reveal: Reveal = Reveal()
    retain: Retain = Retain()
    release: Release = Release()
    memorise: Memorise = Memorise()
    pairing: Pairing = Pairing()
    refinement: Refinement = Refinement()
    stopping: Stopping = Stopping()
    methods: Methods = Methods()
    sweep: Sweep = Sweep()
    perplexity: Perplexity = Perplexity()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        """The recipe that the task says, the preset, and every method's own settings."""
        if not isinstance(content, Mapping):
            return content
        task = content.get("task")
        if "recipe" not in content and isinstance(task, Mapping):
            name = str(task.get("name", ""))
            recipe = getattr(task_class(name), "recipe", None)
            content = {**content, "recipe": recipe} if recipe else content
        recipe = content.get("recipe", "reveal-and-release")
        if not isinstance(recipe, str) or recipe not in WAYS:
            return content
        for section in UNREAD[recipe]:
            if section in content:
                raise ValueError(f"{section}: the recipe {recipe} does not read it")
        if WAYS[recipe] == "merge" and content.get("preset", "default") != "default":
            raise ValueError(
                f"preset: found {content['preset']}, which the recipe {recipe} does not have; "
                "expected reveal.mode"
            )
        content = merged(PRESETS.get(str(content.get("preset", "default")), {}), content)
        methods = content.get("methods", {})
        if isinstance(methods, Mapping):
            run = methods.get("run")
            if run is None:
                methods = {**methods, "run": list(COMPARED[recipe])}
            swept = content.get("sweep", {})
            run = methods["run"] if isinstance(methods["run"], list) else []
            used = {OWN[recipe], *(name for name in run if isinstance(name, str))}
            if isinstance(swept, Mapping) and recipe == "unlearn-sequences":
                used.add(str(swept.get("method", OWN[recipe])))
            own = trained_by_itself(used, WAYS[recipe])
            content = sized_for_devices({**content, "methods": methods}, own)
            content["methods"] = complete_methods(content["methods"], WAYS[recipe], used)
        return content

    @model_validator(mode="after")
    def _windows_fit(self) -> Config:
        if self.perplexity.window >= self.engines.max_model_len:
            raise ValueError(
                f"perplexity.window {self.perplexity.window} must be below engines.max_model_len "
                f"{self.engines.max_model_len}"
            )
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> Config:
        rules = self.release
        ranks = rules.forget.rank + rules.iterations * (rules.forget.rank + rules.retain.rank)
        if self.engines.weights == "lora" and ranks > self.engines.lora_rank:
            raise ValueError(
                f"engines.lora_rank {self.engines.lora_rank}: the adapters of release.iterations "
                f"{rules.iterations} have ranks that sum to {ranks}"
            )
        return self

    @model_validator(mode="after")
    def _names_free(self) -> Config:
        taken = (*ROWS, *METHODS)
        for name in self.evaluate.others:
            if name in taken:
                raise ValueError(
                    f"evaluate.others: found the name {name!r}, expected none of {', '.join(taken)}"
                )
        return self

    @model_validator(mode="after")
    def _sweepable(self) -> Config:
        if self.way == "epochs":
            name = self.sweep.method
            if way_of(name, self.way) != "epochs":
                raise ValueError(f"sweep.method: found {name}, which is not trained by epochs")
            settings = self.methods.of(name)
            for place in self.sweep.places():
                training = settings.trained_with(place, ("sweep", "over"))
                require_same(training, settings.training, "sweep.over: ")
                require_constant(training, "sweep.over: ")
        return self

    @model_validator(mode="after")
    def _quantised_whole(self) -> Config:
        if self.workers.zero_stage < 3:
            return self
        trainings = {
            f"release.{side}": getattr(self.release, side) for side in ("forget", "retain")
        }
        trainings["memorise.training"] = self.memorise.training
        for name in (self.own_method, *self.compared):
            if settings := self.methods.found(name):
                trainings |= settings.trainings(f"methods.{name}")
        for key, training in {**trainings, **self.swept}.items():
            if training.frozen == "nf4":
                raise ValueError(
                    f"{key}.frozen nf4: found workers.zero_stage 3, which divides plain weights "
                    "only; expected 0 to 2"
                )
        return self

    @property
    def way(self) -> Way:
        """How the recipe's methods are run."""
        return WAYS[self.recipe]

    @property
    def own_method(self) -> str:
        """The method that the recipe is named after."""
        return OWN[self.recipe]

    @property
    def compared(self) -> list[str]:
        """The methods that `rnr baselines` puts beside it."""
        return list(self.methods.run or ())

    @property
    def swept(self) -> dict[str, Training]:
        """The trainings that `rnr sweep` tries, as `MethodSettings.trainings` names them; none
        where the recipe has no sweep."""
        if self.way != "epochs":
            return {}
        name = self.sweep.method
        return self.methods.of(name).trainings(f"methods.{name}", self.sweep.named_places())

    @property
    def embedder(self) -> str:
        """The sentence embedder of the run."""
        return self.reveal.embedder if self.way == "merge" else self.pairing.embedder

    @property
    def engine_slots(self) -> int:
        """Engines that live at once: the pool's, and one of the instruction writer for a while."""
        return self.engines.count + bool(self.reveal.writer)

    def content(self) -> dict[str, Any]:
        """Plain values, from which `file.validate` gives an equal config, but for its secrets."""
        return to_be_kept(self.model_dump(mode="json", exclude=set(UNREAD[self.recipe])))

    def fingerprint(self, *keys: str) -> str:
        """Digest of the named parts, for stage manifests."""
        return digest({key: self.part(key) for key in keys})

    def part(self, key: str) -> Any:
        """Plain values of a section, or below a dotted key.

        `task` is without the settings that only the evaluation reads; those are `task.evaluated`.
        `methods.swept` are the settings of the method that `sweep` tries.
        """
        content = self.model_dump(mode="json")
        if key in ("task", "task.evaluated"):
            late = type(self.task).only_evaluated
            wanted = key == "task.evaluated"
            return {k: v for k, v in content["task"].items() if (k in late) is wanted}
        # A method of the user's own has dots in its name.
        way = ["methods", self.sweep.method] if key == "methods.swept" else key.split(".")
        return reduce(getitem, way, content)
