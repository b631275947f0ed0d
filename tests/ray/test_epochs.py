"""Epochs on Ray and DeepSpeed: memorising, unlearning, who leaves, and what a kill changes."""

import contextlib
import math
import os
import random
import re
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rnr_dist.bench import Bench
from rnr_dist.config.methods import MethodSettings
from rnr_dist.config.schema import Config
from rnr_dist.config.training import Training
from rnr_dist.config.unlearning import Refinement
from rnr_dist.generate.requests import Response
from rnr_dist.icu.epochs import train_by_epochs
from rnr_dist.icu.job import Counted, Ending, EpochPlan, Leaving
from rnr_dist.icu.leaving import Limits
from rnr_dist.icu.levels import Levels
from rnr_dist.icu.torch_reader import TorchReader
from rnr_dist.icu.tuning import Trials
from rnr_dist.icu.unlearner import Unlearner
from rnr_dist.icu.worker import readings_of
from rnr_dist.measures.memorisation import Counting, recall
from rnr_dist.measures.similarity import scorer_folder
from rnr_dist.methods.icu import Icu, IcuSettings
from rnr_dist.run.directory import RunDir
from rnr_dist.run.tracking import Tracker, default_uri
from rnr_dist.train.collate import Example, texts
from rnr_dist.train.materials import Materials
from rnr_dist.train.trainings import Trainings
from rnr_dist.types import ModelRef, Passage, Split, TokenSequence
from rnr_dist.weights.checkpoints import checkpoint_digest
from tests.ray.processes import processes

T0, T, N = 8, 24, 3
LEVELS = Levels(Limits(0, 0, 0.5, 0.9), {})
COUNTING = Counting(N, eos=1)
NEVER = Limits(0, 0, 0, 0)  # met by nothing: all epochs are run
FULL = Training(
    parameters="full",
    schedule="constant",
    warmup_share=0,
    learning_rate=3e-3,
    batch_size=4,
    micro_batch_tokens=64,
)


class Heard:
    """A tracker that only remembers."""

    def __init__(self):
        self.told = []

    @contextlib.contextmanager
    def nested(self, name, params):
        yield

    def metrics(self, values, step=0):
        self.told.append((step, values))


LORA = Training(
    objective=IcuSettings(),
    schedule="constant",
    warmup_share=0,
    learning_rate=2e-2,
    batch_size=4,
    target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
)


def sequence(number, length=T):
    draw = random.Random(f"sequence {number}")
    ids = tuple(draw.randrange(2, 61) for _ in range(length))
    return TokenSequence(f"s{number}", "test", ids, " ".join(f"w{i}" for i in ids), T0)


# One is shorter, so that shards are uneven.
FORGET = [*map(sequence, range(4)), sequence(4, 19)]
POOL = [*map(sequence, range(10, 15))]
PAIRS = {one.id: (POOL[at],) for at, one in enumerate(FORGET)}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_llama, tiny_tokenizer):
    folder = tiny_llama(tmp_path_factory.mktemp("base"), vocabulary=61)
    tiny_tokenizer(folder, 61)
    return ModelRef(str(folder), checkpoint_digest(folder))


def bench_of(model, **sections):
    """A bench that starts nothing: the tests' cluster runs already, and the base is known."""
    bench = Bench(Config(name="test", task={"name": "extraction"}, **sections))
    bench.__dict__["base"] = model
    return bench


@pytest.fixture
def trainings(tmp_path, ray_cluster, base):
    def made(name="run", count=1, stopping=None, **workers):
        bench = bench_of(
            base,
            stopping=stopping or {},
            workers={"count": count, "cpus_each": 1, "dtype": "float32"} | workers,
            refinement={"combine": "or", "recall": False},
        )
        return Trainings(bench, tmp_path / name, Heard())

    return made


@pytest.fixture(scope="module")
def memorised(ray_cluster, base, tmp_path_factory):
    """A model that knows the forget sequences and the pool."""
    bench = bench_of(base, workers={"cpus_each": 1, "dtype": "float32"})
    known = train_by_epochs(
        Trainings(bench, tmp_path_factory.mktemp("memorised"), Heard()),
        "memorised",
        texts(Example(one.token_ids, 0) for one in [*FORGET, *POOL]),
        FULL,
        base,
        EpochPlan(FORGET, Counted(COUNTING), Ending("memorised", Limits(0, 0, 0.95, 1), 150)),
    )
    *before, last = readings_of(known.epochs)
    assert last.mean_extraction >= 0.95
    # EL costs a decode a mismatch: it is read only where MA is as high as EL must be.
    assert all(math.isnan(r.mean_extraction) == (r.mean_memorisation < 0.95) for r in before)
    assert math.isnan(before[0].mean_extraction)
    assert len(known.epochs) < 151
    return known


