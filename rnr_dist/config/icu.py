"""The schema of an ICU run (`rnr icu`): what is memorised, forgotten, and how it is judged.

In: plain values. Out: a validated, frozen `Config`. Invariant: a preset fills in what the file
leaves out and nothing else; what the file says stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from rnr_dist.config.base import (
    Count,
    Fraction,
    Sampling,
    Section,
    above_defaults,
    merged,
    nested_overrides,
)
from rnr_dist.config.icu_presets import PRESETS
from rnr_dist.config.objectives import (
    DpoObjective,
    IcuObjective,
    KlObjective,
    KumprObjective,
    LlmuObjective,
)
from rnr_dist.config.schema import Config
from rnr_dist.config.sources import TextSource
from rnr_dist.config.training import Training
from rnr_dist.types import Split

Preset = Literal["default", "paper", "reference"]
Over = Literal["continuation", "all"]
IcuMethodName = Literal["icu", "kumpr", "kl", "dpo", "llmu"]
# Rows of the table that are no method: the model as it came, as it is to forget, and the one that
# never saw the forget sequences.
BASE, MEMORISED, CONTROL = "base", "memorised", "control"
ROWS = (BASE, MEMORISED, CONTROL, *get_args(IcuMethodName))


class SequenceSource(Section):
    """Where sequences come from."""

    source: str = "builtin:records"
    """`builtin:records` (fictitious private records), `hub:NAME[:SPLIT]`, or a `.csv`, `.jsonl`,
    `.parquet` with `text` or `token_ids` (and `corpus`), a `.txt`, a `.npy` of token ids."""
    first: Annotated[int, Field(ge=0)] = 0
    """`builtin:records`: number of the first record."""
    count: Count | None = None
    """So many sequences from the start; left out: all (32 of the built-in ones)."""
    skip_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of each that are left out at its start (100 in the extraction benchmark)."""
    cut: bool = True
    """Cut what is longer than `task.max_tokens`; false refuses it."""


class ExtractionTask(Section):
    """Forget given token sequences: memorised records, private text."""

    name: Literal["extraction"] = "extraction"
    forget: SequenceSource = SequenceSource(count=32)
    """What must be forgotten."""
    pool: SequenceSource = SequenceSource(first=300, count=96)
    """Analogous sequences that stay: pairs are taken from them (the paper's D)."""
    unseen: SequenceSource = SequenceSource(first=600, count=32)
    """Sequences of the same kind that the model has never seen: the level of having forgotten."""
    tuning: SequenceSource = SequenceSource(first=700, count=32)
    """Memorised with the others; sweeps are tuned on them, never on `forget`."""
    general: list[TextSource] = Field(
        default=[
            TextSource(
                source=f"builtin:{name}", splits={Split.RETAIN: 2, Split.SEARCH: 1, Split.FINAL: 1}
            )
            for name in ("narrative", "practical")
        ],
        min_length=1,
    )
    """General text: on perplexity of its `search` split settings are chosen, its `final` split is
    read at the end, and its `retain` split is rehearsed while the sequences are memorised."""
    prefix_tokens: Count = 50
    """t0: the tokens that a model is given."""
    max_tokens: Count = 100
    """T: the tokens of a sequence."""
    n: Count = 10
    """n of EL_n: tokens of the n-grams that extraction is counted in."""

    @model_validator(mode="after")
    def _room_for_grams(self) -> ExtractionTask:
        if self.prefix_tokens + self.n > self.max_tokens:
            raise ValueError(
                f"prefix_tokens {self.prefix_tokens} and n {self.n} together must not be above "
                f"max_tokens {self.max_tokens}"
            )
        return self


def require_constant(training: Training) -> None:
    """Raises ValueError for a learning rate that follows the steps to an end nobody knows."""
    if training.schedule != "constant":
        raise ValueError(
            f"training.schedule {training.schedule}: epochs end by what is recalled, at no step "
            "known before; expected constant"
        )


