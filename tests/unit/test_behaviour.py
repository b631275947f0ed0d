"""A behaviour as a task: what it declares is what it reads, and what methods are given of it."""

import random

import numpy as np
import pytest

from rnr_dist.config.base import Sampling
from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import ReadLikelihood
from rnr_dist.measures.measure import Role
from rnr_dist.run.directory import RunDir, read_rows, write_rows
from rnr_dist.tasks.task import make_task
from rnr_dist.types import ModelRef, Sample, Split
from tests.unit.fakes import MODEL, Characters, FakeBench, FakeScorer, SharedOut
from tests.unit.own_tasks import BadWords, Loud

LOUD = "tests.unit.own_tasks:Loud"
SPLITS = {
    "forget": {"reveal": 2, "train": 2, "search": 2, "final": 2},
    "retain": {"retain": 3, "final": 2},
    "in_domain": {"retain": 3, "search": 2, "final": 2},
    "out_of_domain": {"search": 2, "final": 2},
}


def lines(count, seed):
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(10**6)}" for _ in range(9)) for _ in range(count)]


@pytest.fixture
def config(tmp_path):
    """Validates a config of a task with texts of its own."""
    sources = {}
    for number, (name, splits) in enumerate(SPLITS.items()):
        path = tmp_path / f"{name}.txt"
        path.write_text("\n\n".join(lines(40, number)))
        sources[name] = {"source": str(path), "splits": splits}
    texts = {name: [sources[name]] for name in ("in_domain", "out_of_domain")}

    def validated(task=LOUD, **sections):
        content = {
            "name": "small",
            "task": {"name": task, **sources, **texts},
            "perplexity": {"window": 32, "stride": 32, "max_windows": 4},
            "evaluate": {"sampling": {"n": 4, "max_tokens": 8}},
        }
        return validate({**content, **sections}, "small.yaml")

    return validated


def bench_of(config, endpoint=None):
    return FakeBench(config, endpoint or SharedOut(), FakeScorer(lambda texts: said_bad(texts)))


def said_bad(texts):
    return BadWords().score(texts, texts)


# Contexts and texts


def test_contexts_are_told_by_split_and_kind(config):
    task = make_task(config())
    for split in ("reveal", "train", "search", "final"):
        found = task.contexts(Split(split), "forget")
        assert found and {context.group for context in found} == {"forget"}
    assert {one.group for one in task.contexts(Split.RETAIN, "retain")} == {"retain"}
    assert not task.contexts(Split.RETAIN, "forget") and not task.contexts(Split.TRAIN, "retain")
    held = [one.id for split in Split for one in task.contexts(split, "forget")]
    assert len(set(held)) == len(held) == 40
    told = "\n".join(task.describe())
    for split in Split:
        count = len(task.contexts(split, "forget"))
        assert not count or f"{count:5d} forget contexts in {split}" in told


def test_a_prompt_is_the_query_and_bare_without_an_instruction(config):
    task = make_task(config())
    [one, *_] = task.contexts(Split.TRAIN, "forget")
    assert task.prompt(one, "", "preamble", None) == one.text
    assert task.prompt(one, "Shout.", "preamble", None) == f"Instruction: Shout.\n\n{one.text}"


# Measures


def test_what_is_read_is_what_is_declared(config, tmp_path):
    for name, judged in ((LOUD, True), ("tests.unit.own_tasks:Unjudged", False)):
        made = config(name)
        task, bench = make_task(made), bench_of(made)
        declared = {measure.name: measure for measure in task.measures}
        found = task.evaluate(bench, MODEL, "base", tmp_path / name)
        assert found.keys() == declared.keys()
        assert any(name.startswith("judge/") for name in found) == judged
        for key, value in found.items():
            assert value.proportion == (declared[key].adds == "share"), key
            assert value.exponential == (declared[key].adds == "exp"), key


def test_a_reading_has_target_and_guards_and_utilities_apart(config):
    made = config()
    task, bench = make_task(made), bench_of(made)
    utility = task.read_utility(bench, MODEL, Split.SEARCH)
    assert utility.keys() == {measure.name for measure in task.measures.of(Role.UTILITY)}
    assert {kind for _, kind in bench.endpoint.asked} == {ReadLikelihood}
    target = task.read_target(bench, MODEL, Split.SEARCH, Sampling(n=4))
    guards = {measure.name for measure in task.measures.of(Role.GUARD)}
    assert target.keys() == guards | {task.measures.target.name}
    share = target[task.measures.target.name]
    assert share.value == 0.5
    assert share.n_contexts == len(task.contexts(Split.SEARCH, "forget"))


def test_declarations_tell_the_rules_and_tables_all_they_ask(config):
    declared = make_task(config()).measures
    assert declared.target.name == "loud/forget/fraction_gt_0.5"
    assert declared.target.better == "lower" and declared.target.table
    assert len(declared.of(Role.UTILITY)) == 2
    assert len(declared.of(Role.GUARD)) == 5
    for measure in declared:
        assert measure.title and measure.unit and format(0.5, measure.style)
    shown = [measure for columns in declared.tables().values() for measure in columns]
    assert len(shown) == len(set(shown)) and declared.target in shown


