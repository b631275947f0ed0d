"""The task of given sequences: its data, what rules and tables read of a model, its materials."""

import asyncio
import contextlib
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rnr_dist.config.base import Sampling
from rnr_dist.config.engines import Engines
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.generate.transformers_engine import TransformersEngine
from rnr_dist.icu.torch_reader import TorchReader
from rnr_dist.measures.measure import Role
from rnr_dist.measures.memorisation import recall
from rnr_dist.measures.sequence_rows import OF_ONE_VOCABULARY, SequenceRow
from rnr_dist.run.directory import RunDir, read_json, read_rows
from rnr_dist.stats import paired_ratio
from rnr_dist.tasks import extraction
from rnr_dist.tasks.task import make_task
from rnr_dist.types import ModelRef, Split

pytestmark = pytest.mark.usefixtures("one_thread")
VOCABULARY, T0, T, N = 61, 8, 24, 3
COUNTS = {"forget": 4, "pool": 6, "unseen": 5, "tuning": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_llama, tiny_tokenizer):
    """Two random models: one of words, one that reads letter by letter."""
    words, letters = (tmp_path_factory.mktemp(name) for name in ("words", "letters"))
    tiny_llama(words, vocabulary=VOCABULARY)
    tiny_tokenizer(words, VOCABULARY)
    tiny_llama(letters, vocabulary=32)
    alphabet = {letter: 2 + at for at, letter in enumerate("w0123456789 ")}
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1, **alphabet}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(letters)
    return words, letters