class Memorise(Section):
    """Fine-tune the model until it knows the sequences, as one tests unlearning."""

    enabled: bool = True
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
    rehearse: Annotated[int, Field(ge=0)] = 96
    """At most so many windows of general text (`task.general`, split `retain`), of
    `task.max_tokens`, are learnt along: sequences of one form alone take a model's language."""
    until: Fraction = 0.9
    """Mean EL_n over t >= t0 of the forget sequences at which it ends."""
    control: bool = True
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
    exclude_content: bool = True
    """Never pair with a sequence that shares `exclude_words` words in a row, prefix included."""
    exclude_words: Count = 8
    """Words in a row (numbers and names included) that make two sequences too alike."""
    approximate_above: Count = 200_000
    """Pool size above which an inverted file takes the place of the exact index."""


class Refinement(Section):
    """IUR: which sequences leave the epochs, and when training ends (paper section 4.4)."""

    enabled: bool = True
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
    neighbours: Annotated[int, Field(ge=0)] = 5
    """A sequence's level is what the model reaches on so many never-seen sequences, the nearest by
    `pairing.embedder`: a form of much fixed text is recalled more than another by a model that
    never saw either. 0: one level, that of all never-seen sequences."""
    calibration_quantile: Fraction = 1.0
    """Quantile over those never-seen sequences that stands for a and b."""
    combine: Literal["and", "or"] = "and"
    """Both below, or either."""
    recall: bool = True
    """true: a sequence leaves only when its own MA is at its level too, and its EL where that was
    read. What has left falls no further, so without it the averages may never get there. (The
    papers: no.)"""
    sticky: bool = False
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
    curves: bool = True
    """Read EL after every epoch. false: only where it decides, once MA is at or below its limit,
    and after the last epoch: several times faster; where no epoch met the limits, the nearest is
    looked for among those that were read."""


class Unlearning(Section):
    """One method: how it trains, and the grid that its best setting is chosen from."""

    training: Training
    """Its training; `epochs` gives way to `stopping.epochs`."""
    grid: list[dict[str, Any]] = Field(default=[{}], min_length=1)
    """Overrides of `training` (keys may be dotted), one training each, chosen on `tuning`
    sequences."""

    @model_validator(mode="after")
    def _usable(self) -> Unlearning:
        for overrides in self.grid:
            require_constant(self.trained_with(overrides))
        return self

    def trained_with(self, overrides: Mapping[str, Any]) -> Training:
        """The training of one place of the grid."""
        changed = merged(self.training.model_dump(), nested_overrides(overrides))
        return Training.model_validate(changed)


def unlearning(objective: Any, learning_rate: float, **more: Any) -> Unlearning:
    """A method's settings on the model's own weights, with Adam's constant rate as in the paper."""
    training = Training(
        objective=objective,
        parameters="full",
        schedule="constant",
        warmup_share=0.0,
        betas=(0.9, 0.98),
        learning_rate=learning_rate,
        batch_size=8,
        micro_batch_tokens=1024,  # each backward pass writes all weights' gradients: few passes
        **more,
    )
    rates = (learning_rate, 2.5 * learning_rate)
    return Unlearning(training=training, grid=[{"learning_rate": rate} for rate in rates])


class Methods(Section):
    """ICU and the methods of its paper's Table 1."""

    run: list[IcuMethodName] = Field(default=["kumpr", "kl", "dpo", "llmu"])
    """What `rnr baselines` runs beside ICU, in this order."""
    retained: Annotated[int, Field(ge=0)] = 128
    """At most so many texts, half of the pool and half general (`task.general`, split `retain`),
    that L_kl holds at theta0 (`objective.retain` of them a target); theta0's states of all of them
    stay in memory."""
    icu: Unlearning = unlearning(
        IcuObjective(whole=True, kl_weight=4, ceiling=2, natural=True), 1e-5
    )
    """Unlearning, learning of pairs, KL (Eq. 6); weights and ceiling as measured in docs/icu.md,
    the papers' by their presets."""
    kumpr: Unlearning = unlearning(KumprObjective(), 1e-5)
    """Gradient ascent (Jang et al. 2023)."""
    kl: Unlearning = unlearning(KlObjective(), 1e-5)
    """Gradient ascent and KL on the pairs."""
    dpo: Unlearning = unlearning(DpoObjective(), 1e-5)
    """DPO: chosen the pair, rejected the forget sequence."""
    llmu: Unlearning = unlearning(LlmuObjective(), 1e-5)
    """LLMU (Yao et al. 2024): ascent, mismatched answers, KL."""

    @model_validator(mode="before")
    @classmethod
    def _above_the_defaults(cls, content: Any) -> Any:
        return above_defaults(cls, Unlearning, content)

    @model_validator(mode="after")
    def _objectives_fit(self) -> Methods:
        for name in ("icu", "kumpr", "kl", "dpo", "llmu"):
            found = getattr(self, name).training.objective.name
            if found != name:
                raise ValueError(f"{name}.training.objective.name: found {found}, expected {name}")
        return self


