"""The config's `methods`: which methods of forgetting run, and how each is trained and tuned.

In: plain values. Out: `Methods`, with the settings of each method that runs. Invariant: a file may
name single keys of a method; the method's own defaults, its paper's, stand for the others. The
budget is not set here: every method gets the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from rnr_dist.config.base import Count, Fraction, Positive, Section, Whole, merged, nested_overrides
from rnr_dist.config.named import validated
from rnr_dist.config.registry import METHODS, method_class
from rnr_dist.config.sources import ContextSource
from rnr_dist.config.training import ObjectiveSettings, Training
from rnr_dist.config.unlearning import require_constant
from rnr_dist.types import Split

MOST_PLACES = 1_000  # of a grid: a training each
# How methods are run. `merge`: adapters are trained within a budget, the strength with which they
# are added is chosen by the rules. `epochs`: the model is trained until it recalls no more.
Way = Literal["merge", "epochs"]


class MethodSettings(Section):
    """One method: how it trains, and the grid that its best setting is chosen from."""

    training: Training
    """Its training. `epochs` gives way to the token budget (merge) or to `stopping.epochs`."""
    grid: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_PLACES)] = [{}]  # noqa: RUF012
    """Overrides of `training` (keys may be dotted), one training each."""
    low: Positive = 1.0
    """merge: smallest strength, the weight that the method subtracts or adds its adapter with."""
    high: Positive = 1.0
    """merge: largest strength; the candidates of a training are spaced geometrically between."""

    @model_validator(mode="after")
    def _usable(self) -> MethodSettings:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        for number, overrides in enumerate(self.grid):
            self.trained_with(overrides, ("grid", str(number)))
        return self

    def trained_with(self, overrides: Mapping[str, Any], place: tuple[str, ...] = ()) -> Training:
        """The training of one place of the grid; `place` names it in the schema's errors."""
        changed = merged(self.training.model_dump(), nested_overrides(overrides))
        found = validated(Training, changed, place)
        assert isinstance(found, Training)
        return found

    def trainings(
        self, key: str, places: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, Training]:
        """The trainings of the grid, or of other `places`, by the key that a sentence names:
        `key`.training, and each place that asks for other weights or memory than that. Of places
        that ask for the same the first stands for all."""
        if places is None:
            places = {f"{key}.grid.{number}": one for number, one in enumerate(self.grid)}
        found: dict[tuple[Any, ...], tuple[str, Training]] = {}
        own = _asked_by(self.training)
        for place, overrides in places.items():
            training = self.trained_with(overrides)
            asked = _asked_by(training)
            found.setdefault(asked, (f"{key}.training" if asked == own else place, training))
        return dict(found.values())


def _asked_by(training: Training) -> tuple[Any, ...]:
    """What decides which weights a training asks for, and how much memory."""
    objective, layers = training.objective, tuple(training.layers or ())
    return (
        *(training.parameters, training.frozen, tuple(training.target_modules), layers),
        training.rank if training.parameters == "lora" else None,
        *(getattr(objective, key, None) for key in ("layer", "retain")),
        *(training.batch_size, training.micro_batch_tokens, training.max_tokens),
        training.gradient_checkpointing,
    )


def by_merge(training: Training, rates: Sequence[float], low: float, high: float) -> MethodSettings:
    """A method's settings where its adapter is added or subtracted: a training a learning rate."""
    grid = [{"learning_rate": rate} for rate in rates]
    return MethodSettings(training=training, grid=grid, low=low, high=high)


def by_epochs(objective: ObjectiveSettings, learning_rate: float = 1e-5) -> MethodSettings:
    """A method's settings on the model's own weights, with Adam's constant rate as in ICU's paper,
    and 2.5 times that rate."""
    training = Training(
        objective=objective,
        parameters="full",
        schedule="constant",
        warmup_share=0.0,
        betas=(0.9, 0.98),
        learning_rate=learning_rate,
        batch_size=8,
        micro_batch_tokens=1024,  # each backward pass writes all weights' gradients: few passes
    )
    grid = [{"learning_rate": rate} for rate in (learning_rate, 2.5 * learning_rate)]
    return MethodSettings(training=training, grid=grid)


