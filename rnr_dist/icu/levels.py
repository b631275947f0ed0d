"""What counts as forgotten: what a model reaches on sequences that it never saw.

In: a reading of never-seen sequences, and how near each is to those that are to be forgotten. Out:
`Levels`: of the averages, and of each sequence. Invariant: a limit that the config gives stands
for every sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rnr_dist.bench import Machine
from rnr_dist.config.icu import IcuConfig, Pairing
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.icu.data import IcuData
from rnr_dist.icu.forgotten import Counted, Limits
from rnr_dist.icu.pairing import make_index
from rnr_dist.run.directory import read, write
from rnr_dist.run.progress import say
from rnr_dist.types import ModelRef, TokenSequence


@dataclass(frozen=True)
class Levels:
    """average: at or below which unlearning ends. own: by a sequence's id, at which it leaves.
    tokens: by token id, mean nats (-log q) in never-seen sequences."""

    average: Limits
    own: Mapping[str, Limits]
    tokens: Mapping[int, float]

    def of(self, sequences: Sequence[TokenSequence]) -> tuple[Limits, ...]:
        """Each sequence's own level."""
        return tuple(self.own[sequence.id] for sequence in sequences)


def level_of(figures: Mapping[str, np.ndarray], members: Sequence[int], quantile: float) -> Limits:
    """Level of some never-seen sequences: of a and b the quantile, of EL and MA the mean, since
    those are what averages are asked to reach.

    figures: {measure: (never seen,)}.
    """
    chosen = {measure: values[list(members)] for measure, values in figures.items()}
    return Limits(
        float(np.quantile(chosen["bertscore"], quantile)),
        float(np.quantile(chosen["bleu"], quantile)),
        float(chosen["extraction"].mean()),
        float(chosen["memorisation"].mean()),
    )


def nearest(
    vectors: np.ndarray, unseen: np.ndarray, neighbours: int, settings: Pairing, gpu: bool = False
) -> list[list[int]]:
    """Rows of `unseen` (n, d) by inner product to each row of `vectors` (m, d), nearest first, as
    pairs are found."""
    index = make_index(unseen, settings.approximate_above, gpu)
    wanted = min(neighbours, len(unseen))
    _, rows = index.search(np.ascontiguousarray(vectors, np.float32), wanted)
    return [[int(at) for at in row if at >= 0] for row in rows]


def token_nats(
    sequences: Sequence[Sequence[int]], log_likelihoods: Sequence[Sequence[float]]
) -> dict[int, float]:
    """{token id: mean -log q} over sequences, of all their tokens but the first."""
    found: dict[int, list[float]] = {}
    for token_ids, values in zip(sequences, log_likelihoods, strict=True):
        for token, value in zip(token_ids[1:], values, strict=True):
            found.setdefault(token, []).append(-value)
    return {token: float(np.mean(nats)) for token, nats in sorted(found.items())}


def reachable(own: Limits, average: Limits) -> Limits:
    """A sequence's level, of EL not below the average's: of a few neighbours EL is often 0, and no
    sequence need be lower than the average is to be."""
    return replace(own, extraction=max(own.extraction, average.extraction))


def find_levels(
    config: IcuConfig, data: IcuData, machine: Machine, known: ModelRef, folder: Path
) -> Levels:
    """Limits of the config, and where it leaves one out what never-seen sequences reach.

    Read once, into `folder`/levels.json.
    """
    path = folder / "levels.json"
    if not path.exists():
        write(path, _read(config, data, machine, known))
    measured = read(path, Levels)
    given, stop = config.refinement, config.stopping
    chosen = {
        "bertscore": given.bertscore_below,
        "bleu": given.bleu_below,
        "extraction": stop.extraction,
        "memorisation": stop.memorisation,
    }
    fixed = {measure: value for measure, value in chosen.items() if value is not None}
    average = replace(measured.average, **fixed)
    own = {name: reachable(replace(one, **fixed), average) for name, one in measured.own.items()}
    levels = Levels(average, own, measured.tokens)
    say(
        f"forgotten: BERTScore below {_range(levels, 'bertscore')} {given.combine} BLEU below "
        f"{_range(levels, 'bleu')}; end at EL {average.extraction:.4f} and MA "
        f"{average.memorisation:.3f}"
    )
    return levels


def _range(levels: Levels, measure: str) -> str:
    """`0.780`, or `0.651 to 0.810` where sequences differ."""
    found = sorted({f"{getattr(own, measure):.3f}" for own in levels.own.values()})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _read(config: IcuConfig, data: IcuData, machine: Machine, known: ModelRef) -> Levels:
    from rnr_dist.icu.actors import embedded, similarity_of
    from rnr_dist.icu.judging import recalled

    t0, tokenizer, rule = config.task.prefix_tokens, machine.tokenizer, config.refinement
    counted, eos = Counted.by(config), tokenizer.eos_token_id
    found = recalled(machine.pool, config, known, data.unseen, eos, counted.prefixes, "never seen")
    said = [tokenizer.decode(one.continuation, skip_special_tokens=True) for one in found]
    truth = [tokenizer.decode(sequence.token_ids[t0:]) for sequence in data.unseen]
    with similarity_of(config, machine) as similarity:
        alike, bleu = similarity(said, truth)
    figures = {
        "bertscore": np.asarray(alike),
        "bleu": np.asarray(bleu),
        "extraction": np.array([one.extraction for one in found]),
        "memorisation": np.array([one.accuracy(counted.tokens) for one in found]),
    }
    ids = [sequence.token_ids for sequence in data.unseen]
    answers = machine.pool.run(known, [ReadLikelihood(one) for one in ids])
    wanted = [*data.forget, *data.tuning]
    everyone = [[*range(len(data.unseen))]] * len(wanted)
    if rule.neighbours:
        texts = [sequence.text for sequence in [*wanted, *data.unseen]]
        gpu, own = config.workers.gpus_each > 0, len(wanted)
        vectors = embedded(config.pairing.embedder, texts, gpu)
        everyone = nearest(vectors[:own], vectors[own:], rule.neighbours, config.pairing, gpu)
    quantile = rule.calibration_quantile
    return Levels(
        level_of(figures, range(len(data.unseen)), quantile),
        {
            sequence.id: level_of(figures, members, quantile)
            for sequence, members in zip(wanted, everyone, strict=True)
        },
        token_nats(ids, [answer.log_likelihoods for answer in answers]),
    )