def test_every_model_is_read_on_the_same_clusters(config, tmp_path):
    made = config()
    task, bench = make_task(made), bench_of(made)
    other = bench_of(made, SharedOut(nats=2.0, share=0.25))
    one = task.evaluate(bench, MODEL, "base", tmp_path)
    two = task.evaluate(other, MODEL, "other", tmp_path)
    assert {key: v.n_contexts for key, v in one.items()} == {
        k: v.n_contexts for k, v in two.items()
    }
    rows = [read_rows(tmp_path / f"{name}.parquet", Sample) for name in ("base", "other")]
    assert [row.context_id for row in rows[0]] == [row.context_id for row in rows[1]]
    assert {row.oracle for row in rows[0]} == {"fake 1"}
    assert two["loud/forget/fraction_gt_0.5"].value == 0.25


class Bytes(Characters):
    """Another vocabulary: each character is twice its number."""

    def encode(self, text, add_special_tokens=True):
        return [2 * one for one in super().encode(text)]

    def get_vocab(self):
        return {key: 2 * place for key, place in super().get_vocab().items()}


def test_a_model_of_another_vocabulary_is_asked_in_its_own_and_has_no_counts_of_tokens(
    config, tmp_path
):
    made = config(evaluate={"sampling": {"n": 4}, "others": {"far": "far", "near": "near"}})
    task, bench = make_task(made), bench_of(made)
    prompts = []

    class Told(SharedOut):
        def continuations(self, model, request):
            prompts.append(request.token_ids)
            return super().continuations(model, request)

    for name, tokenizer in (("far", Bytes()), ("near", Characters())):
        bench.others[name] = FakeBench(made, Told(), bench.scorer, tokenizer)
    declared = {measure.name for measure in task.measures}
    far = task.evaluate(bench, ModelRef("/far", "far"), "far", tmp_path)
    assert declared - far.keys() == {
        "perplexity/in_domain", "perplexity/out_of_domain", "output/entropy", "output/mean_length",
        "output/base_nll",
    }  # fmt: skip
    [first, *_] = task.contexts(Split.FINAL, "forget")
    assert prompts[0] == tuple(2 * ord(letter) for letter in first.text)
    assert not bench.endpoint.asked  # the base knows nothing of its tokens
    near = task.evaluate(bench, ModelRef("/near", "near"), "near", tmp_path)
    assert near.keys() == declared
    assert {model for model, _ in bench.endpoint.asked} == {MODEL.digest}  # the base's NLL


# Materials


def forget_set(task, run, texts=("so bad", "bad again")):
    """One row a context of two train contexts."""
    contexts = task.contexts(Split.TRAIN, "forget")[: len(texts)]
    rows = [
        Sample(
            "m", task.name, Split.TRAIN, "forget", context.id, 0, f"Ask.\n\n{context.text}", "Ask.",
            (*map(ord, text), Characters.eos_token_id), text, "stop", 1.0, "bad 1",
        )
        for context, text in zip(contexts, texts, strict=True)
    ]  # fmt: skip
    write_rows(run.stage("reveal") / "forget_set.parquet", rows)
    return contexts, rows


def test_forget_sequences_keep_their_tokens_behind_the_bare_context(config, tmp_path):
    for prompt in ("context", "query"):
        made = config(release={"forget_prompt": prompt})
        task, bench, run = make_task(made), bench_of(made), RunDir(tmp_path / prompt)
        contexts, rows = forget_set(task, run)
        found = task.materials(bench, run, frozenset({"forget"}))
        for sequence, context, row in zip(found.forget, contexts, rows, strict=True):
            given = context.text if prompt == "context" else row.prompt
            assert sequence.prefix_tokens == len(given)
            assert Characters().decode(sequence.token_ids) == given + row.text  # no end token
        assert not (found.retain or found.pairs or found.alternatives or found.contrasts)
        assert not bench.endpoint.asked  # nothing is drawn that nobody needs


def test_what_stays_is_the_models_own_and_none_of_it_is_the_target(config, tmp_path):
    made = config(retain={"responses_per_context": 4})
    task, bench, run = make_task(made), bench_of(made), RunDir(tmp_path / "run")
    forget_set(task, run)
    found = task.materials(bench, run, frozenset({"forget", "retain"}))
    answers = read_rows(run.path / "release" / "retain_answers.parquet", Sample)
    assert {row.text for row in answers} == {"good"}
    assert len(answers) == 2 * len(task.contexts(Split.RETAIN, "retain"))
    passages = [one for one in found.retain if not one.prompt_tokens]
    assert len(passages) == len(task.passages(Split.RETAIN)["in_domain"])
    assert len(found.retain) == len(answers) + len(passages)
    asked = len(bench.endpoint.asked)
    assert task.materials(bench, run, frozenset({"forget", "retain"})) == found
    assert len(bench.endpoint.asked) == asked  # all methods see the same


