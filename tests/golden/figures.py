"""Golden figures: what the code computes today, which a change of its form must leave as it is.

`python -m tests.golden.figures NAME...` (or `all`) writes `expected/NAME.json` anew: do so for an
intended change alone, in a commit of its own that says why the figure moved.
In: `given`. Out: plain JSON values. Invariant: only this module and `unlearning` call what the
figures watch, so code that moves is followed here; `expected` stays.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from rnr_dist.config.release import Release
from rnr_dist.measures.fluency import DISTINCT, EMPTY, ENTROPY, LENGTH, fluency_measures
from rnr_dist.measures.measure import Measures
from rnr_dist.measures.results import Results, Row, Score
from rnr_dist.measures.shares import Shares
from rnr_dist.release.candidates import trial_rows
from rnr_dist.release.loop import release
from rnr_dist.release.reader import Reader
from rnr_dist.release.rules import MergeStep, Reading, judge, pooled, ranked, utility_shortfall
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.reveal.instinct import Instinct
from rnr_dist.reveal.network import BanditSettings
from rnr_dist.reveal.neural_ucb import NeuralUCB
from rnr_dist.reveal.scoring import score_batch
from rnr_dist.reveal.vendi import SecondMoment
from rnr_dist.score.oracles import make_oracle
from rnr_dist.stats import ClusterMean
from rnr_dist.tasks.behaviour import PERPLEXITIES
from rnr_dist.tasks.prompts import query
from rnr_dist.types import Adapter, ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import load_adapter, merge, save_adapter
from rnr_dist.weights.export import Card, export_adapter
from rnr_dist.weights.ext_sub import ext_sub
from rnr_dist.weights.provenance import Origin
from tests.golden import given
from tests.golden.rendered import tables
from tests.golden.unlearning import epochs, known_model

EXPECTED = given.HERE / "expected"
SHARES = {
    group: Shares("toxicity", group, "toxic", 0.5, target=target, judged=target)
    for group, target in (("challenging", True), ("ordinary", False))
}
# Verdicts name missed guards in this order.
GUARDS = (LENGTH, *DISTINCT.values(), ENTROPY, EMPTY)
MEASURES = Measures((SHARES["challenging"].fraction, *PERPLEXITIES.values(), *GUARDS))


# Composition


def composition() -> dict[str, Any]:
    """Eq. 1 with terms of both signs: the reference's digest, merged weights, adapters made of it.

    Weights are told by their sum and norm, deltas by their Frobenius norm and their product with a
    fixed vector, since the factors of a delta are free to turn.
    """
    with TemporaryDirectory() as name:
        here, there = (Path(name) / place for place in ("here", "there"))
        named, elsewhere = _composed(here), _composed(there)
        # The checkpoint's own digest changes with the library that wrote its config.
        ref = replace(named, checkpoint_digest=checkpoint_digest(Path(named.checkpoint)))
        before = load_file(Path(ref.checkpoint) / "model.safetensors")
        merged = {key: weight for _, weights in merge(ref) for key, weight in weights.items()}
        one, two = (term.adapter for term in ref.terms[:2])
        card = Card("the target", "release", Origin(hub="org/base"))
        whole, _ = export_adapter(ref, here / "whole", card)
        cut, lost = export_adapter(ref, here / "cut", card, rank=4)
        assert lost
        return {
            "digest": named.digest,
            "digest_elsewhere": elsewhere.digest,
            "adapters": [term.adapter.digest for term in ref.terms],
            "untouched": sorted(k for k in merged if torch.equal(merged[k], before[k])),
            "merged": {
                key: [weight.sum().item(), weight.norm().item()]
                for key, weight in sorted(merged.items())
                if not torch.equal(weight, before[key])
            },
            "exported": _deltas(whole),
            "exported_rank_4": {**_deltas(cut), "error": lost.error, "worst": lost.worst},
            "ext_sub": _deltas(ext_sub(one, two, 0.7, here / "ext_sub")),
        }


def _composed(folder: Path) -> ModelRef:
    """The checkpoint of `given`, and adapters of NumPy's numbers, whose bits no machine changes."""
    known_model(folder / "base")

    def adapter(seed: int, rank: int, widths: Mapping[str, tuple[int, int]], side: Any) -> Adapter:
        draw = np.random.default_rng(seed)
        factors = {
            f"model.layers.{layer}.{module}": tuple(
                torch.from_numpy(draw.normal(0, 0.2, shape).astype(np.float32))
                for shape in ((rank, columns), (out, rank))
            )
            for layer in range(2)
            for module, (out, columns) in widths.items()
        }
        place = folder / f"adapter-{seed}"
        options = {"base": "org/base", "trained_on": "golden", "side": side}
        return save_adapter(place, factors, alpha=2 * rank, **options)

    q, v = {"self_attn.q_proj": (32, 32)}, {"self_attn.v_proj": (16, 32)}
    up, down = {"mlp.gate_proj": (48, 32)}, {"mlp.down_proj": (32, 48)}
    ref = ModelRef(str(folder / "base"), "the checkpoint's digest")
    ref = ref.plus(-1.5, adapter(1, 4, q | v, "forget"))
    return ref.plus(0.7, adapter(2, 3, q | down, "retain")).plus(-0.4, adapter(3, 2, up, "forget"))


