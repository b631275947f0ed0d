"""The DeepSpeed config by value, and the learning-rate curve."""

import os

import pytest
import torch

from rnr_dist.config.training import Training, Workers
from rnr_dist.train.deepspeed import deepspeed_config, environment, learning_rate_factor
from rnr_dist.train.divided import attention
from rnr_dist.train.worker import agree_on_device

TRAINING = Training(learning_rate=3e-4, weight_decay=0.01, clip_norm=0.5)

# A buffer on each GPU has as many numbers: 200 MB in fp32, where DeepSpeed's own has 2 GB.
ALWAYS = {
    "overlap_comm": False,
    "reduce_bucket_size": 50_000_000,
    "allgather_bucket_size": 50_000_000,
}


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_config_by_value(gpus, stage):
    assert deepspeed_config(Workers(gpus_each=gpus, zero_stage=stage), TRAINING) == {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.5,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 3e-4,
                "weight_decay": 0.01,
                "betas": [0.9, 0.999],
                "torch_adam": True,
                "fused": True,
            },
        },
        "zero_optimization": {"stage": stage, **ALWAYS},
    }


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_is_offloaded_lies_in_the_machines_memory(gpus):
    memory = {"device": "cpu", "pin_memory": gpus == 1}

    def zero(**workers):
        return deepspeed_config(Workers(gpus_each=gpus, **workers), TRAINING)["zero_optimization"]

    for stage in (1, 2, 3):
        assert zero(zero_stage=stage, offload="optimiser") == {
            "stage": stage,
            **ALWAYS,
            "offload_optimizer": memory,
        }
    found = zero(zero_stage=3, offload="weights")
    assert found["offload_optimizer"] == found["offload_param"] == memory


@pytest.mark.parametrize(
    ("stage", "offload", "expected"),
    [
        (0, "optimiser", "offload optimiser: found zero_stage 0; expected 1 to 3"),
        (0, "weights", "offload weights: found zero_stage 0; expected 3"),
        (2, "weights", "offload weights: found zero_stage 2; expected 3"),
    ],
)
def test_what_is_not_divided_is_not_offloaded(stage, offload, expected):
    with pytest.raises(ValueError, match=expected):
        Workers(zero_stage=stage, offload=offload)


def test_no_limit_of_the_gradient_is_deepspeeds_zero():
    found = deepspeed_config(Workers(), TRAINING.model_copy(update={"clip_norm": None}))
    assert found["gradient_clipping"] == 0
    with pytest.raises(ValueError, match="clip_norm"):
        Training(clip_norm=0)


def test_cpu_workers_use_no_gpu_and_spin_briefly():
    assert environment(Workers(cpus_each=3)) == {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "3",
        "GOMP_SPINCOUNT": "5000",
    }


def test_gpu_workers_load_with_more_threads_than_the_one_of_who_holds_no_core():
    assert environment(Workers(gpus_each=1, cpus_each=8)) == {
        "OMP_NUM_THREADS": "8",
        "GOMP_SPINCOUNT": "5000",
    }


def test_deepspeed_takes_the_gpu_that_ray_gave(monkeypatch):
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cuda:3"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    agree_on_device(Workers())
    assert os.environ["LOCAL_RANK"] == "0"
    agree_on_device(Workers(gpus_each=1))
    assert os.environ["LOCAL_RANK"] == "3"


def test_attention_is_transformers_choice_unless_it_is_told():
    assert attention(Workers()) == {}
    assert attention(Workers(attention="eager")) == {"attn_implementation": "eager"}


def test_the_rate_rises_then_falls_and_never_wastes_a_step():
    curve = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert curve == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert [learning_rate_factor(step, 4, 0) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [learning_rate_factor(step, 2, 1) for step in range(2)] == [0.5, 1]
    # A single step, and the rate that the scheduler asks for after it.
    assert [learning_rate_factor(step, 1, 0.1) for step in range(2)] == [1, 0]
