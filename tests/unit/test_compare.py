"""`rnr compare`: before and after, side by side, and what it does not do on the way."""

import os

import pytest
import transformers

from rnr_dist.config.file import validate
from rnr_dist.config.strict_yaml import read_yaml
from rnr_dist.run.directory import RunDir, write
from rnr_dist.types import NamedModel
from rnr_dist.weights.checkpoints import keep_base, resolve_model
from tests.e2e.command import TINY
from tests.unit.command_fakes import rnr

PLAIN = read_yaml(TINY.read_text(encoding="utf-8"), "tiny.yaml")
SHORT = {"sampling": {"n": 1, "max_tokens": 2}}
LOADERS = ("AutoTokenizer", "AutoModelForCausalLM", "AutoConfig")


@pytest.fixture
def made(tmp_path, monkeypatch, tiny_llama, tiny_tokenizer):
    """A function that makes a finished run of a random Llama under such a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5000")
    tiny_llama(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model", 64)

    def make(plain=PLAIN, **more):
        config = validate({**plain, "model": "./model", **more}, "")
        run = RunDir.open(tmp_path / "run", config.content(), resume=False)
        base = resolve_model("./model")
        keep_base(run.path, base)
        named = [NamedModel("base", "reference", base), NamedModel("-f0", "step", base)]
        write(run.path / "release" / "models.json", named)
        return run.path

    return make


@pytest.fixture
def trusted(monkeypatch):
    """Whether the checkpoint's code was trusted, at each loading of something of it."""
    asked = []
    for name in LOADERS:
        kind = getattr(transformers, name)
        load = kind.from_pretrained

        def noted(*given, name=name, load=load, **options):
            asked.append((name, options.get("trust_remote_code")))
            return load(*given, **options)

        monkeypatch.setattr(kind, "from_pretrained", noted)
    return asked


@pytest.mark.parametrize("trust", [False, True])
def test_a_checkpoint_s_code_is_trusted_as_the_run_says_and_nobody_is_asked(made, trusted, trust):
    run = made(trust_remote_code=trust, evaluate=SHORT)
    assert rnr("compare", run, "w3 w4", "--n", "1") == 0
    assert {name for name, _ in trusted} == set(LOADERS)
    assert {trust} == {told for _, told in trusted}


def test_texts_of_the_model_move_no_cursor(made, monkeypatch, capsys):
    planted = ["\x1b[31mred\x1b[0m [/bold] [red]"]
    monkeypatch.setattr(
        transformers.PreTrainedTokenizerFast, "batch_decode", lambda *_, **__: planted
    )
    assert rnr("compare", made(evaluate=SHORT), "w3", "--n", "1") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and said.count("[/bold]") == 2


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", "compare: found the prompt ''; expected a text to continue"),
        (" \n", "compare: found the prompt ' \\n'; expected a text to continue"),
        ("w3 " * 2040, "compare: found a prompt of 2040 tokens; expected at most 2024, so that 24"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_one_sentence(made, capsys, prompt, told):
    run = made()
    capsys.readouterr()
    assert rnr("compare", run, prompt) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rnr: ")]
    assert line.startswith(f"rnr: {told}")


def test_threads_do_not_spin_and_are_as_many_as_an_engine_has(made, monkeypatch):
    import torch

    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.delenv("GOMP_SPINCOUNT")
    run = made(engines={"cpus_each": 3}, evaluate=SHORT)
    assert rnr("compare", run, "w3", "--n", "1") == 0
    assert os.environ.pop("GOMP_SPINCOUNT") == "5000" and set(set_to) == {3}


TEXTS = PLAIN["task"]
GONE = {"source": "gone.txt", "splits": TEXTS["challenging"]["splits"]}
OWN = {"forget": GONE, "retain": TEXTS["ordinary"]}
OWN |= {key: TEXTS[key] for key in ("in_domain", "out_of_domain")}
OF_GONE_DATA = {
    "toxicity": {**TEXTS, "challenging": GONE},
    "tests.unit.own_tasks:Loud": OWN,
    "tests.unit.own_tasks:Unasked": OWN,
    "extraction": {name: {"source": "gone.txt"} for name in ("forget", "pool", "unseen", "tuning")},
}


@pytest.mark.parametrize(("name", "scores"), [*zip(OF_GONE_DATA, (2, 2, 2, 0), strict=True)])
def test_a_run_whose_data_are_gone_is_compared_without_them(
    made, monkeypatch, capsys, name, scores
):
    said = ["a bad bitch"]
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "batch_decode", lambda *_, **__: said)
    plain = {"name": "gone"} if name == "extraction" else PLAIN  # each with its recipe's sections
    run = made(plain, task={"name": name, **OF_GONE_DATA[name]}, evaluate=SHORT)
    capsys.readouterr()
    assert rnr("compare", run, "w3", "--n", "1") == 0
    assert capsys.readouterr().out.count("1.00") == scores