def unlearn(trainings, known, limits, epochs, levels=(), training=None, scorer=""):
    training = training or FULL.model_copy(update={"objective": IcuSettings()})
    config = trainings.bench.config
    plan = EpochPlan(
        FORGET,
        Counted.by(config, COUNTING),
        Ending("forgotten", limits, epochs),
        Leaving(config.refinement, tuple(levels), scorer),
        [Example(one.token_ids, 0) for one in POOL],
    )
    items = Icu().items("icu", Materials(tuple(FORGET), pairs=PAIRS), training)
    return train_by_epochs(trainings, "icu", items, training, known.model, plan)


def weights(run):
    return load_file(f"{run.model.checkpoint}/model.safetensors")


def test_what_was_memorised_is_forgotten_and_the_best_epoch_is_kept(memorised, trainings, tmp_path):
    limits = Limits(0, 0, 0.1, 0.3)
    run = unlearn(trainings(), memorised, limits, 40)
    readings = readings_of(run.epochs)
    assert readings[0].mean_extraction > 0.9
    last = readings[-1]
    assert last.mean_extraction <= 0.1 and last.mean_memorisation <= 0.3
    assert run.best == last.epoch == len(readings) - 1
    # It ended with the first epoch that met both.
    assert all(r.mean_extraction > 0.1 or r.mean_memorisation > 0.3 for r in readings[:-1])
    assert run.model.digest != memorised.model.digest
    assert {"forget", "learn", "kl"} == run.epochs[1]["terms"].keys()
    assert run.epochs[1]["terms"]["kl"] >= 0
    # Done once.
    again = unlearn(trainings(), memorised, limits, 40)
    assert again.model == run.model and again.epochs == run.epochs
    assert not (tmp_path / "run" / "train").exists() or not list(
        (tmp_path / "run" / "train").iterdir()
    )


def test_two_workers_and_filtered_shards_train_like_one(memorised, trainings):
    """After a step of five sequences, uneven over the ranks, also where weights are divided over
    them: five are read unequally often then, from weights that are whole meanwhile."""
    one_step = FULL.model_copy(update={"objective": IcuSettings(), "batch_size": 8})

    def run(count, stage):
        own = trainings(f"run{count}{stage}", count, zero_stage=stage)
        return unlearn(own, memorised, NEVER, 1, training=one_step)

    one, *others = [run(count, stage) for count, stage in ((1, 0), (2, 0), (2, 3))]
    wanted = weights(one)
    before = load_file(f"{memorised.model.checkpoint}/model.safetensors")
    assert any(not torch.equal(wanted[name], before[name]) for name in wanted)
    for other in others:
        found = weights(other)
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=0)
        for a, b in zip(one.epochs, other.epochs, strict=True):
            assert a["extraction"] == pytest.approx(b["extraction"], abs=1e-9)
            assert a["terms"] == pytest.approx(b["terms"], abs=1e-4)


def test_a_killed_worker_goes_on_from_its_last_epoch_to_the_same_weights(memorised, trainings):
    whole = unlearn(trainings("whole"), memorised, NEVER, 5)
    killed, epochs_told = [], []
    disturbed = trainings("disturbed", max_failures=1, checkpoint_seconds=0)
    metrics = disturbed.listener.metrics

    def kill_once(values, step=0):
        if step == 3 and not killed:
            killed.append(processes("RayTrainWorker")[-1].pid)
            os.kill(killed[0], signal.SIGKILL)
        epochs_told.append(step)
        metrics(values, step)

    disturbed.listener.metrics = kill_once
    again = unlearn(disturbed, memorised, NEVER, 5)
    assert killed
    assert epochs_told.count(1) == 1  # it did not begin anew
    assert [row["extraction"] for row in again.epochs] == [
        row["extraction"] for row in whole.epochs
    ]
    for name, weight in weights(whole).items():
        assert torch.equal(weights(again)[name], weight), name


