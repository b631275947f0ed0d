"""Settings tried where engines end for each training: in the driver, one after another."""

from types import SimpleNamespace

import pytest

from rnr_dist.errors import InputError
from rnr_dist.icu import tuning
from rnr_dist.icu.tuning import Trials
from rnr_dist.machine.trials import as_raised
from rnr_dist.run.directory import write_json
from tests.unit.fakes import FakeBench


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Trials whose places are files that are only noted; Tune must not be asked."""
    monkeypatch.setattr(tuning, "run_trials", lambda *_, **__: pytest.fail("Tune was asked"))
    placement = SimpleNamespace(yielding=True, embedder_gpus=0.0, trainings=1)
    unlearner = SimpleNamespace(
        name="icu",
        bench=FakeBench(
            config=SimpleNamespace(memorise=SimpleNamespace(enabled=True)), placement=placement
        ),
    )
    found = Trials(unlearner, SimpleNamespace(grid=[{"rank": 1}, {"rank": 2}]), tmp_path, 1)
    done = []

    def finish(self, overrides):
        done.append(dict(overrides))
        path = self._file(overrides)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"overrides": overrides, "lost": f"rank {overrides['rank']}"})

    monkeypatch.setattr(Trials, "finish", finish)
    return found, done


def test_where_engines_yield_the_driver_trains_each_missing_place(trials):
    found, done = trials
    assert [place["lost"] for place in found.run(found.settings.grid)] == ["rank 1", "rank 2"]
    assert done == [{"rank": 1}, {"rank": 2}]
    with pytest.raises(InputError, match="rank 1"):
        found.choose()
    assert len(done) == 2  # what is there is not done again


def test_an_error_of_which_tune_has_the_text_alone_is_raised_too():
    assert str(as_raised("Traceback: of a callback")) == "Traceback: of a callback"
    sentence = InputError("a key")
    assert as_raised(sentence) is sentence
