"""Which backend a model gets and why, and what no backend serves: one sentence each."""

import json
import sys

import pytest

from rnr_dist.config.engines import Engines
from rnr_dist.errors import InputError
from rnr_dist.generate import backend
from rnr_dist.generate.backend import NO_VLLM, backend_of, choose_backend, vllm_architectures

CAUSAL = {"LlamaForCausalLM", "GPTNeoForCausalLM"}
SERVED = {"LlamaForCausalLM", "BertModel"}
LLAMA, NEO, BERT = ["LlamaForCausalLM"], ["GPTNeoForCausalLM"], ["BertModel"]


def choose(architectures, served=SERVED, **engines):
    return choose_backend(Engines(**engines), "/model", architectures, CAUSAL, served)


@pytest.mark.parametrize(
    ("architectures", "served", "wanted", "backend", "why"),
    [
        (LLAMA, SERVED, "auto", "vllm", "vLLM serves LlamaForCausalLM"),
        (NEO, SERVED, "auto", "transformers", "vLLM does not serve GPTNeoForCausalLM"),
        (LLAMA, None, "auto", "transformers", NO_VLLM),
        (LLAMA, SERVED, "vllm", "vllm", "vLLM serves LlamaForCausalLM"),
        (LLAMA, SERVED, "transformers", "transformers", "the config says so"),
    ],
)
def test_auto_takes_vllm_where_it_serves_the_model(architectures, served, wanted, backend, why):
    choice = choose(architectures, served, backend=wanted)
    assert (choice.backend, choice.why) == (backend, why)


@pytest.mark.parametrize("served", [SERVED, None])
def test_vllm_for_what_it_does_not_serve_is_refused(served):
    reason = "does not serve GPTNeoForCausalLM" if served else "is not installed"
    with pytest.raises(InputError, match=rf"engines\.backend: found vllm, but vLLM {reason}"):
        choose(NEO, served, backend="vllm")


@pytest.mark.parametrize("architectures", [BERT, ["NobodysForCausalLM"], []])
@pytest.mark.parametrize("wanted", ["auto", "vllm", "transformers"])
def test_a_model_that_no_backend_serves_is_refused(architectures, wanted):
    with pytest.raises(InputError, match=r"^model: found /model of .* which no backend"):
        choose(architectures, backend=wanted)


def test_what_transformers_lacks_is_refused_only_where_it_is_chosen():
    with pytest.raises(InputError, match=r"^engines\.weights: found lora.*expected reload"):
        choose(NEO, weights="lora", gpus_each=1)
    with pytest.raises(InputError, match=r"^engines\.gpus_each: found 2.*expected at most 1"):
        choose(NEO, gpus_each=2)
    assert choose(LLAMA, weights="lora", gpus_each=2).backend == "vllm"


def write_config(folder, **content):
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_a_checkpoints_config_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "vllm_architectures", lambda: SERVED)
    neo = write_config(tmp_path, architectures=NEO, max_position_embeddings=128)
    assert backend_of(Engines(max_model_len=128), neo).backend == "transformers"
    with pytest.raises(InputError, match=r"max_model_len: found 129, .* 128 positions"):
        backend_of(Engines(max_model_len=129), neo)
    own = {"architectures": ["Mine"], "auto_map": {"AutoModelForCausalLM": "mine.Mine"}}
    mine = write_config(tmp_path, **own)
    assert backend_of(Engines(), mine, trust_remote_code=True).backend == "transformers"
    with pytest.raises(InputError, match=r"found .* of Mine, which no backend"):
        backend_of(Engines(), mine)
    nameless = write_config(tmp_path, model_type="llama")
    with pytest.raises(InputError, match="of no architecture, which no backend"):
        backend_of(Engines(), nameless)


def test_transformers_itself_says_what_is_causal(tmp_path):
    engines = Engines(backend="transformers")
    assert backend_of(engines, write_config(tmp_path, architectures=NEO)).backend == "transformers"
    with pytest.raises(InputError, match="of BertForMaskedLM, which no backend"):
        backend_of(engines, write_config(tmp_path, architectures=["BertForMaskedLM"]))


# A package of vLLM's name; importing it is noted, and can fail.
REGISTRY = """
from pathlib import Path
Path({note!r}).open("a").write("asked ")
class ModelRegistry:
    @staticmethod
    def get_supported_archs(): return {{"BForCausalLM", "AForCausalLM"}}
"""


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    """Puts a vLLM whose registry holds `source` ahead of the real one; how often it was asked."""
    note = tmp_path / "note"

    def install(source=REGISTRY):
        package = tmp_path / "site" / "vllm" / "model_executor" / "models"
        package.mkdir(parents=True)
        for folder in (package, package.parent, package.parent.parent):
            (folder / "__init__.py").write_text("")
        (package / "registry.py").write_text(source.format(note=str(note)))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        return lambda: note.read_text().count("asked")

    return install


def test_vllm_is_asked_once_a_version_and_never_imported_here(tmp_path, fake_vllm):
    asked = fake_vllm()
    known = "vllm" in sys.modules
    for _ in range(2):
        assert vllm_architectures(tmp_path) == {"AForCausalLM", "BForCausalLM"}
    assert asked() == 1
    assert ("vllm" in sys.modules) == known


def test_a_vllm_that_cannot_be_imported_is_one_sentence(tmp_path, fake_vllm):
    fake_vllm("raise ImportError('no libtorch')")
    with pytest.raises(InputError, match=r"cannot be imported \(ImportError: no libtorch\)"):
        vllm_architectures(tmp_path)


def test_without_vllm_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert vllm_architectures(tmp_path) is None
