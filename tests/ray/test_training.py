"""Adapter training on Ray and DeepSpeed against a few lines of plain PyTorch."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from ray.train import TrainingFailedError
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from rnr_dist.bench import Bench
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training, Workers
from rnr_dist.errors import InputError
from rnr_dist.methods.dpo import DpoSettings
from rnr_dist.train.collate import Batching, Example, Item, collate, plan_steps, texts
from rnr_dist.train.job import Job
from rnr_dist.train.objectives import make_objective
from rnr_dist.train.trainings import Trainings
from rnr_dist.train.worker import build_engine
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import adapter_digest, save_adapter
from tests.ray.processes import processes

SEED = 3
# The norms of these gradients lie on both sides of the limit, so that a wrong scale shows, which
# Adam alone would hide.
TRAINING = Training(
    rank=2,
    alpha=8,
    learning_rate=1e-3,
    epochs=1,
    batch_size=8,
    micro_batch_tokens=40,
    warmup_share=0.3,
    weight_decay=0.1,
    clip_norm=1.5,
    max_tokens=20,
)


class Heard:
    """A listener that hands on each report, with its step."""

    def __init__(self, hear=lambda report: None):
        self._hear = hear

    @contextlib.contextmanager
    def nested(self, name, params):
        yield

    def metrics(self, values, step=0):
        self._hear({**values, "step": step})


def adapters(folder, hear=lambda report: None, **workers):
    """Trainings below a folder, in fp32."""
    config = Config(
        name="t",
        task={"name": "extraction"},
        recipe="reveal-and-release",
        seed=SEED,
        workers={"cpus_each": 1, "dtype": "float32", **workers},
    )
    return Trainings(Bench(config), folder, Heard(hear))


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_llama):
    folder = tiny_llama(tmp_path_factory.mktemp("base"), vocabulary=61)
    return ModelRef(str(folder), checkpoint_digest(folder))


@pytest.fixture(scope="module")
def items():
    """Responses of very uneven length, some cut by max_tokens, one cut away altogether."""
    draw = random.Random(1)
    lengths = [(draw.randint(0, 9), draw.choice([1, 2, 15])) for _ in range(22)] + [(25, 4)]
    return texts(
        Example(tuple(draw.randrange(61) for _ in range(prompt + response)), prompt)
        for prompt, response in lengths
    )


@pytest.fixture(scope="module")
def pairs(items):
    """The responses against each other, and every third also to be retained."""
    sequences = [item["text"] for item in items[:-1]]
    return [
        Item.of(chosen=one, rejected=other, retain=one if number % 3 == 0 else ())
        for number, (one, other) in enumerate(zip(sequences, sequences[5:], strict=False))
    ]


def token_nlls(model, example):
    """-log p of each response token."""
    ids = torch.tensor(example.token_ids)
    logits = model(input_ids=ids[None]).logits[0]
    return cross_entropy(
        logits[example.first_label - 1 : -1], ids[example.first_label :], reduction="none"
    )


def mean_nll(model, items):
    return torch.cat([token_nlls(model, item["text"][0]) for item in items]).mean()


def preference(model, items):
    """DPO with beta .1 over the pairs, and half the mean NLL of the retained tokens."""

    def ratio(item):
        return (
            token_nlls(model, item["rejected"][0]).sum()
            - token_nlls(model, item["chosen"][0]).sum()
        )

    with torch.no_grad(), model.disable_adapter():
        before = [ratio(item) for item in items]
    gained = [ratio(item) - old for item, old in zip(items, before, strict=True)]
    retained = [token_nlls(model, text) for item in items for text in item["retain"]]
    losses = -torch.nn.functional.logsigmoid(0.1 * torch.stack(gained))
    return losses.mean() + 0.5 * torch.cat(retained).mean()


def plain_pytorch(checkpoint, items, training, loss_of=mean_nll):
    """The same training, one sequence at a time: ({name: LoRA weight}, losses, gradient norms)."""
    objective = make_objective(training.objective)
    usable = [item.cut(training.max_tokens) for item in items]
    usable = [item for item in usable if any(objective.counts([item]).values())]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    torch.manual_seed(SEED)
    model = get_peft_model(
        model,
        LoraConfig(r=training.rank, lora_alpha=8, target_modules=training.target_modules),
    ).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, weight_decay=training.weight_decay)
    lengths = [item.length for item in usable]
    plan = plan_steps(lengths, Batching(training.batch_size, 99, 1, SEED), training.epochs)
    losses, norms = [], []
    rising = -(-len(plan) * training.warmup_share // 1)
    for number, step in enumerate(plan):
        loss = loss_of(model, [usable[index] for index in step.indices])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, training.clip_norm).item())
        share = min((number + 1) / rising, (len(plan) - number) / (len(plan) - rising))
        optimiser.param_groups[0]["lr"] = training.learning_rate * share
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return {name.replace(".default", ""): w.detach() for name, w in named.items()}, losses, norms


def assert_same_training(adapter, wanted, losses):
    found = load_file(f"{adapter.path}/adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - weight).abs().max() <= 1e-6, name
    summary = json.loads(Path(adapter.path, "training.json").read_text())
    assert summary["losses"][-1] == pytest.approx(losses[-1], rel=1e-5)


def test_one_worker_that_accumulates_trains_like_plain_pytorch(ray_cluster, base, items, tmp_path):
    wanted, losses, norms = plain_pytorch(base.checkpoint, items, TRAINING)
    assert min(norms) < TRAINING.clip_norm < max(norms), norms
    reports = []
    trainings = adapters(tmp_path, reports.append)
    adapter = trainings.adapter("adapter", items, TRAINING, "forget", base)
    assert_same_training(adapter, wanted, losses)
    assert [report["step"] for report in reports] == [1, 2, 3]
    assert [report["loss"] for report in reports] == pytest.approx(losses, rel=1e-5)
    assert (adapter.side, adapter.trained_on) == ("forget", base.digest)
    assert adapter.digest == adapter_digest(adapter.path)


def test_two_workers_on_uneven_data_train_a_composed_model_like_plain_pytorch(
    ray_cluster, base, items, tmp_path
):
    model = AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=torch.float32)
    factors = {
        f"model.layers.{layer}.self_attn.o_proj": (torch.randn(2, 32), torch.randn(32, 2) / 9)
        for layer in (0, 1)
    }
    term = save_adapter(
        tmp_path / "term",
        factors,
        alpha=4,
        base=base.checkpoint,
        trained_on=base.digest,
        side="forget",
    )
    composed = base.plus(-0.5, term)
    for module, (a, b) in factors.items():
        model.get_submodule(module).weight.data -= 0.5 * 4 / 2 * b @ a
    model.save_pretrained(tmp_path / "composed")
    wanted, losses, _ = plain_pytorch(tmp_path / "composed", items, TRAINING)

    trainings = adapters(tmp_path, count=2, zero_stage=2)
    adapter = trainings.adapter("adapter", items, TRAINING, "retain", composed)
    assert_same_training(adapter, wanted, losses)
    assert adapter.trained_on == composed.digest != base.digest


@pytest.mark.parametrize(("count", "zero_stage"), [(1, 0), (2, 3)])
def test_pairs_measured_against_theta0_train_like_plain_pytorch(
    ray_cluster, base, pairs, tmp_path, count, zero_stage
):
    training = TRAINING.model_copy(
        update={
            "objective": DpoSettings(retain_weight=0.5),
            "gradient_checkpointing": True,
            "micro_batch_tokens": 120,
        }
    )
    wanted, losses, _ = plain_pytorch(base.checkpoint, pairs, training, preference)
    trainings = adapters(tmp_path, count=count, zero_stage=zero_stage)
    adapter = trainings.adapter("adapter", pairs, training, "forget", base)
    assert_same_training(adapter, wanted, losses)


def test_a_killed_worker_goes_on_with_a_sharded_training_with_an_idle_rank(
    ray_cluster, base, items, tmp_path
):
    one_a_step = TRAINING.model_copy(update={"batch_size": 1, "dropout": 0.0})
    wanted, losses, _ = plain_pytorch(base.checkpoint, items, one_a_step)
    steps_seen = []
    killed = []
    afterwards = set()

    def kill_once(report):
        alive = {worker.pid for worker in processes("RayTrainWorker")}
        if report["step"] > 6 and not killed:
            killed.extend(alive)
            os.kill(killed[0], signal.SIGKILL)
        elif killed:
            afterwards.update(alive)
        steps_seen.append(report["step"])

    trainings = adapters(
        tmp_path, kill_once, count=2, zero_stage=3, max_failures=1, checkpoint_seconds=0
    )
    adapter = trainings.adapter("adapter", items, one_a_step, "forget", base)
    assert afterwards - set(killed), "no worker took the place of the killed one"
    assert all(steps_seen.count(step) == 1 for step in range(1, 6)), "it began anew"
    assert_same_training(adapter, wanted, losses)
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"adapter", "adapter.json"}
    assert not list((tmp_path / "train").iterdir())


def test_another_attempt_goes_on_where_the_one_before_failed(ray_cluster, base, items, tmp_path):
    one_a_step = TRAINING.model_copy(update={"batch_size": 1, "dropout": 0.3})

    def train(folder, hear=lambda report: None):
        trainings = adapters(folder, hear, max_failures=0, checkpoint_seconds=0)
        return trainings.adapter("adapter", items, one_a_step, "forget", base)

    def kill(report):
        if report["step"] > 6 and (workers := processes("RayTrainWorker")):
            os.kill(workers[-1].pid, signal.SIGKILL)

    with pytest.raises(TrainingFailedError):
        train(tmp_path, kill)
    assert not (tmp_path / "adapters").exists()
    [reports] = tmp_path.glob("train/*/reports.jsonl")
    before = reports.read_text().count("\n")
    seen = []
    adapter = train(tmp_path, lambda report: seen.append(report["step"]))
    assert min(seen[before:]) > 5
    # Dropout as well is that of an undisturbed training.
    assert adapter.digest == train(tmp_path / "whole").digest
    # Done once.
    assert train(tmp_path, lambda report: pytest.fail("trained again")) == adapter


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step(
    ray_cluster, base, items, tmp_path
):
    huge = TRAINING.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(InputError, match=r"the loss is nan in step 2 of 3.*learning_rate 1e\+30"):
        adapters(tmp_path).adapter("adapter", items, huge, "forget", base)
    assert not (tmp_path / "adapters").exists()
    assert list((tmp_path / "train").rglob("*model_states.pt"))


@pytest.fixture
def interruptible():
    """A shell's background jobs, CI's among them, are started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_during_and_after_a_training_reaches_the_driver(
    ray_cluster, base, items, tmp_path, interruptible
):
    def train(name, hear=lambda report: None):
        # The interrupted one still trains, in its own folder, beside the other.
        trainings = adapters(tmp_path / name, hear)
        return trainings.adapter("adapter", items, TRAINING, "forget", base)

    def interrupt(report):
        if report["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train("interrupted", interrupt)
    train("whole")
    assert signal.getsignal(signal.SIGINT) is handler
    # What a finished training leaves behind would add up over a run.
    deadline = time.monotonic() + 30
    while left := processes("TrainController"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_the_lora_stays_fp32_above_bf16_weights(base, items, tmp_path, process_group):
    job = Job(items, base, TRAINING, Workers(dtype="bfloat16"), tmp_path, SEED)
    objective = make_objective(TRAINING.objective)
    engine = build_engine(job, objective, steps=3)
    before = {name: weight.clone() for name, weight in engine.module.named_parameters()}
    numerator, denominator = engine(collate(items[:8], objective.parts))["nll"]
    engine.backward(numerator / denominator, scale_wrt_gas=False)
    engine.step()
    for name, weight in engine.module.named_parameters():
        assert weight.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
        assert torch.equal(weight, before[name]) == ("lora_" not in name), name
        if "lora_" in name:
            assert not torch.equal(weight, weight.bfloat16().float()), name


def test_items_without_anything_to_learn_are_refused(base, tmp_path):
    with pytest.raises(InputError, match="none of 1 training items has a token after"):
        items = texts([Example(tuple(range(25)), 22)])
        adapters(tmp_path).adapter("adapter", items, TRAINING, "forget", base)
