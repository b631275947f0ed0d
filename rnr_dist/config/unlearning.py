"""The config of unlearning by epochs (ICU): what is memorised, paired, and when it ends."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Flag, Fraction, Many, Section, Whole, above_defaults
from rnr_dist.config.training import Training

MOST_SWEPT = 1_000  # places of a sweep: a training each
Over = Literal["continuation", "all"]


def require_constant(training: Training, key: str = "") -> None:
    """Raises ValueError, which `key` begins, for a learning rate that follows the steps to an end
    nobody knows."""
    if training.schedule != "constant":
        raise ValueError(
            f"{key}training.schedule {training.schedule}: epochs end by what is recalled, at no "
            "step known before; expected constant"
        )


class Memorise(Section):
    """Fine-tune the model until it knows the sequences, as one tests unlearning."""

    enabled: Flag = True
    """false: `model` knows them already."""
    training: Training = Training(
        parameters="full",
        schedule="constant",
        learning_rate=1e-4,
        batch_size=4,
        warmup_share=0.0,
        epochs=12,
    )
    """Its training; `epochs` is the most that it takes."""
    repeats: Count = 4
    """Times that an epoch meets each forget and tuning sequence; what a model knows by heart it has
    met often, its pool once."""
    rehearse: Whole = 96
    """At most so many windows of general text (`task.general`, split `retain`), of
    `task.max_tokens`, are learnt along: sequences of one form alone take a model's language."""
    until: Fraction = 0.9
    """Mean EL_n over t >= t0 of the forget sequences at which it ends."""
    control: Flag = True
    """Also train the model that never saw the forget sequences, for as many epochs: what a result
    should be like. false saves as much time as memorising takes."""
    least: Fraction = 0.8
    """Mean EL_n below which memorising has failed and the run ends."""

    @model_validator(mode="before")
    @classmethod
    def _above_the_defaults(cls, content: Any) -> Any:
        return above_defaults(cls, Training, content)

    @model_validator(mode="after")
    def _without_end(self) -> Memorise:
        require_constant(self.training)
        return self


class Pairing(Section):
    """CLE: the analogous sequence of each forget sequence (paper section 4.3)."""

    embedder: str = "embedded:minilm"
    """Sentence-transformers model: `embedded:minilm`, a folder or a hub name."""
    k: Count = 1
    """Nearest neighbours that are learnt for each forget sequence."""
    exclude_content: Flag = True
    """Never pair with a sequence that shares `exclude_words` words in a row, prefix included."""
    exclude_words: Count = 8
    """Words in a row (numbers and names included) that make two sequences too alike."""
    approximate_above: Many = 200_000
    """Pool size above which an inverted file takes the place of the exact index."""


class Refinement(Section):
    """IUR: which sequences leave the epochs, and when training ends (paper section 4.4)."""

    enabled: Flag = True
    """false: all sequences stay in all epochs (every baseline)."""
    scorer: str = "embedded:minilm"
    """BERTScore's encoder: `embedded:minilm`, a folder or a hub name."""
    scorer_layer: Count | None = None
    """Its layer; left out: the library's choice for a model it knows, the last one otherwise."""
    bertscore_below: Fraction | None = None
    """a: BERTScore F1 of continuation and truth below which a sequence is forgotten; left out: the
    `calibration_quantile` of it on the never-seen sequences that are nearest to it."""
    bleu_below: Fraction | None = None
    """b: the same for BLEU. Never-seen records of one form share words, .5 here: with the paper's
    .01 a sequence stays long after it is as good as never seen."""
    neighbours: Whole = 5
    """A sequence's level is what the model reaches on so many never-seen sequences, the nearest by
    `pairing.embedder`: a form of much fixed text is recalled more than another by a model that
    never saw either. 0: one level, that of all never-seen sequences."""
    calibration_quantile: Fraction = 1.0
    """Quantile over those never-seen sequences that stands for a and b."""
    combine: Literal["and", "or"] = "and"
    """Both below, or either."""
    recall: Flag = True
    """true: a sequence leaves only when its own MA is at its level too, and its EL where that was
    read. What has left falls no further, so without it the averages may never get there. (The
    papers: no.)"""
    sticky: Flag = False
    """true: what has left stays out; false: it comes back when it is remembered again."""


class Stopping(Section):
    """When unlearning ends, for every method alike."""

    extraction: Fraction | None = None
    """Mean EL_n must be at or below it; left out: the never-seen sequences' mean."""
    memorisation: Fraction | None = None
    """Mean MA must be at or below it; left out: the never-seen sequences' mean."""
    extraction_over: Over = "continuation"
    """The prefixes that this EL_n counts, also a sequence's own: `continuation`, those of t0 tokens
    and more; `all`, of any length (Eq. 7), which costs about twice the decodes."""
    memorisation_over: Over = "continuation"
    """The tokens that this MA counts: `continuation`, those from t0 on; `all` (Eq. 9)."""
    epochs: Count = 25
    """Most epochs."""
    curves: Flag = True
    """Read EL after every epoch. false: only where it decides, once MA is at or below its limit,
    and after the last epoch: several times faster; where no epoch met the limits, the nearest is
    looked for among those that were read."""


class Sweep(Section):
    """What `rnr sweep` tries on the tuning sequences (the paper's Tables 2 and 5)."""

    method: str = "icu"
    """The method that is swept."""
    over: Annotated[dict[str, list[Any]], Field(min_length=1)] = Field(
        default={
            "learning_rate": [5e-6, 1e-5, 2e-5],
            "objective.learn_weight": [0.1, 0.5, 1.0],
            "objective.kl_weight": [0.5, 1.0],
        }
    )
    """Values of keys of the method's `training` (dotted); every combination is a place."""

    @model_validator(mode="after")
    def _few_places(self) -> Sweep:
        count = prod(map(len, self.over.values()))
        if not 1 <= count <= MOST_SWEPT:
            raise ValueError(
                f"over: found {count} combinations, a training each; expected 1 to {MOST_SWEPT}"
            )
        return self

    def places(self) -> list[dict[str, Any]]:
        """Overrides of the training, one a combination."""
        return [
            dict(zip(self.over, values, strict=True)) for values in product(*self.over.values())
        ]

    def named_places(self) -> dict[str, dict[str, Any]]:
        """The places by what a sentence calls each: sweep.over[rank=4 learning_rate=1e-05]."""
        told = (" ".join(f"{key}={value}" for key, value in one.items()) for one in self.places())
        return {f"sweep.over[{one}]": place for one, place in zip(told, self.places(), strict=True)}
