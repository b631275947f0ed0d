"""The arm table: soft prompts decoded to instructions, once a run.

In: the setting. Out: a `Table`, kept in the run directory. Invariant: an instruction stands once
(in `default` mode), since arms that decode alike ask the same question.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnr_dist.config.reveal import Reveal
from rnr_dist.data.encoding import encoded_on
from rnr_dist.errors import InputError
from rnr_dist.generate.endpoint import Endpoint
from rnr_dist.measures.continuations import sample_model
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.reveal.embeddings import InputEmbeddings
from rnr_dist.reveal.instructions import (
    FeatureReader,
    arm_features,
    decode_requests,
    instruction_of,
    meta_prompt,
    meta_tokens,
    one_line,
    require_meta_prompt,
)
from rnr_dist.reveal.setting import Setting, Table
from rnr_dist.run.directory import read, read_rows, replacing, write_json, write_rows
from rnr_dist.run.progress import say
from rnr_dist.types import Arm, ModelRef, Sample, SamplingSettings

DEMONSTRATION_DRAWS = 4  # responses of a context from which the most relevant demonstrates
RESAMPLED = 0.7  # temperature at which arms that repeat others are decoded again
DECODED_BYTES = 2**28  # of soft prompts that are decoded together; queues hold a copy or two


def arm_table(setting: Setting) -> Table:
    """Soft prompts decoded to instructions by the writer: the model itself unless configured.

    Raises InputError when every soft prompt decodes to nothing.
    """
    path, features_path = setting.folder / "arms.parquet", setting.folder / "features.npy"
    if path.exists() and features_path.exists():
        return Table(read_rows(path, Arm), np.load(features_path))
    reveal, config = setting.reveal, setting.bench.config
    shown = demonstrations(setting)
    with _writer(setting) as (writer, pool, tokenizer):
        require_meta_prompt(config, tokenizer)
        fit = fitting(shown, tokenizer, reveal, config.engines.max_model_len)
        if len(fit) < len(shown):
            say(
                f"the meta-prompt shows {len(fit)} of {len(shown)} demonstrations, as many as "
                f"engines.max_model_len {config.engines.max_model_len} has room for"
            )
        shown = list(fit)
        meta = meta_prompt(shown, tokenizer, reveal.soft_place)
        reader = FeatureReader(writer.checkpoint, config.engines.dtype, config.trust_remote_code)
        embeddings = InputEmbeddings(reader, on_gpu=config.engines.gpus_each > 0)
        scale = embeddings.std() if reveal.soft_scale == "embedding" else None
        arms = ArmTable(
            reveal.arms,
            reveal.sobol_dimension,
            reveal.soft_tokens,
            embeddings.hidden,
            setting.bench.config.seed,
            scale,
        )
        sides = embeddings.of(meta.before), embeddings.of(meta.after)
        decoder = InstructionDecoder(pool, writer, arms, *sides, reveal.instruction_tokens)
        instructions, kept = decoded_arms(reveal, decoder)
    if not kept:
        raise InputError(
            f"reveal.arms: all {len(arms)} soft prompts decode to nothing; expected instructions "
            "(another reveal.soft_scale, fewer reveal.soft_tokens or another reveal.writer)"
        )
    known = [meta.after] * len(kept)
    if reveal.features == "instruction":
        told = [encoded_on(tokenizer, f" {instructions[n]}") for n in kept]
        known = [(*meta.after, *ids) for ids in told]
    gpus = 1 if config.workers.gpus_each else 0
    if gpus:
        setting.bench.make_room(reading=True)
    features = read_features(gpus, reader, arms, kept, meta.before, known)
    rows = [
        Arm(number, tuple(map(float, arms.coordinates[number])), instructions[number])
        for number in kept
    ]
    with replacing(features_path) as aside, aside.open("wb") as handle:
        np.save(handle, features)
    write_rows(path, rows)
    return Table(rows, features)


class FeatureActor:
    """`arm_features` in a process of its own; one that answers has found its place."""

    def ready(self) -> bool:
        return True

    def features(self, *given: Any) -> np.ndarray:
        return arm_features(*given)


def read_features(gpus: int, *given: Any) -> np.ndarray:
    """`arm_features` of what is given, on so many GPUs (0: on all cores); Ray must run.

    Raises InputError where Ray has found no place with so many.
    """
    import ray

    from rnr_dist.machine.actors import KEPT, ask, started

    actor = ray.remote(FeatureActor).options(**KEPT, num_gpus=gpus).remote()
    try:
        started(actor.ready.remote(), f"features of arms, for which workers.gpus_each asks {gpus}")
        found: np.ndarray = ask(lambda: actor.features.remote(*given))
        return found
    finally:
        ray.kill(actor)


def fitting(
    shown: Sequence[tuple[str, str]], tokenizer: Any, reveal: Reveal, window: int
) -> Sequence[tuple[str, str]]:
    """As many of the pairs, from the first on, as leave an instruction room in `window` tokens."""
    for count in range(len(shown), 0, -1):
        if meta_tokens(shown[:count], tokenizer, reveal) <= window:
            return shown[:count]
    return []


def demonstrations(setting: Setting) -> list[tuple[str, str]]:
    """The base model's own most relevant (context, response) pairs, never references."""
    path = setting.folder / "demonstrations.json"
    if path.exists():
        return read(path, list[tuple[str, str]])
    reveal = setting.reveal
    sampling = reveal.response.model_copy(update={"n": DEMONSTRATION_DRAWS})
    asked = setting.asked("", setting.reveal_contexts)
    describe = "the model's own responses"
    samples = sample_model(setting.bench, setting.bench.base, asked, sampling, describe)
    best: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: -sample.score):
        if sample.text.strip():
            best.setdefault(sample.context_id, sample)
    pairs = [(one_line(s.prompt), one_line(s.text)) for s in best.values()]
    write_json(path, pairs[: reveal.demonstrations])
    bare = float(np.mean([sample.score for sample in samples]))
    say(f"relevance of the model's responses without an instruction: {bare:.3f}")
    return pairs[: reveal.demonstrations]


