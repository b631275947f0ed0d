"""The config's `reveal`: the search for instructions (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rnr_dist.config.base import (
    Count,
    Diversity,
    Fraction,
    Positive,
    Sampling,
    Section,
    Weight,
    Whole,
)

# Lines of Algorithm 1 that the defaults depart from: 16, the arg max of the scores as they are;
# 18, all of f(C, P*) joins D, and f gives one response a context as in line 8.
ALGORITHM_1 = {"recheck": 0, "fill_per_context": 1, "min_relevance": 0.0}


class Reveal(Section):
    """Algorithm 1: search soft prompts whose instructions make the model speak about the target."""

    mode: Literal["default", "paper", "instinct"] = "default"
    """`default`: several pulls in flight, none repeated, scaled network. `paper`: Algorithm 1 as
    it is written, one pull at a time, the arg max over all arms, repeats allowed, line by line in
    docs/reveal.md; what the file says stands above it; where it is silent, as `instinct`.
    `instinct`: the bandit of the code that the paper builds on, to the
    letter: unscaled N(0,1) network, arg max over a fresh random 1,000 arms."""
    diversity: Diversity | None = None
    """`weighted`: the batch counts `batch_weight` against the forget set. `union`: Vendi(y u D)
    over log min(n, d). `union_raw`: Vendi(y u D) as Algorithm 1 has it, from 1 to min(n, d). Left
    out: `weighted` in `default` mode, `union_raw` in `paper`, `union` in `instinct`."""
    outer_iterations: Count = 3
    """m: each adds one instruction's responses to the forget set."""
    budget: Count = 40
    """n: arms evaluated in each outer iteration."""
    initial: Count = 8
    """Arms before the network is trusted."""
    start: Literal["random", "k_centre"] = "random"
    """Which arms those are: drawn at random, or each the farthest from all before."""
    widths: Literal["diagonal", "full"] = "diagonal"
    """Confidence by the diagonal of Z (as INSTINCT) or by all of it (`default` mode)."""
    warm_start: Whole = 10
    """k: high-scoring arms that start the next outer iteration's network."""
    arms: Annotated[Count, Field(le=100_000)] = 200
    """Soft prompts in the arm table."""
    sobol_dimension: Annotated[Count, Field(le=21_201)] = 10
    """Intrinsic dimension of the Sobol points."""
    soft_tokens: Annotated[Count, Field(le=1_000)] = 5
    """Soft tokens of a prompt."""
    soft_place: Literal["first", "last"] = "first"
    """Soft tokens before the demonstrations (INSTINCT), or after them, so that all arms share what
    the engine has read of these: twice as fast to decode."""
    writer: str = ""
    """Model that decodes soft prompts to instructions; empty: the model itself. As `model`."""
    prompts: list[str] = Field(default_factory=list)
    """Instructions of your own instead of a search: each fills the forget set once. An empty one
    asks the contexts as they are."""
    soft_scale: Literal["reference", "embedding"] = "embedding"
    """Scale of the soft tokens: the reference's U(-1,1) projection as it is, or scaled to the
    standard deviation of the model's own token embeddings."""
    demonstrations: Count = 5
    """(context, response) pairs of the base model in the meta-prompt."""
    instruction_tokens: Count = 32
    """New tokens when an instruction is decoded."""
    instruction_temperature: Weight = 0.0
    """0 decodes greedily, as the paper: most soft prompts then decode alike on small models, while
    sampled instructions nearly all differ. In `default` mode, where 0 leaves fewer different ones
    than `budget` x `outer_iterations`, arms that repeat others are decoded again at .7."""
    features: Literal["meta_prompt", "instruction"] = "meta_prompt"
    """What the bandit knows of an arm: the last hidden state of the meta-prompt (INSTINCT), or that
    of the instruction that it decoded to."""
    alpha: Fraction = 0.5
    """Weight of diversity in the harmonic score; 0 is relevance alone."""
    batch_weight: Fraction = 0.5
    """w of `default` diversity: share of the batch against the forget set so far."""
    contexts_per_pull: Count = 16
    """Contexts of the `reveal` split that an arm is evaluated on; fixed in an outer iteration."""
    query: Literal["preamble", "instruction_input_output", "chat"] = "preamble"
    """How instruction and context are put together: see `tasks.prompts.QUERY_FORMATS`. `chat`
    asks by the model's chat template and lets the answer begin with the context."""
    response: Sampling = Sampling(n=1, max_tokens=24, temperature=1.0, top_p=0.9)
    """Sampling of the responses that are scored."""
    recheck: Whole = 3
    """Best instructions evaluated again on other contexts before one fills the forget set; below 2
    the first score decides."""
    max_failed_share: Fraction = 0.25
    """Share of the budget that may fail (twice each) before the search stops."""
    fill_per_context: Count = 4
    """Responses of each `train` context that the best instruction adds to the forget set."""
    min_relevance: Fraction = 0.5
    """Responses below this oracle score do not enter the forget set (0 keeps all)."""
    near_duplicate: Fraction | None = None
    """Cosine above which a response is too close to one in the forget set; left out: all stay."""
    exploration: Positive = 1.0
    """nu of NeuralUCB."""
    ridge: Positive = 0.1
    """lambda of NeuralUCB."""
    hidden: Annotated[Count, Field(le=10_000)] = 100
    """ReLU units of the bandit's network."""
    training_steps: Count = 1000
    """Adam steps of each training of that network."""
    in_flight: Count = 4
    """Pulls under way at once (`default` mode; the others wait for each)."""
    embedder: str = "embedded:minilm"
    """Sentence embedder for diversity: embedded, a folder or a hub name."""

    @property
    def diversity_kind(self) -> Diversity:
        kinds: dict[str, Diversity]
        kinds = {"default": "weighted", "paper": "union_raw", "instinct": "union"}
        return self.diversity or kinds[self.mode]

    @model_validator(mode="before")
    @classmethod
    def _lines_of_the_paper(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and content.get("mode") == "paper":
            return {**ALGORITHM_1, **content}
        return content

    @model_validator(mode="after")
    def _enough_arms(self) -> Reveal:
        if not self.prompts and self.arms < self.budget:
            raise ValueError(f"arms {self.arms} must not be below budget {self.budget}")
        return self
