"""States of trainings: only what a training wrote is read, and reading one runs nothing."""

import os
import pickle

import pytest
import torch

from rnr_dist.errors import InputError
from rnr_dist.train.states import FORCED, HELD, damage, reading_only


class Planted:
    """Makes the folder that it is given when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def state(tmp_path):
    """Where Ray Train keeps a state."""
    path = tmp_path / "train" / "checkpoint_1" / "state" / "mp_rank_00_model_states.pt"
    path.parent.mkdir(parents=True)
    return path


def held():
    """What DeepSpeed 0.19 keeps at each ZeRO stage."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return {
        "module": {"weight": torch.arange(2000.0)},
        "loss_scaler": LossScaler(1.0),
        "zero_stage": ZeroStageEnum.gradients,
        "fragments": fragment_address(numel=3, start=0),
        "losses": [0.1, float("nan")],
    }


def test_a_state_of_a_training_is_whole_and_comes_back(tmp_path, state):
    assert damage(tmp_path) == ""
    torch.save(held(), state)
    assert damage(tmp_path) == ""
    with reading_only():
        found = torch.load(state, weights_only=False)
    assert torch.equal(found["module"]["weight"], torch.arange(2000.0))
    assert found["zero_stage"] == 2 and found["fragments"].numel == 3
    assert found["loss_scaler"].cur_scale == 1.0


def test_what_would_call_something_is_refused_and_calls_nothing(tmp_path, state):
    made = tmp_path / "made"
    torch.save({**held(), "step": Planted(made)}, state)
    with pytest.raises(InputError, match=r"states.pt: found a state that would call .*mkdir; exp"):
        damage(tmp_path)
    with reading_only(), pytest.raises(pickle.UnpicklingError, match="mkdir"):
        torch.load(state, weights_only=False)  # as DeepSpeed asks
    assert not made.exists()


@pytest.mark.parametrize("before", [None, "0"])
def test_reading_only_ends_with_its_block(monkeypatch, tmp_path, before):
    if before is None:
        monkeypatch.delenv(FORCED, raising=False)
    else:
        monkeypatch.setenv(FORCED, before)
    allowed = torch.serialization.get_safe_globals()
    with reading_only():
        assert os.environ[FORCED] == "1"
        assert len(torch.serialization.get_safe_globals()) == len(allowed) + len(HELD)
    assert os.environ.get(FORCED) == before
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_a_damaged_state_is_told(tmp_path, state):
    torch.save(held(), state)
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    assert "states.pt: " in damage(tmp_path)
    place = whole.index(torch.arange(2000.0).numpy().tobytes()) + 4000
    state.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "is not what was written" in damage(tmp_path)
    state.write_bytes(pickle.dumps(Planted(tmp_path / "made")))
    assert "states.pt: " in damage(tmp_path)
    assert not (tmp_path / "made").exists()