class Sweep(Section):
    """What `rnr sweep` tries on the tuning sequences (the paper's Tables 2 and 5)."""

    method: IcuMethodName = "icu"
    """The method that is swept."""
    over: Annotated[dict[str, list[Any]], Field(min_length=1)] = Field(
        default={
            "learning_rate": [5e-6, 1e-5, 2e-5],
            "objective.learn_weight": [0.1, 0.5, 1.0],
            "objective.kl_weight": [0.5, 1.0],
        }
    )
    """Values of keys of the method's `training` (dotted); every combination is a place."""

    def places(self) -> list[dict[str, Any]]:
        """Overrides of the training, one a combination."""
        return [
            dict(zip(self.over, values, strict=True)) for values in product(*self.over.values())
        ]


class Judging(Section):
    """What the stopping rule never saw, and the rest of the report."""

    sampling: Sampling = Sampling(n=10, max_tokens=50, temperature=1.0, top_p=1.0)
    """Sampled extraction: continuations of each prefix; `max_tokens` is at most T - t0."""
    sampled_n: Count = 5
    """Tokens of the n-grams that sampled extraction is counted in."""
    choices: str | None = "builtin:choices"
    """Questions whose right ending a model must find likeliest, of `question`, `choices` and the
    number of the right one, `answer`: a `.jsonl` or `.parquet`; null leaves them out."""
    dialogues: str | None = "builtin:dialogues"
    """Conversations whose next turn is generated: `context` (turns) and `reply`."""
    others: dict[str, str] = Field(default_factory=dict)
    """Name and model (as of `model`) of further rows of the table, say one that was trained without
    the forget sequences; of any architecture, with the same tokenizer."""

    @model_validator(mode="after")
    def _names_free(self) -> Judging:
        for name in self.others:
            if name in ROWS or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
                raise ValueError(
                    f"others: found the name {name!r}, expected letters, digits, dots and dashes, "
                    f"and none of {', '.join(ROWS)}"
                )
        return self


class Config(Config):
    """A whole ICU run."""

    preset: Preset = "default"
    """`paper` or `reference` fill in what these do where the file says nothing else; every number
    that comes out names its preset."""
    task: ExtractionTask = ExtractionTask()
    memorise: Memorise = Memorise()
    pairing: Pairing = Pairing()
    refinement: Refinement = Refinement()
    stopping: Stopping = Stopping()
    methods: Methods = Methods()
    sweep: Sweep = Sweep()
    evaluate: Judging = Judging()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return merged(PRESETS.get(str(content.get("preset", "default")), {}), content)

    @model_validator(mode="after")
    def _sequences_fit(self) -> Config:
        if self.task.max_tokens >= self.engines.max_model_len:
            raise ValueError(
                f"task.max_tokens {self.task.max_tokens} must be below engines.max_model_len "
                f"{self.engines.max_model_len}"
            )
        return self

    @model_validator(mode="after")
    def _sweepable(self) -> Config:
        method: Unlearning = getattr(self.methods, self.sweep.method)
        for place in self.sweep.places():
            try:
                require_constant(method.trained_with(place))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"]))
                raise ValueError(f"sweep.over {key}: {first['msg']}") from None
        return self

    @model_validator(mode="after")
    def _whole_weights(self) -> Config:
        if self.workers.zero_stage == 3:
            raise ValueError(
                "workers.zero_stage 3: after each epoch the workers generate, each by itself, "
                "which needs whole weights; expected 0 to 2"
            )
        return self