@dataclass(frozen=True)
class InstructionDecoder:
    """What turns soft prompts into instructions: a writer and the meta-prompt's two sides."""

    pool: Endpoint
    writer: ModelRef
    arms: ArmTable
    before: np.ndarray
    after: np.ndarray
    tokens: int

    def decode(self, numbers: Sequence[int], temperature: float) -> list[str]:
        """One instruction for each of these arms; an empty string where nothing came."""
        sampling = SamplingSettings(1, self.tokens, temperature, 0.9 if temperature else 1.0)
        size = self.before.nbytes + self.arms.soft_prompt(0).nbytes + self.after.nbytes
        together = max(16, DECODED_BYTES // size)
        instructions: list[str] = []
        for first in range(0, len(numbers), together):
            part = numbers[first : first + together]
            requests = decode_requests(self.arms, part, self.before, self.after, sampling)
            responses = self.pool.run(
                self.writer, requests, f"decoding instructions of {len(numbers)} arms"
            )
            instructions += [instruction_of(response) for response in responses]
        return instructions


def decoded_arms(reveal: Reveal, decoder: InstructionDecoder) -> tuple[list[str], list[int]]:
    """The instruction of each arm, and the arms that enter the table.

    Greedily, a small model may decode all soft prompts alike. Where that leaves `default` mode
    fewer arms than it is to pull, those that repeat another are decoded again, sampled.
    """
    each_once = reveal.mode == "default"
    numbers = range(len(decoder.arms))
    instructions = decoder.decode(numbers, reveal.instruction_temperature)
    kept = _kept(instructions, each_once)
    wanted = min(len(numbers), reveal.budget * reveal.outer_iterations)
    if each_once and reveal.instruction_temperature == 0 and len(kept) < wanted:
        again = sorted(set(numbers) - set(kept))
        for number, text in zip(again, decoder.decode(again, RESAMPLED), strict=True):
            instructions[number] = text
        kept = _kept(instructions, each_once)
    return instructions, kept


def _kept(instructions: list[str], each_once: bool) -> list[int]:
    """Numbers of the arms that enter the table."""
    told = [number for number, instruction in enumerate(instructions) if instruction]
    first: dict[str, int] = {}
    for number in told:
        first.setdefault(_normalised(instructions[number]), number)
    silent = len(instructions) - len(told)
    nothing = f", {silent} said nothing" if silent else ""
    say(f"{len(first)} different instructions of {len(instructions)} soft prompts{nothing}")
    return sorted(first.values()) if each_once else told


def _normalised(instruction: str) -> str:
    return instruction.casefold().rstrip(".")


@contextlib.contextmanager
def _writer(setting: Setting) -> Iterator[tuple[ModelRef, Endpoint, Any]]:
    """Who decodes soft prompts: (model, pool, tokenizer)."""
    config = setting.bench.config
    if not config.reveal.writer:
        yield setting.bench.base, setting.bench.endpoint, setting.bench.tokenizer
        return
    from transformers import AutoTokenizer

    from rnr_dist.generate.cluster_pool import generator_pool  # loads Ray
    from rnr_dist.weights.checkpoints import resolve_model

    writer = resolve_model(config.reveal.writer, config.trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(
        writer.checkpoint, trust_remote_code=config.trust_remote_code
    )
    say(f"starting a generator of {config.reveal.writer}")
    one = config.engines.model_copy(update={"count": 1})
    with generator_pool(config.model_copy(update={"engines": one}), writer) as pool:
        yield writer, pool, tokenizer