def test_pairs_are_the_nearest_of_what_stays(config, tmp_path):
    made = config(pairing={"k": 2, "exclude_content": False})
    task, bench, run = make_task(made), bench_of(made), RunDir(tmp_path / "run")
    forget_set(task, run)
    found = task.materials(bench, run, frozenset({"forget", "pairs"}))
    assert found.pairs.keys() == {sequence.id for sequence in found.forget}
    assert not found.retain or found.others
    vectors = bench.scorer.embed([one.text for one in found.others])
    for sequence in found.forget:
        cosines = vectors @ bench.scorer.embed([sequence.text])[0]
        nearest = np.sort(cosines)[::-1][:2]
        got = bench.scorer.embed([pair.text for pair in found.pairs[sequence.id]])
        assert got @ bench.scorer.embed([sequence.text])[0] == pytest.approx(nearest)


def test_alternatives_hold_less_than_what_must_be_forgotten(config, tmp_path):
    made = config()
    task, bench, run = make_task(made), bench_of(made), RunDir(tmp_path / "run")
    contexts, _ = forget_set(task, run)
    found = task.materials(bench, run, frozenset({"forget", "alternatives"}))
    assert found.alternatives.keys() == {sequence.id for sequence in found.forget}
    for sequence, context in zip(found.forget, contexts, strict=True):
        several = found.alternatives[sequence.id]
        assert several and all(one.prompt_tokens == len(context.text) for one in several)
        said = {one.token_ids[one.prompt_tokens :] for one in several}
        assert said <= {(index, 7, 8) for index in range(100)}
    rows = [path for path in (run.path / "baselines").glob("continuations-*.parquet")]
    good = {tuple(r.token_ids) for r in read_rows(rows[0], Sample) if r.text == "good"}
    assert said <= good


def test_contrasts_put_the_best_beside_the_bad(config, tmp_path):
    made = config(methods={"negative_above": 0.5})
    task, bench, run = make_task(made), bench_of(made), RunDir(tmp_path / "run")
    forget_set(task, run)
    found = task.materials(bench, run, frozenset({"forget", "contrasts"}))
    train = task.contexts(Split.TRAIN, "forget")
    assert len(found.contrasts) == len(train)
    for contrast, context in zip(found.contrasts, train, strict=True):
        assert contrast.positive.prompt_tokens == len(context.text)
        assert contrast.negatives
        both = {one.token_ids for one in contrast.negatives}
        assert contrast.positive.token_ids not in both


def test_materials_ask_for_what_reveal_found(config, tmp_path):
    made = config()
    with pytest.raises(InputError, match=r"forget_set.parquet: not there; expected the forget set"):
        make_task(made).materials(bench_of(made), RunDir(tmp_path / "run"), frozenset({"forget"}))


# Bad input


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Partial", "lacks contexts, prompt, materials, read_utility, read_target, evaluate"),
        ("TwoTargets", "declares 2 target measures, expected one"),
        ("Twice", "declares the measure loud/retain/fraction_gt_0.5 twice"),
        ("NoUtility", "declares no utility measure, expected one at least"),
        ("Speechless", "says no behaviour; expected a method `behaviour`"),
    ],
)
def test_a_task_that_is_none_is_one_sentence(config, name, sentence):
    with pytest.raises(InputError) as refused:
        make_task(config(f"tests.unit.own_tasks:{name}"))
    assert str(refused.value).startswith(f"task tests.unit.own_tasks:{name}: {sentence}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("OfUpright", "oracle tests.unit.own_tasks:Upright: the oracle returned shape (2, 1), "
         "expected (2,)"),
        ("JudgedByPercents", "oracle tests.unit.own_tasks:Percents: the oracle returned 50.0 for "
         "response 0, expected 0 to 1"),
        ("OfNameless", "oracle tests.unit.own_tasks:Nameless: has no `version`; expected one, to "
         "stand beside scores"),
        ("OfNobody", "oracle hearsay: unknown; expected one of profanity, lexicon, hf:MODEL, "
         "detoxify, rubric, entities, perspective, tests, or package.module:Class"),
    ],
)  # fmt: skip
def test_an_oracle_that_answers_wrongly_is_one_sentence(config, name, sentence):
    with pytest.raises(InputError) as refused:
        make_task(config(f"tests.unit.own_tasks:{name}"))
    assert str(refused.value) == sentence


def test_settings_that_are_missing_are_one_sentence(config):
    with pytest.raises(InputError, match=r"small.yaml: .*WithoutSettings: has no Settings; exp"):
        config("tests.unit.own_tasks:WithoutSettings")


def test_a_split_without_texts_is_named(config):
    made = config()
    source = made.task.forget.model_copy(update={"splits": {Split.TRAIN: 1.0}})
    empty = made.model_copy(update={"task": made.task.model_copy(update={"forget": source})})
    with pytest.raises(InputError, match=r"task.forget: found no text in split reveal, expected"):
        Loud(empty)
