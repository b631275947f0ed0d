"""What a run costs: formulas against numbers worked out by hand, and against what was measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from docs.cost_table import table
from rnr_dist.commands.estimate import Estimate, estimate
from rnr_dist.commands.work import Work, work_of
from rnr_dist.config.engines import Engines
from rnr_dist.config.file import load_config
from rnr_dist.config.training import Training, Workers
from rnr_dist.machine.cost import (
    CONTEXT_GIB,
    CORE_GENERATING,
    ENGINE_GIB,
    GIB,
    GPU_TRAINING,
    WORKER_GIB,
    Memory,
    cache_bytes,
    engine_memory,
    generating_seconds,
    host_memory,
    layer_bytes,
    logit_bytes,
    training_memory,
    training_seconds,
)
from rnr_dist.machine.held import HELD_LOGITS, LEAST_PARTS, head_parts, held_tokens
from rnr_dist.methods.icu import Icu
from rnr_dist.tasks.task import make_task
from rnr_dist.weights.shape import Shape, TrainedPart, shape_of, trained_of

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parents[1] / "data" / "models"
LLAMA, NEO = MODELS / "llama3_8b", MODELS / "gpt_neo_1b"
GPU = Workers(gpus_each=1)
ICU = Icu.settings("epochs").training
# Round numbers: 1,000 parameters, 3 layers of width 10, 4 of keys and values, 20 of the MLP.
SMALL = Shape(1000, 50, 10, 3, 10, 4, 20, True)


@pytest.mark.parametrize(
    ("folder", "parameters"),
    [
        # Embeddings and head, 32 layers of q, k, v, o, three matrices and two norms, a last norm.
        (
            LLAMA,
            2 * 128256 * 4096
            + 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096)
            + 4096,
        ),
        (
            MODELS / "mistral_7b",
            2 * 32000 * 4096
            + 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096)
            + 4096,
        ),
        # Tokens (also the head) and positions; q, k, v without bias, o and the MLP with one.
        (
            NEO,
            50257 * 2048
            + 2048 * 2048
            + 24 * (4 * 2048**2 + 2048 + 8 * 2048**2 + 8192 + 2048 + 4 * 2048)
            + 2 * 2048,
        ),
    ],
)
def test_parameters_are_those_of_the_architecture(folder, parameters):
    assert shape_of(folder).parameters == parameters


def test_widths_are_those_of_the_config():
    assert shape_of(LLAMA) == Shape(8030261248, 128256, 4096, 32, 4096, 1024, 14336, True, 32)
    assert shape_of(NEO) == Shape(1315575808, 50257, 2048, 24, 2048, 2048, 8192, False, 16, True)


def test_what_a_training_trains():
    # q and o: 8 (4096 + 4096), k and v: 8 (4096 + 1024), in 32 layers.
    lora = TrainedPart(32 * (2 * 8 * 8192 + 2 * 8 * 5120), 4 * 4096)
    assert trained_of(LLAMA, Training()) == lora
    two = Training(target_modules=["down_proj"], layers=[0, 31], rank=4)
    assert trained_of(LLAMA, two).parameters == 2 * 4 * (14336 + 4096)
    matrices = Training(parameters="matrices", target_modules=["k_proj"], layers=[3])
    assert trained_of(LLAMA, matrices).parameters == 4096 * 1024
    assert trained_of(NEO, Training(parameters="full")).parameters == 1315575808


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimiser"),
    # 1,000 frozen numbers of 2 bytes and 100 trained ones of 4; four workers.
    [
        (0, 2400, 400, 800),
        (1, 2400, 400, 300),
        (2, 2400, 100, 300),
        (3, 600, 100, 300),
    ],
)
def test_zero_divides_what_it_says(stage, weights, gradients, optimiser):
    workers = Workers(gpus_each=1, count=4, zero_stage=stage)
    found = training_memory(SMALL, TrainedPart(100, 40), Training(), workers).parts
    told = tuple(found[name] for name in ("weights", "gradients", "optimiser"))
    assert told == (weights, gradients, optimiser)


@pytest.mark.parametrize(
    ("stage", "offload", "weights", "optimiser", "offloaded", "loading"),
    # As above; offloaded: Adam's 1,200 and the gradients' 400, over four workers, and the weights'
    # 2,400, whose quarter is less than what passes by here.
    [
        (0, "nothing", 2400, 800, 0, 2400),
        (2, "optimiser", 2400, 0, 400, 2000),
        (3, "nothing", 600, 300, 0, 0),
        (3, "optimiser", 600, 0, 400, 0),
        (3, "weights", 600, 0, 1000, 0),
    ],
)
def test_what_is_offloaded_lies_in_the_machines_memory(
    stage, offload, weights, optimiser, offloaded, loading
):
    workers = Workers(gpus_each=1, count=4, zero_stage=stage, offload=offload)
    part = TrainedPart(100, 40)
    here = training_memory(SMALL, part, Training(), workers).parts
    assert (here["weights"], here["optimiser"]) == (weights, optimiser)
    there = host_memory(SMALL, part, Training(), workers).parts
    assert there == {"process": WORKER_GIB * GIB, "offloaded": offloaded, "loading": loading}


def test_offloaded_weights_leave_the_embedding_and_a_layer():
    workers = Workers(gpus_each=1, zero_stage=3, offload="weights")
    few = replace(SMALL, vocabulary=10)
    found = training_memory(few, TrainedPart(100, 40), Training(), workers).parts["weights"]
    assert found == pytest.approx(2400 / 3 + 2.4 * 10 * 10)


def test_weights_in_four_bits_are_linear_layers_only():
    few = replace(SMALL, vocabulary=10)
    found = training_memory(few, TrainedPart(100, 40), Training(frozen="nf4"), GPU).parts["weights"]
    # Embedding and head of 100 each and one matrix of 20 x 10 in bfloat16, 800 in 4.127 bits.
    assert found == pytest.approx(2 * 200 + 2 * 200 + 800 * 4.127 / 8 + 400)
    gib = training_memory(
        shape_of(LLAMA), trained_of(LLAMA, Training()), Training(frozen="nf4"), GPU
    )
    assert 5 < gib.parts["weights"] / GIB < 6  # of 15 in bfloat16
    loaded = host_memory(few, TrainedPart(100, 40), Training(frozen="nf4"), GPU).parts["loading"]
    assert loaded == 2 * 1000 + 4 * 100  # plain until it is packed


def test_weights_are_whole_while_a_divided_model_is_read():
    workers = Workers(gpus_each=1, count=4, zero_stage=3)
    part, shape = TrainedPart(10**9, 40), replace(SMALL, parameters=10**9)
    training = Training(parameters="full", max_tokens=10, micro_batch_tokens=10)
    one, looked = (training_memory(shape, part, training, workers, 1, is_so) for is_so in (0, 1))
    passes = one.parts["activations"] + one.parts["logits"]  # of a step, which then are not there
    assert looked.total - one.total == pytest.approx(4e9 - passes)
    whole = Workers(gpus_each=1, count=4, zero_stage=2)
    assert training_memory(shape, part, training, whole, 1, True) == training_memory(
        shape, part, training, whole
    )


def test_all_weights_are_fp32_and_autocast_copies_them():
    training = Training(parameters="full")
    part = TrainedPart(1000, 0)
    assert training_memory(SMALL, part, training, GPU).parts["weights"] == 4000 + 2000
    plain = Workers(gpus_each=1, dtype="float32")
    assert training_memory(SMALL, part, training, plain).parts["weights"] == 4000


def test_a_micro_batch_holds_whole_items_and_one_at_least():
    assert held_tokens(Training(micro_batch_tokens=512, max_tokens=192)) == 2 * 192
    assert held_tokens(Training(micro_batch_tokens=100, max_tokens=192)) == 192
    assert held_tokens(Training(micro_batch_tokens=8192, max_tokens=192, batch_size=16)) == 3072
    assert held_tokens(Training(micro_batch_tokens=1024, max_tokens=100, batch_size=8), 5) == 1000


def test_a_layer_keeps_what_its_backward_pass_reads():
    lora, whole = TrainedPart(0, 40), TrainedPart(0, 0)
    # Norms 80; q, k, v and attention's output 2 x 28; gate, its activation, up 2 x 60; copies 160.
    assert layer_bytes(SMALL, lora, False, 2) == 80 + 56 + 120 + 160
    # In fp32 a LoRA reads what the norm and attention gave: no copies of each.
    assert layer_bytes(SMALL, lora, False, 4) == 80 + 112 + 240 + 80
    # All trained: norms twice, and inputs of q, k, v, o, gate, up and down, 2 x (30+10+20+20).
    assert layer_bytes(SMALL, whole, True, 2) == 160 + 56 + 120 + 160
    assert (logit_bytes(50, 2), logit_bytes(50, 4)) == (700, 600)


def test_recomputed_layers_keep_what_they_read_and_one_layer():
    training = Training(max_tokens=10, micro_batch_tokens=10, gradient_checkpointing=True)
    found = training_memory(SMALL, TrainedPart(0, 40), training, GPU).parts
    assert found["logits"] == 7000
    assert found["activations"] == 10 * 2 * 10 * 3  # a layer's 4,160 come when the logits are gone


def test_an_engine_holds_weights_and_cache():
    assert cache_bytes(SMALL, 2) == 2 * 3 * 4 * 2
    cpu = engine_memory(SMALL, Engines(dtype="float32", kv_cache_gib=0.5)).parts
    assert cpu == {"process": ENGINE_GIB * GIB, "weights": 4000, "cache": GIB / 2}
    part = engine_memory(SMALL, Engines(gpus_each=0.5, kv_cache_gib=2, max_num_seqs=10)).parts
    assert (part["process"], part["weights"], part["cache"]) == (CONTEXT_GIB * GIB, 2000, 2 * GIB)
    assert part["work"] == 2 * 8192 * (2 * 20 + 4 * 10) + 3 * 4 * 10 * 50
    two = engine_memory(SMALL, Engines(gpus_each=2, max_model_len=100)).parts
    assert (two["weights"], two["cache"]) == (1000, 48 * 100 / 2)


def test_seconds_are_products_over_what_a_machine_does():
    workers = Workers(gpus_each=1, count=2)
    for training, passes in (
        (Training(), 4),
        (Training(parameters="full"), 6),
        (Training(gradient_checkpointing=True), 6),
    ):
        found = training_seconds(SMALL, 500, training, workers)
        assert found == pytest.approx(passes * 1000 * 500 / (2 * GPU_TRAINING))
    engines = Engines(count=2, cpus_each=3, dtype="bfloat16")
    assert generating_seconds(SMALL, 500, engines) == pytest.approx(
        2 * 1000 * 500 / (6 * CORE_GENERATING)
    )
    on_gpus = Engines(count=2, gpus_each=1, max_num_seqs=100)
    step = 3e-3 + 2000 / 3e12
    assert generating_seconds(SMALL, 500, on_gpus) == pytest.approx(5 * step / 2)


def test_logits_are_held_a_part_at_a_time():
    wide = Training(max_tokens=200, micro_batch_tokens=8000, batch_size=64)
    assert (head_parts(wide, 128_000), head_parts(wide, 1000)) == (16, 1)
    assert 8000 * 128_000 / 16 <= HELD_LOGITS < 8000 * 128_000 / 15
    assert head_parts(ICU, 1000) == LEAST_PARTS == 4
    shape, part = replace(SMALL, vocabulary=128_000), TrainedPart(0, 40)
    assert training_memory(shape, part, wide, GPU).parts["logits"] == 500 * 14 * 128_000
    # Beside the model's the logits of theta0, of a quarter of a micro-batch of 1,000.
    asked = ICU.model_copy(update={"max_tokens": 100, "micro_batch_tokens": 1000})
    assert training_memory(SMALL, part, asked, GPU).parts["logits"] == 2 * 200 * 14 * 50


def test_attention_without_a_fused_kernel_keeps_its_scores():
    training = Training(max_tokens=10, micro_batch_tokens=10)
    fused = replace(SMALL, heads=2)
    for shape, workers in (
        (replace(fused, eager=True), GPU),
        (fused, Workers(gpus_each=1, attention="eager")),
    ):
        found, less = (
            training_memory(one, TrainedPart(0, 40), training, told).parts["activations"]
            for one, told in ((shape, workers), (fused, GPU))
        )
        assert found - less == 3 * 10 * (2 * 10 * 6)  # layers, tokens, heads x places x (4 + 2)


LORA, FULL = Training(), ICU
LONG = Training(max_tokens=1024, micro_batch_tokens=16384, gradient_checkpointing=True)


@pytest.mark.parametrize(
    ("folder", "training", "sequences", "gib"),
    [
        (LLAMA, LORA, 1, 18),
        (LLAMA, LORA.model_copy(update={"micro_batch_tokens": 8192}), 1, 38),
        (LLAMA, LONG, 1, 43),
        (NEO, FULL.model_copy(update={"max_tokens": 200}), 5, 28),
        (NEO, FULL.model_copy(update={"max_tokens": 200, "micro_batch_tokens": 16384}), 5, 55),
    ],
)
def test_what_was_measured_on_a_gpu_is_met(folder, training, sequences, gib):
    """docs/figures.md, "On a GPU": torch's own peak, without CUDA's context.

    Where losses do not ask the head alone, it was read when all logits lived at once.
    """
    shape = shape_of(folder)
    found = training_memory(shape, trained_of(folder, training), training, GPU, sequences)
    parts = {**found.parts}
    if not training.objective.head_alone:
        parts["logits"] = held_tokens(training) * logit_bytes(shape.vocabulary, 2)
        if training.gradient_checkpointing:  # then no recomputed layer outgrew them
            kept = 2 * held_tokens(training) * shape.hidden * shape.layers
            parts["activations"] = kept
    assert sum(parts.values()) / GIB - CONTEXT_GIB == pytest.approx(gib, rel=0.15)


def test_an_estimate_says_the_largest_parts_first_worth_a_word():
    memory = Memory({"weights": 1.5 * GIB, "gradients": 1.0, "cache": 0.5 * GIB})
    assert str(memory) == "2.0 GiB (weights 1.5, cache 0.5)"


def test_a_behaviours_tokens_are_counted_from_config_and_data():
    config = load_config(ROOT / "configs" / "demo.yaml")
    reveal, release, evaluate = work_of(config, make_task(config))
    # 64 arms x 32; 2 x (8 + 3) pulls x 16; 2 fills x 2 x 108 contexts; 4 x 27 to demonstrate; x 24.
    assert reveal == Work("reveal", 64 * 32 + (22 * 16 + 2 * 2 * 108 + 4 * 27) * 24)
    # The base, 3 + 3 + 2 candidates, the best of three steps again; 40 + 54 contexts x 8 x 20.
    kept = 151 + 108
    assert release.generated == 12 * 94 * 8 * 20 + kept * 32
    assert release.trained == {
        "release.forget": 2 * 2 * 432 * (24 + 24),
        "release.retain": 2 * 1 * kept * (24 + 32),
    }
    assert release.starts == 4
    assert evaluate.generated == 5 * (48 + 24) * 6 * 20


def test_a_sequences_tokens_are_counted_from_config_and_data():
    config = load_config(ROOT / "configs" / "icu_small.yaml")
    memorise, icu, evaluate = work_of(config, make_task(config))
    control = 4 * 6 + 16 + 64
    assert memorise == Work(
        "memorise", 0, {"memorise.training": (2 * control + 12 * 6) * 100 * 8}, 2
    )
    assert icu == Work("icu", 0, {"methods.icu.training": 12 * 12 * 5 * 100}, 1)
    assert evaluate.generated == 4 * 12 * 10 * 50


def test_engines_that_yield_start_again_after_each_training():
    found = estimate(load_config(ROOT / "configs" / "demo.yaml"), LLAMA)
    work = Work("release", 1000, {}, 3)
    load = 2 * 8030261248 / 1e9
    assert isinstance(found, Estimate)
    more = found.seconds(work, True) - found.seconds(work, False)
    assert more == pytest.approx(3 * (25 + load))


def test_the_documents_table_is_the_codes():
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    told = page.partition("<!-- cost table -->\n")[2].partition("\n<!-- end of cost table -->")[0]
    assert told == table()
