"""Every objective under DeepSpeed in one process: ZeRO-3's partitions against whole weights."""

import pytest
import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from rnr_dist.config.training import Training, Workers
from rnr_dist.train.collate import Example, Item, collate, texts
from rnr_dist.train.deepspeed import deepspeed_config
from rnr_dist.train.divided import composed, gathered, whole
from rnr_dist.train.job import Job
from rnr_dist.train.objectives import make_objective
from rnr_dist.train.states import finite
from rnr_dist.train.worker import build_engine, save_trained
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import load_adapter, save_adapter
from tests.unit.tiny_models import capped_gemma, gpt_neo

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


def steps_of(base, folder, training, workers, between=lambda engine: None):
    """An engine after two steps on the causal items, and its job; `between` comes between."""
    job = Job(None, base, training, workers, folder, seed=3)
    objective = make_objective(training.objective)
    engine = build_engine(job, objective, steps=3)
    for number in range(2):
        with torch.enable_grad():
            [(total, count)] = engine(collate(ITEMS["causal"], objective.parts)).values()
            engine.backward(total / count, scale_wrt_gas=False)
            engine.step()
        if not number:
            between(engine)
    return engine, job


def weights_after(base, folder, training, workers, between=lambda engine: None):
    """{name: weight} of all that is trained, as it is saved."""
    engine, _ = steps_of(base, folder, training, workers, between)
    with whole(engine):
        weights = engine.module.trained.model.named_parameters()
        return {name: value.detach().clone() for name, value in weights if value.requires_grad}


def assert_alike(found, wanted, atol):
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, atol=atol, rtol=0)


LORA = Training(rank=2, alpha=8, learning_rate=1e-3, warmup_share=0)
FULL = LORA.model_copy(update={"parameters": "full"})


@pytest.mark.parametrize("training", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize(
    ("stage", "offload"), [(1, "optimiser"), (2, "optimiser"), (3, "optimiser"), (3, "weights")]
)
def test_what_is_offloaded_is_trained_alike(base, tmp_path, training, stage, offload):
    wanted = weights_after(base, tmp_path, training, Workers(dtype="float32"))
    workers = Workers(dtype="float32", zero_stage=stage, offload=offload)
    assert_alike(weights_after(base, tmp_path, training, workers), wanted, 1e-6)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_all_weights_are_trained_in_mixed_precision_at_each_stage(base, tmp_path, stage):
    """fp32 weights that compute in bfloat16: the same at each stage, and none rounded to it."""
    wanted = weights_after(base, tmp_path, FULL, Workers(dtype="bfloat16"))
    found = weights_after(base, tmp_path, FULL, Workers(dtype="bfloat16", zero_stage=stage))
    assert_alike(found, wanted, 1e-6)
    assert all(weight.dtype == torch.float32 for weight in found.values())
    assert any((w.bfloat16().float() != w).any() for w in found.values())
    exact = weights_after(base, tmp_path, FULL, Workers(dtype="float32"))
    assert any(not torch.equal(found[name], exact[name]) for name in exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [None, capped_gemma, gpt_neo], ids=["llama", "gemma", "gpt_neo"])
def test_at_stage_3_a_model_is_divided_while_it_is_loaded(base, tmp_path, kind, dtype):
    if kind:
        kind().save_pretrained(tmp_path / "model")
        base = ModelRef(str(tmp_path / "model"), checkpoint_digest(tmp_path / "model"))

    def load(stage):
        workers = Workers(dtype=dtype, zero_stage=stage)
        job = Job(None, base, LORA, workers, tmp_path, seed=3)
        return composed(job, dtype, deepspeed_config(workers, LORA))

    plain, divided = load(0), load(3)
    assert {value.numel() for value in divided.parameters()} == {0}
    assert not any(hasattr(value, "ds_id") for value in plain.parameters())
    assert not is_deepspeed_zero3_enabled()  # the next model of this process is whole
    buffers = dict(plain.named_buffers())
    assert_alike(dict(divided.named_buffers()), buffers, 0)
    with gathered(divided):
        found = {name: value.detach().clone() for name, value in divided.named_parameters()}
    weights = dict(plain.named_parameters())
    assert {value.dtype for value in found.values()} == {getattr(torch, dtype)}
    assert_alike(found, weights, 0)


def test_a_divided_model_runs_unequally_often_between_steps_and_trains_on(base, tmp_path):
    """Within `whole` nothing is gathered or divided, so a rank's passes are its own affair."""
    ids = torch.tensor([A.token_ids])
    read = []

    def look(engine):
        module = engine.module.trained.model
        with whole(engine), torch.no_grad():
            sizes = [value.numel() for value in module.parameters()]
            for _ in range(3):
                read.append(module(input_ids=ids).logits)
            assert [value.numel() for value in module.parameters()] == sizes
            assert min(sizes) > 0
        assert min(value.numel() for value in module.parameters()) == 0

    workers = Workers(dtype="float32", zero_stage=3)
    found = weights_after(base, tmp_path, FULL, workers, look)
    assert torch.equal(read[0], read[2])
    assert_alike(found, weights_after(base, tmp_path, FULL, Workers(dtype="float32")), 1e-6)


def test_a_weight_that_is_no_number_is_seen_where_it_is_divided(base, tmp_path):
    engine, _ = steps_of(base, tmp_path, LORA, Workers(dtype="float32", zero_stage=3))
    assert finite(engine)
    trained = [value for value in engine.module.parameters() if value.requires_grad]
    trained[-1].ds_tensor.data[0] = float("nan")
    assert not finite(engine)
