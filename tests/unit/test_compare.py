"""`rnr compare`: before and after, side by side, and what it does not do on the way."""

import contextlib
import os

import pytest
import transformers

from rnr_dist.config.file import validate
from rnr_dist.config.strict_yaml import read_yaml
from rnr_dist.machine.placement import Node
from rnr_dist.run.directory import RunDir, write
from rnr_dist.types import Adapter, NamedModel
from rnr_dist.weights.checkpoints import keep_base, resolve_model
from tests.e2e.command import TINY
from tests.unit.command_fakes import rnr
from tests.unit.fakes import FakeEndpoint

PLAIN = read_yaml(TINY.read_text(encoding="utf-8"), "tiny.yaml")
SHORT = {"sampling": {"n": 1, "max_tokens": 2}}
LORA = {"backend": "vllm", "weights": "lora"}
CPU, GPUS = Node(4, 0, 4), Node(4, 8, 4)


class Noting(FakeEndpoint):
    """Notes what each model was asked, and says what a test has planted."""

    def __init__(self, planted):
        super().__init__(say=lambda model, prompt: planted[bool(model.terms)])
        self.requests = []

    def answer(self, model, request):
        self.requests.append((model, request))
        return super().answer(model, request)


@pytest.fixture
def planted():
    """What the model before says, and the one after."""
    return ["as before", "as after"]


@pytest.fixture
def here(monkeypatch):
    """A function that says which machine this is."""

    def is_now(node):
        monkeypatch.setattr("rnr_dist.machine.cluster.this_node", lambda config: node)

    is_now(CPU)
    return is_now


@pytest.fixture
def served(monkeypatch, planted, here):
    """Pools that were started: config, checkpoint, and the endpoint that they gave. All have
    ended."""
    pools, up = [], []

    @contextlib.contextmanager
    def pool(config, base):
        pools.append((config, base, Noting(planted)))
        up.append(base)
        try:
            yield pools[-1][-1]
        finally:
            up.pop()

    monkeypatch.setattr("rnr_dist.bench.ray_session", lambda config: contextlib.nullcontext())
    monkeypatch.setattr("rnr_dist.generate.cluster_pool.generator_pool", pool)
    yield pools
    assert not up