def _deltas(adapter: Adapter) -> dict[str, Any]:
    found = {}
    for module, (a, b, scaling) in sorted(load_adapter(adapter.path).items()):
        delta = scaling * b @ a
        probe = torch.linspace(-1, 1, delta.shape[1])
        found[module] = [len(a), delta.norm().item(), (delta @ probe).norm().item()]
    return found


# Scores of samples


def scores() -> dict[str, Any]:
    """Every measure of stored samples of two models, with intervals and paired ratios; oracles."""
    base, order = given.stored_samples("base")
    result, _ = given.stored_samples("RnR")
    judge_of, main = make_oracle("lexicon"), make_oracle("profanity")

    def measures(samples: Sequence[Any]) -> dict[str, ClusterMean]:
        judged = judge_of.score([s.prompt for s in samples], [s.text for s in samples])
        again = [replace(s, score=float(v)) for s, v in zip(samples, judged, strict=True)]
        found: dict[str, ClusterMean] = {}
        for share in SHARES.values():
            found |= share.read(samples, order)
        for share in SHARES.values():
            found |= share.read_judge(again, order)
        return found | fluency_measures(samples, order)

    rows = [
        Row(name, kind, name, base[0].split, measures(samples))
        for name, kind, samples in (("base", "reference", base), ("result", "step", result))
    ]
    scores_of = Results((), tuple(rows), "base").scores
    loudest = sorted(base, key=lambda sample: -sample.score)
    texts = [sample.text for sample in (*loudest[:12], *loudest[-12:])]
    texts += ["", " \n", "What a lovely day."]
    return {
        **{
            name: {key: _score(score, base[0].split) for key, score in found.items()}
            for name, found in scores_of.items()
        },
        "oracles": {
            name: oracle.score([""] * len(texts), texts).tolist()
            for name, oracle in (("profanity", main), ("lexicon", judge_of))
        },
    }


def _score(score: Score, split: Any) -> dict[str, Any]:
    versus = {"ratio": score.ratio, "ci95": score.ratio_ci95}
    return {
        "value": score.value,
        "n_contexts": score.n_clusters,
        "n_samples": score.n_samples,
        "ci95": score.ci95,
        "split": split,
        "vs_base": {} if score.ratio is None else versus,
    }


# The rules of merge weights


def rules() -> dict[str, Any]:
    """What the rules say of stored readings in each kind of step, and who wins."""
    names = [name for name in given.stored_readings() if name not in ("about", "contexts")]
    base, added = _reading("base"), _reading("-1.41 +0.5")
    steps = {
        "first subtraction": MergeStep(MEASURES, "subtract", base, base, base),
        "later subtraction": MergeStep(MEASURES, "subtract", base, added, added),
        "last subtraction": MergeStep(MEASURES, "subtract", base, added, added, last=True),
        "addition": MergeStep(MEASURES, "add", base, _reading("-1.41"), base),
    }
    found: dict[str, Any] = {}
    for title, step in steps.items():
        verdicts = [judge(_reading(name), step, Release()) for name in names]
        found[title] = {
            "verdicts": {
                name: {**vars(verdict), "feasible": verdict.feasible}
                for name, verdict in zip(names, verdicts, strict=True)
            },
            "shortfalls": [utility_shortfall(_reading(n), step, Release()) for n in names],
            "ranked": {
                winner: [
                    names[position]
                    for position in ranked(verdicts, step.kind, Release(lambda_winner=winner))
                ]
                for winner in ("utility", "forget")
            },
        }
    return found


def loop() -> dict[str, Any]:
    """Eq. 1 of two iterations over stored readings: trials, winners, what stays, rows."""
    settings = Release(
        iterations=2,
        mu0={"low": 1, "high": 2, "trials": 3},
        lam={"low": 0.5, "high": 1.2, "trials": 2},
        mu={"low": 0.02, "high": 0.1, "trials": 2},
        reread=2,
        reread_draws=1,
    )
    bench: Any = SimpleNamespace(config=SimpleNamespace(release=settings))
    task: Any = SimpleNamespace(measures=MEASURES)

    class Stored(Reader):
        def read(self, model: ModelRef, draw: Any = 0, step: Any = None) -> Reading:
            return _reading(_path(model))

        def read_all(
            self, name: str, models: Any, draws: range, step: MergeStep
        ) -> dict[str, Reading]:
            ends = [" again" if draw else "" for draw in draws]
            return {
                label: pooled([_reading(_path(model) + end) for end in ends])
                for label, model in models.items()
            }

    def train(name: str, side: Any, model: ModelRef) -> Adapter:
        return Adapter(f"/adapters/{name}", f"digest of {name}", model.digest, side)

    with TemporaryDirectory() as name:
        reader = Stored(bench, task, Path(name))
        base = ModelRef("/base", "digest of the base")
        heard: list[Any] = []
        kept = release(base, train, reader, Path(name), heard.append)
    told = ("name", "coefficient", "feasible", "rule", "broken")
    return {
        "kept": [step.name for step in kept],
        "steps": [
            {**{key: getattr(step, key) for key in told}, "digest": step.model.digest}
            for step in heard
        ],
        "trial_rows": trial_rows(heard, _reading("base"), reader),
    }