@pytest.fixture(scope="module")
def content(folders, tmp_path_factory):
    """A config's content, with a file a set and one of general text."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)

    def text(length):
        return " ".join(f"w{draw.randrange(2, VOCABULARY)}" for _ in range(length))

    sets = {}
    for name, count in COUNTS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"text": text(T)}) for _ in range(count)))
        sets[name] = {"source": str(path)}
    (folder / "general.txt").write_text("\n\n".join(text(40) for _ in range(20)))
    splits = {"retain": 1, "search": 1, "final": 1}
    task = {
        "name": "extraction",
        **sets,
        "general": [{"source": str(folder / "general.txt"), "splits": splits}],
        "prefix_tokens": T0,
        "max_tokens": T,
        "n": N,
        "sampled": {"n": 2, "max_tokens": 40, "top_p": 1.0},
        "choices": None,
        "dialogues": None,
    }
    window = {"window": 32, "stride": 32}
    return {"name": "x", "model": str(folders[0]), "task": task, "perplexity": window}


class Endpoint:
    """The transformers engine in this process; it notes which models it was asked for."""

    def __init__(self, folder):
        self._engine = TransformersEngine(Engines(dtype="float32", max_model_len=512), str(folder))

    def run(self, model, requests, describe=""):
        return asyncio.run(self._engine.run(list(requests), model.digest))


@pytest.fixture
def bench(folders, content):
    config, (words, letters) = Config.model_validate(content), folders
    base, other = ModelRef(str(words), "words"), ModelRef(str(letters), "letters")
    served = {one.checkpoint: Endpoint(one.checkpoint) for one in (base, other)}
    return SimpleNamespace(
        config=config,
        base=base,
        other=other,
        tokenizer=AutoTokenizer.from_pretrained(words),
        endpoint=served[base.checkpoint],
        endpoint_of=lambda model: served[model.checkpoint],
        ray=None,
        placement=SimpleNamespace(embedder_gpus=0.0),
        enter=lambda context: contextlib.ExitStack().enter_context(context()),
    )


@pytest.fixture
def similar(monkeypatch):
    @contextlib.contextmanager
    def scores(scorer, layer):
        yield lambda found, truth: (np.full(len(found), 0.5), np.full(len(found), 0.25))

    monkeypatch.setattr(extraction, "similarity_scores", scores)


def test_the_sets_are_loaded_with_their_prefixes_and_told(content):
    task = make_task(Config.model_validate(content))
    assert task.recipe == "unlearn-sequences"
    for name, count in COUNTS.items():
        sequences = getattr(task, name)
        assert len(sequences) == count and {one.prefix_tokens for one in sequences} == {T0}
        assert f"data    {count:5d} sequences in {name}" in task.describe()


def test_roles_and_tables_are_declared(content):
    task = make_task(Config.model_validate(content))
    measures = task.measures
    assert measures.target.name == "extraction/el_t0"
    names = {role: {one.name for one in measures.of(role)} for role in Role}
    assert names[Role.UTILITY] == {"perplexity/general", "pool/nll"}
    assert names[Role.GUARD] == {"output/entropy", "output/length", "output/distinct"}
    tables = {title: [one.title for one in found] for title, found in measures.tables().items()}
    assert tables == {
        "What is still recalled": [
            "EL",
            "EL, t≥t0",
            "MA, t≥t0",
            "BERT",
            "short prefixes",
            "sampled",
            "AUC",
        ],
        "What was kept": ["entropy", "tokens", "pool NLL", "perplexity"],
    }
    assert {one.name for one in measures if one.hidden} == {
        "extraction/el_short",
        "extraction/sampled",
        "auc/nll",
    }


def test_what_stopping_reads_is_shown_and_hides_nothing(content):
    stopping = {"extraction_over": "all", "memorisation_over": "all"}
    measures = make_task(Config.model_validate({**content, "stopping": stopping})).measures
    assert [one.title for one in measures.tables()["What is still recalled"]][2] == "MA"
    assert {one.name for one in measures if one.hidden} == {"extraction/sampled", "auc/nll"}


@pytest.mark.parametrize(
    ("preset", "denominator"),
    [("default", "generated"), ("paper", "generated"), ("reference", "label")],
)
def test_presets_divide_as_the_paper_or_as_its_code(content, preset, denominator):
    task = make_task(Config.model_validate({**content, "preset": preset}))
    assert task.counting.denominator == denominator
    assert task.counting.eos == 1


def test_problems_are_declared_where_they_are_asked(content):
    task = {**content["task"], "choices": "builtin:choices", "dialogues": "builtin:dialogues"}
    measures = make_task(Config.model_validate({**content, "task": task})).measures
    assert "problems/choices" in measures and "problems/dialogues" in measures


def test_what_rules_read_is_what_the_report_says(bench, folders, similar, tmp_path):
    task = make_task(bench.config)
    measures = task.evaluate(bench, bench.base, "base", tmp_path)
    assert measures.keys() == {one.name for one in task.measures}
    read = task.read_target(bench, bench.base, Split.SEARCH, Sampling())
    assert read.keys() == {
        task.measures.target.name,
        *(one.name for one in task.measures.of(Role.GUARD)),
    }
    for name, value in read.items():
        np.testing.assert_allclose(value.numerator, measures[name].numerator)
    kept = task.read_utility(bench, bench.base, Split.FINAL)
    assert kept.keys() == {one.name for one in task.measures.of(Role.UTILITY)}
    for name, value in kept.items():
        np.testing.assert_allclose(value.numerator, measures[name].numerator, rtol=1e-5)
    # Of another split the general text differs, the pool does not.
    search = task.read_utility(bench, bench.base, Split.SEARCH)
    assert search["pool/nll"].value == kept["pool/nll"].value
    assert search["perplexity/general"].value != kept["perplexity/general"].value
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    ends = model.config.eos_token_id  # where the engine ends a text
    found = recall(TorchReader(model, ends), task.forget, task.counting)
    rows = read_rows(tmp_path / "base.parquet", SequenceRow)
    assert [row.id for row in rows] == [one.id for one in task.forget]
    for row, one in zip(rows, found, strict=True):
        assert row.extraction == pytest.approx(one.extraction)
        assert row.accuracy_t0 == pytest.approx(one.accuracy(T0))
        assert row.length == len(one.continuation)


def test_a_model_of_another_vocabulary_reads_the_same_texts(bench, content, similar, tmp_path):
    others = {"others": {"letters": bench.other.checkpoint}}
    config = Config.model_validate({**content, "evaluate": others})
    task = make_task(config)
    own = task.evaluate(bench, bench.base, "base", tmp_path)
    read = task.evaluate(bench, bench.other, "letters", tmp_path)
    left_out = {one.name for one in OF_ONE_VOCABULARY}
    assert read.keys() == own.keys() - left_out and "extraction/el" in read
    for name in read.keys() - {"auc/nll"}:  # on the same clusters, so that rows can be paired
        paired_ratio(read[name], own[name])
        assert read[name].n_contexts == own[name].n_contexts
    rows, mine = (
        read_rows(tmp_path / f"{name}.parquet", SequenceRow) for name in ("letters", "base")
    )
    for row, other in zip(rows, mine, strict=True):
        assert row.truth.replace(" ", "") == other.truth.replace(" ", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": {"max_model_len": 40}}, "others.letters: .* fewer than engines.max_model_len"),
        ({}, "others.bare: found no tokenizer in"),
    ],
)
def test_another_model_that_cannot_read_the_sequences_is_refused(
    content, folders, tmp_path, change, message
):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(folders[0] / name)
    named = {"letters": str(folders[1])} if change else {"bare": str(bare)}
    more = {**change, "evaluate": {"others": named}}
    with pytest.raises(InputError, match=message):
        make_task(Config.model_validate({**content, **more}))


def test_materials_are_found_once_and_anew_for_other_settings(
    bench, content, tmp_path, monkeypatch
):
    calls = []

    def embedded(embedder, texts, gpus=0):
        calls.append(embedder)
        vectors = np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr("rnr_dist.score.actors.embedded", embedded)
    task, run = make_task(bench.config), RunDir.open(tmp_path / "run", {}, resume=False)
    found = task.materials_of(bench, run, task.forget)
    again = task.materials(bench, run, frozenset({"forget", "pairs", "alternatives", "retain"}))
    assert found == again and len(calls) == 1
    assert found.forget == task.forget and found.others == task.pool
    pool = {one.id: one for one in task.pool}
    for one in task.forget:
        [pair] = found.pairs[one.id]
        assert pair == pool[pair.id]
        [end] = found.alternatives[one.id]
        assert end.token_ids == (*one.token_ids[:T0], *pair.token_ids[T0:])
        assert end.prompt_tokens == T0
    assert len(found.retain) > len(task.pool)  # general text too
    assert found.token_nats.keys() == {token for one in task.unseen for token in one.token_ids[1:]}
    tuning = task.materials_of(bench, run, task.tuning)
    assert tuning.forget == task.tuning and tuning.pairs.keys() == {o.id for o in task.tuning}
    shown = read_json(run.path / "materials" / "pairs.json")["content"]
    assert len(shown) == COUNTS["forget"] + COUNTS["tuning"]
    bench.config = Config.model_validate({**content, "pairing": {"k": 2}})
    two = task.materials(bench, run, frozenset({"pairs"}))
    assert {len(pairs) for pairs in two.pairs.values()} == {2} and len(calls) == 2
    assert not two.alternatives
    bare = task.materials(bench, run, frozenset({"forget"}))
    assert not (bare.pairs or bare.retain or bare.alternatives or bare.token_nats)