@pytest.fixture
def made(tmp_path, monkeypatch, tiny_llama, tiny_tokenizer):
    """A function that makes a finished run of a random Llama under such a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5000")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tiny_llama(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model", 64)
    # The adapter is no file, and vLLM is not asked what it serves.
    monkeypatch.setattr("rnr_dist.weights.checkpoints.require_content", lambda model: None)
    served = "rnr_dist.generate.backend.vllm_architectures"
    monkeypatch.setattr(served, lambda: {"LlamaForCausalLM"})

    def make(plain=PLAIN, **more):
        config = validate({**plain, "model": "./model", **more}, "")
        run = RunDir.open(tmp_path / "run", config.content(), resume=False)
        base = resolve_model("./model")
        keep_base(run.path, base)
        after = base.plus(-1.0, Adapter(str(tmp_path), "a", base.digest, "forget"))
        named = [NamedModel("base", "reference", base), NamedModel("-f0", "step", after)]
        write(run.path / "release" / "models.json", named)
        return run.path

    return make


def only(pools):
    """The config, the checkpoint and the requests of the one pool that was started."""
    [(config, base, endpoint)] = pools
    return config, base, endpoint.requests


def test_both_models_are_asked_the_same_of_one_engine(made, served, capsys):
    run = made(engines={"count": 2, "most": 2}, evaluate=SHORT)
    assert rnr("compare", run, "w3 w4", "--n", "2") == 0
    config, base, [(before, first), (after, second)] = only(served)
    assert (config.engines.count, config.engines.greatest) == (1, 1)
    assert (base, before) == (resolve_model("./model"),) * 2
    assert [term.coefficient for term in after.terms] == [-1.0]
    assert first is second and (first.sampling.n, first.sampling.max_tokens) == (2, 4)
    tokenizer = transformers.AutoTokenizer.from_pretrained("./model")
    assert tokenizer.decode(first.token_ids) == "w3 w4"
    said = capsys.readouterr().out
    assert said.count("as before") == said.count("as after") == 2


def test_an_engine_begins_with_the_checkpoint_alone_where_the_model_before_has_adapters(
    made, served
):
    """An adapter was memorised: the engine would take its checkpoint for all of it."""
    run = made(evaluate=SHORT)
    base = resolve_model("./model")
    known = base.plus(1.0, Adapter(str(run), "m", base.digest, "forget"))
    named = [NamedModel("memorised", "reference", known), NamedModel("icu", "step", base)]
    write(run / "release" / "models.json", named)
    assert rnr("compare", run, "w3", "--n", "1") == 0
    _, begun, asked = only(served)
    assert begun == base and [model for model, _ in asked] == [known, base]


@pytest.mark.parametrize("trust", [False, True])
def test_a_checkpoint_s_code_is_trusted_as_the_run_says_and_nobody_is_asked(
    made, served, monkeypatch, trust
):
    asked, load = [], transformers.AutoTokenizer.from_pretrained

    def noted(*given, **options):
        asked.append(options.get("trust_remote_code"))
        return load(*given, **options)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", noted)
    run = made(trust_remote_code=trust, evaluate=SHORT)
    assert rnr("compare", run, "w3 w4", "--n", "1") == 0
    assert {trust} == set(asked) and only(served)[0].trust_remote_code is trust


@pytest.mark.parametrize("planted", [["\x1b[31mred\x1b[0m [/bold] [red]"] * 2])
def test_texts_of_the_model_move_no_cursor(made, served, capsys):
    assert rnr("compare", made(evaluate=SHORT), "w3", "--n", "1") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and said.count("[/bold]") == 2


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", "compare: found the prompt ''; expected a text to continue"),
        (" \n", "compare: found the prompt ' \\n'; expected a text to continue"),
        (
            "w3 " * 1020,
            f"compare: the prompt: has 1020 tokens ({('w3 ' * 14)[:40]!r}...); expected at most "
            "1000, so that 24 more fit engines.max_model_len 1024",
        ),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_one_sentence(made, served, capsys, prompt, told):
    run = made()
    capsys.readouterr()
    assert rnr("compare", run, prompt) == 2
    assert capsys.readouterr().err == f"rnr: {told}\n"
    assert not served


@pytest.mark.parametrize(
    ("engines", "node", "expected"),  # None: what this machine has
    [
        ({"cpus_each": 1}, CPU, (0, 1, "transformers", "reload")),
        ({"cpus_each": 500}, CPU, (0, None, "transformers", "reload")),
        ({"backend": "vllm"}, CPU, (0, 1, "vllm", "reload")),
        ({"gpus_each": 2, "weights": "lora"}, GPUS, (2, 1, "auto", "lora")),
        (
            {"gpus_each": 2, "backend": "vllm", "weights": "lora"},
            CPU,
            (0, None, "transformers", "reload"),
        ),
    ],
    ids=["one core", "cores", "as the run says", "GPUs", "no GPU here"],
)
def test_an_engine_is_as_in_the_run_and_on_cores_where_there_is_no_gpu(
    made, served, here, monkeypatch, engines, node, expected
):
    here(node)
    run = made(engines=engines, workers={"gpus_each": 1, "count": 8}, evaluate=SHORT)
    assert rnr("compare", run, "w3", "--n", "1") == 0
    used = only(served)[0].engines
    cores = len(os.sched_getaffinity(0))
    gpus, cpus, backend, weights = expected
    assert (used.gpus_each, used.weights) == (gpus, weights)
    assert (used.cpus_each, used.backend) == (cpus or cores, backend)


def test_where_gpus_are_missing_the_machine_is_named_or_the_config_changed(
    made, served, here, monkeypatch, capsys
):
    here(Node(4, 1, 4))
    run = made(engines={"gpus_each": 2}, evaluate=SHORT)
    capsys.readouterr()
    assert rnr("compare", run, "w3", "--n", "1") == 2
    line = capsys.readouterr().err
    assert "engines.count: found 1 generators of 2 GPU(s), this machine has 1 GPU(s)" in line
    assert rnr("compare", run, "w3", "--n", "1", "--set", "engines.gpus_each=1") == 0
    assert only(served)[0].engines.gpus_each == 1
    assert rnr("compare", run, "w3", "--set", "engines.gpu=1") == 2
    assert "unknown key engines.gpu" in capsys.readouterr().err


def test_on_a_cluster_this_machine_is_not_asked(made, served, here, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    here(Node())
    assert rnr("compare", made(engines={"gpus_each": 2}, evaluate=SHORT), "w3", "--n", "1") == 0
    assert only(served)[0].engines.gpus_each == 2


def test_a_machine_without_room_for_an_engine_is_told_before_one_starts(
    made, served, monkeypatch, capsys
):
    run = made(engines={"kv_cache_gib": 1e6}, evaluate=SHORT)
    capsys.readouterr()
    assert rnr("compare", run, "w3") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rnr: engines.count: found 1 generators of about 1000001.6 GiB")
    assert not served


def test_threads_do_not_spin(made, served, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert rnr("compare", made(evaluate=SHORT), "w3", "--n", "1") == 0
    assert os.environ.pop("GOMP_SPINCOUNT") == "5000"


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


@pytest.mark.parametrize("planted", [["a bad bitch"] * 2])
@pytest.mark.parametrize(("name", "scores"), [*zip(OF_GONE_DATA, (2, 2, 2, 0), strict=True)])
def test_a_run_whose_data_are_gone_is_compared_without_them(made, served, capsys, name, scores):
    plain = {"name": "gone"} if name == "extraction" else PLAIN  # each with its recipe's sections
    run = made(plain, task={"name": name, **OF_GONE_DATA[name]}, evaluate=SHORT)
    capsys.readouterr()
    assert rnr("compare", run, "w3", "--n", "1") == 0
    assert capsys.readouterr().out.count("1.00") == scores