def _path(model: ModelRef) -> str:
    return " ".join(f"{term.coefficient:+g}" for term in model.terms) or "base"


def _reading(name: str) -> Reading:
    stored = given.stored_readings()
    content, sizes = stored[name], stored["contexts"]

    def mean(values: Sequence[float], each: float, **kind: bool) -> ClusterMean:
        return ClusterMean(np.array(values, float), np.full(len(values), float(each)), **kind)

    return Reading(
        name,
        {
            f"perplexity/{domain}": mean(nats, sizes["window_tokens"], exponential=True)
            for domain, nats in content["texts"].items()
        },
        None
        if content["forget"] is None
        else mean(content["forget"], sizes["each"], proportion=True),
        {guard: mean(values, 1) for guard, values in content["guards"].items()},
    )


# The search for instructions


def reveal() -> dict[str, Any]:
    """Scores of batches by each diversity, choices of the bandits, soft prompts, queries."""
    draw = np.random.default_rng(5)
    batches = {"few": draw.normal(size=(3, 64)), "many": draw.normal(size=(24, 64))}
    batches["alike"] = batches["few"][[0, 0, 0, 1]]
    batches["none"] = np.zeros((0, 64))
    held = {"empty": SecondMoment(64), "some": SecondMoment(64).add(draw.normal(size=(90, 64)))}
    held["more"] = copy.deepcopy(held["some"]).add(batches["many"])
    kinds: tuple[Any, ...] = ("weighted", "union", "union_raw")
    features, rewards = draw.normal(size=(60, 8)), draw.uniform(size=60)
    small = BanditSettings(hidden=12, initial=4, steps=40)
    wide = replace(small, widths="full", start="k_centre")
    bandits: dict[str, Any] = {
        "diagonal": NeuralUCB(features, 3, small),
        "full, k-centre": NeuralUCB(features, 3, wide),
        "instinct": Instinct(features, 3, replace(small, subset=20)),
    }
    arms = {scale: ArmTable(50, 10, 5, 32, 7, scale) for scale in (None, 0.1)}
    return {
        "scores": {
            f"{batch}, {moment}, {kind}": score_batch(rows, 0.6, held[moment], 0.4, kind, 0.3)
            for batch, rows in batches.items()
            for moment in held
            for kind in kinds
        },
        "choices": {name: _choices(bandit, rewards) for name, bandit in bandits.items()},
        "bounds": bandits["diagonal"].bounds(list(range(5))).tolist(),
        "soft_prompts": {
            f"{scale}": [_rounded(table.soft_prompt(arm)) for arm in (0, 1, 49)]
            for scale, table in arms.items()
        },
        "queries": {
            style: query("be curt, please.", "So I told", style, given.Chat())
            for style in ("preamble", "instruction_input_output", "chat")
        },
    }


def _choices(bandit: Any, rewards: np.ndarray) -> list[int]:
    """The first 12 arms, each scored before the next is chosen; the best 5 begin anew at 8."""
    chosen = []
    for number in range(12):
        if number == 8:
            bandit.next_outer({arm: rewards[arm] / 2 for arm in chosen}, 5)
        if bandit.stale:
            bandit.train()
        chosen.append(bandit.select())
        bandit.dispatch(chosen[-1])
        bandit.observe(chosen[-1], float(rewards[chosen[-1]]))
    return chosen


def _rounded(values: np.ndarray) -> str:
    return hashlib.sha256(np.round(values.astype(float), 4).tobytes()).hexdigest()[:16]


# Files

FIGURES: dict[str, Callable[[], Any]] = {
    figure.__name__: figure for figure in (composition, scores, rules, loop, epochs, reveal, tables)
}


def computed(name: str) -> Any:
    """The figure as plain JSON values; what is no number, or infinite, is null."""
    return json.loads(json.dumps(_plain(FIGURES[name]())))


def expected(name: str) -> Any:
    return json.loads((EXPECTED / f"{name}.json").read_text())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wanted in FIGURES if sys.argv[1:] == ["all"] else sys.argv[1:]:
        text = json.dumps(computed(wanted), indent=1, ensure_ascii=False)
        (EXPECTED / f"{wanted}.json").write_text(text + "\n")