class Methods(Section):
    """Methods that are put side by side on the same data, budget and measures.

    Beside the keys below there is one section a method, by its name.
    """

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    run: list[str] | None = None
    """Which methods `rnr baselines` puts beside the recipe's own, in this order; left out: those of
    the recipe's paper."""
    retained: Whole = 128
    """At most so many texts, half of the pool and half general, that a KL holds at theta0
    (`objective.retain` of them a target); theta0's states of all of them stay in memory."""
    external: ContextSource = ContextSource(
        source="builtin:external", format="rtp", splits={Split.TRAIN: 1}
    )
    """External (context, reference) pairs of the target, for `pem_external` alone."""
    external_above: Fraction = 0.5
    """Only references whose score is above this are learnt, where the source brings scores."""
    continuations: Count = 25
    """The base model's continuations of each `train` context: CMD's and DPO's positives are those
    that hold the least of the target."""
    negative_above: Fraction = 0.3
    """CMD: continuations above this oracle score are negatives."""
    segment_words: Count = 6
    """CMD: words of the context's segments, of which those that hold the target are written
    anew."""

    def of(self, name: str) -> MethodSettings:
        """The settings of a method that runs and has some. Raises KeyError."""
        found: MethodSettings = (self.__pydantic_extra__ or {})[name]
        return found

    def found(self, name: str) -> MethodSettings | None:
        """`of`, or None where the method has no settings here."""
        return (self.__pydantic_extra__ or {}).get(name)


def way_of(name: str, way: Way) -> Way:
    """How a method is run in a recipe of that way: what has no epochs is merged. Raises InputError
    for a method that is not there."""
    return way if method_class(name).settings(way) else "merge"


def trained_by_itself(names: Iterable[str], way: Way) -> list[str]:
    """Those of the methods that have a training of their own where they run that way."""
    known = [name for name in sorted(names) if name in METHODS or ":" in name]
    return [
        name
        for name in known
        if not getattr(method_class(name), "section", "")
        and method_class(name).settings(way_of(name, way)) is not None
    ]


def complete_methods(content: Mapping[str, Any], way: Way, used: set[str]) -> dict[str, Any]:
    """`content` of `methods` with the settings of every method in `used` or named in it.

    Raises pydantic's errors, and ValueError for a key that is no method and for settings that do
    not fit the method or its way.
    """
    given = dict(content)
    # What is no text is no method's name either; the schema says so.
    named = {key for key in given if isinstance(key, str) and key not in Methods.model_fields}
    for name in sorted(named | used):
        if name in named and name not in METHODS and ":" not in name:
            near = get_close_matches(name, [*Methods.model_fields, *METHODS], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            hint = "; it is called methods.run now" if name == "methods" else hint
            raise ValueError(f"unknown key methods.{name}{hint}")
        own_way = way_of(name, way)
        if section := getattr(method_class(name), "section", ""):
            if name in named:
                raise ValueError(f"methods.{name}: its settings are the section {section}")
            continue
        defaults = method_class(name).settings(own_way)
        if defaults is None:
            continue
        own = given.get(name, {})
        if isinstance(own, Mapping):
            own = validated(MethodSettings, merged(defaults.model_dump(), own), ("methods", name))
        if isinstance(own, MethodSettings):
            _require_fit(name, own, defaults, own_way)
        given[name] = own
    return given


def require_same(training: Training, method: Training, key: str) -> None:
    """Raises ValueError, which `key` begins, for another objective than the method's."""
    if training.objective.name != method.objective.name:
        raise ValueError(
            f"{key}training.objective.name: found {training.objective.name}, "
            f"expected {method.objective.name}"
        )


def _require_fit(name: str, own: MethodSettings, defaults: MethodSettings, way: Way) -> None:
    for training in map(own.trained_with, own.grid):
        require_same(training, defaults.training, f"methods.{name}.")
        if way == "epochs":
            require_constant(training, f"methods.{name}.")
        elif training.parameters == "full":
            raise ValueError(
                f"methods.{name}.training.parameters full is no adapter; expected lora or matrices"
            )
