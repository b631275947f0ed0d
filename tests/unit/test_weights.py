"""Folders that engines load: whole, shared, and only the most recent of them."""

import pytest
import torch

from rnr_dist.errors import InputError
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import checkpoint_digest
from rnr_dist.weights.composition import checkpoint_shapes, load_adapter, save_adapter, stack
from rnr_dist.weights.node_cache import adapter_folder, weights_folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_llama):
    """Five composed models, of two terms each: ranks 2 and 3."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = tiny_llama(folder / "base")
    base = ModelRef(str(checkpoint), checkpoint_digest(checkpoint))
    shapes = {m: s for m, s in checkpoint_shapes(checkpoint).items() if "o_proj" in m}
    terms = [
        save_adapter(
            folder / str(rank),
            {m: (torch.randn(rank, i), torch.randn(o, rank)) for m, (o, i) in shapes.items()},
            alpha=4,
            base=base.checkpoint,
            trained_on=base.digest,
            role="forget",
        )
        for rank in (2, 3)
    ]
    return [base.plus(-weight, terms[0]).plus(weight, terms[1]) for weight in (1, 2, 3, 4, 5)]


def test_an_adapter_of_all_terms_has_their_sum(models, tmp_path):
    with adapter_folder(models[0], 8, 3, tmp_path) as folder:
        found = load_adapter(folder)
    for module, (a, b) in stack(models[0].terms).items():
        down, up, scaling = found[module]
        torch.testing.assert_close(scaling * up @ down, b @ a)


def test_more_rank_than_the_engine_holds_is_refused_and_leaves_nothing(models, tmp_path):
    with (
        pytest.raises(InputError, match=r"engines\.lora_rank: found 4, expected at least 5"),
        adapter_folder(models[0], 4, 3, tmp_path),
    ):
        pass
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("kind", ["adapter", "checkpoint"])
def test_only_the_most_recent_folders_stay(models, tmp_path, kind):
    def path(model):
        if kind == "adapter":
            return adapter_folder(model, 8, 3, tmp_path)
        return weights_folder(model, tmp_path)

    for model in (models[0], models[1], models[2], models[0], models[3]):
        with path(model) as folder:
            assert (folder.name, folder.is_dir()) == (model.digest, True)
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {models[number].digest for number in (2, 0, 3)}
