"""Configs for real models on 1, 4 and 8 GPUs: each fits the cluster that it names, and no less."""

import re
from pathlib import Path

import pytest
import ray

from rnr_dist.commands.check import Described, check_config, first_lines
from rnr_dist.config.file import load_cluster, load_config
from rnr_dist.errors import InputError
from rnr_dist.machine.placement import described, place
from rnr_dist.tasks.prompts import NoTokenizerError, tokenizer_of
from rnr_dist.tasks.task import make_task

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "gpu").glob("*.yaml"))
CLUSTERS = ROOT / "configs" / "clusters"
MODELS = Path(__file__).parents[1] / "data" / "models"


def parts(path):
    """(model, GPUs) of a config's name."""
    model, gpus = re.fullmatch(r"(.*)_(?:toxicity|icu)_(\d)", path.stem).groups()
    return MODELS / model / "config.json", CLUSTERS / f"gpus_{gpus}.yaml"


def test_all_of_them_ship():
    sizes = sorted(path.stem.rpartition("_")[0] for path in CONFIGS)
    assert sizes == sorted(["llama3_8b_toxicity", "mistral_7b_toxicity", "gpt_neo_1b_icu"] * 3)
    assert len({load_config(path).name for path in CONFIGS}) == len(CONFIGS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_fits_its_cluster_and_is_sized_for_gpus(path):
    model, cluster = parts(path)
    lines = check_config(path, [], Described(cluster, model))
    gpus = sum(node.gpus for node in described(load_cluster(cluster)))
    told = "\n".join(lines)
    assert f"by {model}: weights were not looked at" in told
    assert ("one GPU serves both" in told) == (gpus == 1)
    assert re.search(r"memory  \d generator\(s\), each [\d.]+ GiB", told)
    config = load_config(path)
    training = (
        config.methods.of("icu").training if config.way == "epochs" else config.release.forget
    )
    assert training.micro_batch_tokens == 8192
    assert config.engines.max_num_seqs == 1024


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_gpu_of_the_cluster_is_left_idle_while_it_trains(path):
    _, cluster = parts(path)
    nodes = described(load_cluster(cluster))
    placed = place(load_config(path), nodes)
    [training] = [phase for phase in placed.phases if phase.name == "training"]
    held = sum(actor.count * actor.gpus for actor in training.actors)
    assert held >= sum(node.gpus for node in nodes)


SMALL = "nodes:\n  - {cpus: 8, gpus: 1, gpu_gib: %s}\n"


def check(tmp_path, name, content, overrides=()):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(content, encoding="utf-8")
    path = ROOT / "configs" / "gpu" / f"{name}.yaml"
    return check_config(path, [*overrides], Described(cluster, parts(path)[0]))


@pytest.mark.parametrize(
    ("name", "content", "overrides", "told"),
    [
        ("llama3_8b_toxicity_1", SMALL % 16, [], r"^engines: each of 1 .* needs about 19\.\d GiB"),
        ("llama3_8b_toxicity_1", SMALL % 24, [], r"^release\.forget: .* about 35\.\d GiB.* 24\.0"),
        (
            "llama3_8b_toxicity_1",
            SMALL % 40,
            ["engines.count=2", "engines.gpus_each=0.4"],
            r"^engines: .* has 16\.0 GiB in its part, 0\.4, of a GPU",
        ),
        ("llama3_8b_toxicity_4", SMALL % 80, [], r"^engines\.count: found 3 .*cluster\.yaml has 1"),
        ("gpt_neo_1b_icu_1", SMALL % 20, [], r"^memorise\.training: each of 1 training worker"),
        ("gpt_neo_1b_icu_8", "nodes:\n  - {count: 3, cpus: 8, gpus: 1}\n", [], "at most 3"),
        ("gpt_neo_1b_icu_1", "nodes: []\n", [], r"cluster\.yaml: nodes: found"),
        ("gpt_neo_1b_icu_1", "nodes:\n  - {cpu: 8}\n", [], "unknown key .*cpu; did you mean cpus"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, name, content, overrides, told):
    with pytest.raises(InputError, match=told):
        check(tmp_path, name, content, overrides)


def test_where_nobody_tells_a_gpus_memory_it_is_not_asked_about(tmp_path):
    lines = check(tmp_path, "llama3_8b_toxicity_1", "nodes:\n  - {cpus: 8, gpus: 1}\n")
    assert any(line.startswith("memory  1 worker(s) of release.forget") for line in lines)


def test_a_models_config_is_a_file_of_that_name(tmp_path):
    with pytest.raises(InputError, match=r"--model-config: found .*demo.yaml; expected a model's"):
        check_config(CONFIGS[0], [], Described(None, ROOT / "configs" / "demo.yaml"))


def test_data_is_looked_at_where_a_tokenizer_lies_beside(tmp_path, tokenizer_beside):
    """The embedded model's tokenizer stands for GPT-Neo's."""
    path = ROOT / "configs" / "gpu" / "gpt_neo_1b_icu_1.yaml"
    lines = check_config(path, [], Described(CLUSTERS / "gpus_1.yaml", tokenizer_beside))
    assert "data       32 sequences in forget" in lines
    assert any(line.startswith("time    memorise: about") for line in lines)
    without = check_config(path, [], Described(CLUSTERS / "gpus_1.yaml", parts(path)[0]))
    assert any(line.startswith("data    was not looked at") for line in without)
    assert not any(line.startswith("time") for line in without)


def test_a_tokenizer_without_a_config_of_its_own_is_one_too(tokenizer_beside):
    folder = tokenizer_beside.parent
    (folder / "tokenizer_config.json").unlink()
    assert tokenizer_of(str(folder), False).encode("two words")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NoTokenizerError, match="found no tokenizer in"):
        tokenizer_of(str(folder), False)


@pytest.fixture
def tokenizer_beside(tmp_path):
    """GPT-Neo's config.json beside the embedded model's tokenizer."""
    from rnr_dist.weights.checkpoints import resolve_model

    base = Path(resolve_model("embedded:smollm2-135m-instruct").checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    made = tmp_path / "config.json"
    made.write_bytes((MODELS / "gpt_neo_1b" / "config.json").read_bytes())
    return made


def test_a_live_cluster_is_asked(monkeypatch):
    """Ray is not started here; what it would tell of its nodes is."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    node = {"Alive": True, "Resources": {"CPU": 4.0, "rnr_engine": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    demo = ROOT / "configs" / "demo.yaml"
    assert "place   reading: generators 2 x 1 rnr_engine" in check_config(demo, [])
    with pytest.raises(InputError, match=r"workers\.count: found 3 .* the cluster has 4 core"):
        check_config(demo, ["workers.count=3"])


def test_a_run_says_first_what_it_costs_and_joins_no_cluster_for_that(monkeypatch):
    config = load_config(ROOT / "configs" / "demo.yaml")
    task = make_task(config)
    here = first_lines(config, task)
    assert any(line.startswith("place   training: generators 2 x 1") for line in here)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("joined"))
    there = first_lines(config, task)
    assert there == [line for line in here if not line.startswith("place")]
    assert any(line.startswith("time    in all about") for line in there)
