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

from rnr_dist.bench import Bench
from rnr_dist.config.unlearning import Pairing
from rnr_dist.data.pairing import make_index
from rnr_dist.icu.job import Counted
from rnr_dist.icu.leaving import Limits
from rnr_dist.measures.memorisation import recall
from rnr_dist.measures.pool_reader import PoolReader
from rnr_dist.run.codec import from_plain, to_plain
from rnr_dist.run.once import once
from rnr_dist.run.progress import say
from rnr_dist.tasks.sequences import SequenceTask
from rnr_dist.types import ModelRef, TokenSequence


@dataclass(frozen=True)
class Levels:
    """average: at or below which unlearning ends. own: by a sequence's id, at which it leaves."""

    average: Limits
    own: Mapping[str, Limits]

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
    vectors: np.ndarray, unseen: np.ndarray, neighbours: int, settings: Pairing
) -> list[list[int]]:
    """Rows of `unseen` (n, d) by inner product to each row of `vectors` (m, d), nearest first, as
    pairs are found."""
    index = make_index(unseen, settings.approximate_above)
    wanted = min(neighbours, len(unseen))
    _, rows = index.search(np.ascontiguousarray(vectors, np.float32), wanted)
    return [[int(at) for at in row if at >= 0] for row in rows]


def reachable(own: Limits, average: Limits) -> Limits:
    """A sequence's level, of EL not below the average's: of a few neighbours EL is often 0, and no
    sequence need be lower than the average is to be."""
    return replace(own, extraction=max(own.extraction, average.extraction))


def find_levels(bench: Bench, task: SequenceTask, known: ModelRef, folder: Path) -> Levels:
    """Limits of the config, and where it leaves one out what never-seen sequences reach.

    Read once of these sequences by these settings, into `folder`/levels.json.
    """
    config = bench.config
    given, stop = config.refinement, config.stopping
    inputs = [
        known.digest,
        [[one.id for one in part] for part in (task.unseen, task.forget, task.tuning)],
        *(part.model_dump(mode="json") for part in (given, stop, config.pairing)),
    ]
    path = folder / "levels.json"
    found = once(path, inputs, lambda: to_plain(_read(bench, task, known)))
    measured = from_plain(Levels, found, str(path))
    chosen = {
        "bertscore": given.bertscore_below,
        "bleu": given.bleu_below,
        "extraction": stop.extraction,
        "memorisation": stop.memorisation,
    }
    fixed = {measure: value for measure, value in chosen.items() if value is not None}
    average = replace(measured.average, **fixed)
    own = {name: reachable(replace(one, **fixed), average) for name, one in measured.own.items()}
    levels = Levels(average, own)
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


def _read(bench: Bench, task: SequenceTask, known: ModelRef) -> Levels:
    figures = _figures(bench, task, known)
    wanted = [*task.forget, *task.tuning]
    everyone = [*range(len(task.unseen))]
    quantile = bench.config.refinement.calibration_quantile
    return Levels(
        level_of(figures, everyone, quantile),
        {
            sequence.id: level_of(figures, members, quantile)
            for sequence, members in zip(wanted, _neighbours(bench, task, wanted), strict=True)
        },
    )


def _figures(bench: Bench, task: SequenceTask, known: ModelRef) -> dict[str, np.ndarray]:
    """{measure: (never seen,)}."""
    from rnr_dist.measures.similarity import similarity_scores

    rule, tokenizer = bench.config.refinement, bench.tokenizer
    counted = Counted.by(bench.config, task.counting)
    reader = PoolReader(bench.endpoint, known, "never seen")
    found = recall(reader, task.unseen, counted.counting, counted.prefixes)
    said = [tokenizer.decode(one.continuation, skip_special_tokens=True) for one in found]
    truth = [tokenizer.decode(one.token_ids[one.prefix_tokens :]) for one in task.unseen]
    with similarity_scores(rule.scorer, rule.scorer_layer) as similar:
        bertscore, bleu = similar(said, truth)
    recalled = [
        one.accuracy(counted.first_token(sequence))
        for one, sequence in zip(found, task.unseen, strict=True)
    ]
    return {
        "bertscore": np.asarray(bertscore),
        "bleu": np.asarray(bleu),
        "extraction": np.array([one.extraction for one in found]),
        "memorisation": np.array(recalled),
    }


def _neighbours(
    bench: Bench, task: SequenceTask, wanted: Sequence[TokenSequence]
) -> list[list[int]]:
    """The never-seen sequences that each one's level is read on, by number."""
    from rnr_dist.score.actors import embedded

    config = bench.config
    if not config.refinement.neighbours:
        return [[*range(len(task.unseen))]] * len(wanted)
    texts = [sequence.text for sequence in [*wanted, *task.unseen]]
    own = len(wanted)
    vectors = embedded(config.pairing.embedder, texts, bench.placement.embedder_gpus)
    neighbours = config.refinement.neighbours
    return nearest(vectors[:own], vectors[own:], neighbours, config.pairing)