def test_forgotten_sequences_leave_and_a_lora_is_kept_as_a_term(memorised, trainings):
    run = unlearn(
        trainings(),
        memorised,
        NEVER,
        20,
        levels=[Limits(0.0, 0.01, 0, 0)] * len(FORGET),  # by "or": BLEU alone decides
        training=LORA,
        scorer=scorer_folder("embedded:minilm"),
    )
    for row, following in zip(run.epochs, run.epochs[1:], strict=False):
        assert row["forgotten"] == [value < 0.01 for value in row["bleu"]]
        assert following["trained_on"] == len(FORGET) - sum(row["forgotten"])
    assert run.epochs[0]["trained_on"] == 0
    assert all(run.epochs[-1]["forgotten"])
    assert len(run.epochs) < 21  # nothing was left
    assert all(0 < value <= 1.000001 for value in run.epochs[0]["bertscore"])
    assert run.model.checkpoint == memorised.model.checkpoint
    [term] = run.model.terms
    assert term.coefficient == 1
    readings = readings_of(run.epochs)
    assert readings[run.best].mean_extraction < readings[0].mean_extraction / 2


def test_limits_may_go_over_all_prefixes_and_tokens(memorised, trainings):
    """Eq. 7 and 9, against a plain reading of the model that was saved; and without clipping."""
    everything = {"extraction_over": "all", "memorisation_over": "all"}
    training = FULL.model_copy(update={"objective": IcuSettings(), "clip_norm": None})
    run = unlearn(trainings(stopping=everything), memorised, Limits(0, 0, 0.7, 1), 8, (), training)
    assert 0 < run.best < 9
    row = run.epochs[run.best]
    model = AutoModelForCausalLM.from_pretrained(run.model.checkpoint, dtype=torch.float32)
    found = recall(TorchReader(model, None), FORGET, Counting(N))
    assert row["extraction"] == pytest.approx([one.extraction for one in found], abs=1e-6)
    assert row["memorisation"] == pytest.approx([one.accuracy() for one in found], abs=1e-6)
    assert row["memorisation"] != pytest.approx([one.accuracy(T0) for one in found], abs=1e-3)


class NoPool:
    """Answers likelihoods as one that knows nothing; no engine."""

    def run(self, model, requests, describe=""):
        return [Response(model.digest, log_likelihoods=(-1.0,) * 4) for _ in requests]


class Sequences:
    """As much of a task as a trial asks for; it is carried to one."""

    forget = tuning = unseen = tuple(FORGET)
    pool, counting = tuple(POOL), COUNTING

    @property
    def general(self):
        return {Split.SEARCH: (Passage("a", "w2 w3 w4 w5 w6", Split.SEARCH, "words"),)}

    def materials_of(self, bench, run, sequences):
        return Materials(tuple(sequences), pairs=PAIRS)


def test_a_sweep_trains_each_place_once_and_a_lost_one_ends_no_other(
    memorised, trainings, tmp_path
):
    # A training wants the whole cluster, beside the trial that waits for it.
    own = trainings("sweep", max_failures=0, cpus_each=2)
    # A driver's own tracker, which no trial's process can have.
    tracker = Tracker(default_uri(tmp_path), "rnr", tmp_path / "spool.jsonl")
    whole = {"refinement": Refinement(enabled=False)}  # nothing leaves, so no text is scored
    bench, base = Bench(own.bench.config.model_copy(update=whole), "", tracker), own.bench.base
    bench.__dict__["base"] = base
    bench._serving = base.checkpoint_digest, NoPool()
    run = RunDir.open(tmp_path / "run", {}, resume=False)
    with bench, tracker.parent("run", {}):
        _ = bench.ray
        trials = Trials(
            Unlearner(
                Icu(), Sequences(), run, memorised.model, LEVELS, Trainings(bench, own.folder)
            ),
            MethodSettings(
                training=LORA,
                grid=[
                    {"learning_rate": 1e9, "weight_decay": 1e9, "batch_size": 16},
                    {"learning_rate": 2e-2, "rank": 4},
                ],
            ),
            tmp_path / "icu",
            1,
        )
        check_places(trials, tmp_path / "icu")


def check_places(trials, folder):
    chosen = trials.choose()
    lost, kept = chosen["places"]
    assert re.search(r"the loss is nan in step 1, epoch 1.*lower learning_rate", lost["lost"])
    assert chosen["chosen"] == kept["overrides"] == {"learning_rate": 2e-2, "rank": 4}
    assert kept["violation"] == 0 and kept["extraction"] <= 0.5 and kept["epochs"] > 0
    assert kept["perplexity"] == pytest.approx(math.e) and kept["pool"] == pytest.approx(1)
    assert kept["auc"] == 0.5  # as likely as each other
    before = {path: path.stat().st_mtime_ns for path in (folder / "tuning").iterdir()}
    assert trials.choose() == chosen
    assert {path: path.stat().st_mtime_ns for path in before} == before
