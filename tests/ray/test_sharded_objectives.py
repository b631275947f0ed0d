"""Every objective under DeepSpeed in one process: ZeRO-3's partitions against whole weights."""

import pytest
import torch

from rnr_dist.config.training import Training, Workers
from rnr_dist.train.collate import Example, Item, collate, texts
from rnr_dist.train.job import Job
from rnr_dist.train.objectives import make_objective
from rnr_dist.train.worker import build_engine, save_trained
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import load_adapter, save_adapter

A, B, C, D = (
    Example(tuple((7 * n + place * place) % 61 for place in range(length)), prompt)
    for n, (length, prompt) in enumerate([(7, 3), (11, 2), (6, 5), (8, 1)])
)
ITEMS = {
    "causal": texts([A, B, C, D]),
    "orthogonal": texts([A, B, C, D]),
    "dpo": [Item.of(chosen=[A], rejected=[B], retain=[C]), Item.of(chosen=[C], rejected=[D])],
    "cmd": [Item.of(positive=[A], negative=[B, C]), Item.of(positive=[D])],
    "rmu": [Item.of(forget=[A], retain=[B]), Item.of(forget=[C], retain=[D])],
    "icu": [Item.of(forget=[A], learn=[B]), Item.of(forget=[C], learn=[D])],
    "kl": [Item.of(forget=[A], learn=[B]), Item.of(forget=[C], learn=[D])],
    "kumpr": [Item.of(forget=[A]), Item.of(forget=[C])],
    "npo": [Item.of(forget=[A], retain=[B]), Item.of(forget=[C])],
    "llmu": [Item.of(forget=[A], mismatch=[D, B], learn=[B]), Item.of(forget=[C], learn=[D])],
}
MORE = {
    "dpo": {"objective": {"name": "dpo", "retain_weight": 0.5}},
    "rmu": {
        "objective": {"name": "rmu", "layer": 0},
        "parameters": "matrices",
        "target_modules": ["down_proj"],
        "layers": [0],
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_llama):
    """A checkpoint less a forget adapter."""
    folder = tmp_path_factory.mktemp("sharded")
    checkpoint = tiny_llama(folder / "base", vocabulary=61)
    ref = ModelRef(str(checkpoint), checkpoint_digest(checkpoint))
    factors = {"model.layers.1.self_attn.q_proj": (torch.randn(2, 32), torch.randn(32, 2) / 9)}
    term = save_adapter(
        folder / "term", factors, alpha=2, base="", trained_on=ref.digest, side="forget"
    )
    return ref.plus(-0.5, term)


pytestmark = pytest.mark.usefixtures("process_group")


@pytest.mark.parametrize("name", ITEMS)
def test_zero_3_trains_like_zero_0_with_checkpoints_and_idle_micro_batches(name, base, tmp_path):
    def trained(stage, checkpointing):
        training = Training(
            **{"objective": {"name": name}, **MORE.get(name, {})},
            rank=2,
            alpha=8,
            learning_rate=1e-3,
            warmup_share=0,
            gradient_checkpointing=checkpointing,
        )
        workers = Workers(dtype="float32", zero_stage=stage)
        job = Job(None, base, training, workers, tmp_path / str(stage), seed=3)
        objective = make_objective(training.objective)
        engine = build_engine(job, objective, steps=3)
        totals = objective.counts(ITEMS[name])
        for _ in range(2):
            for part in (ITEMS[name][:1], ITEMS[name][1:], []):
                terms = engine(collate(part, objective.parts))
                loss = sum(terms[key][0] / totals[key] for key in totals)
                engine.backward(loss, scale_wrt_gas=False)
            engine.step()
        save_trained(engine, job, {})
        return load_adapter(job.output)

    whole, sharded = trained(0, False), trained(3, True)
    assert whole.keys() == sharded.keys()
    assert any(b.any() for _, b, _ in whole.values())
    for module, (a, b, _) in whole.items():
        torch.testing.assert_close(sharded[module][:2], (a, b), atol=1e-6, rtol=0)
