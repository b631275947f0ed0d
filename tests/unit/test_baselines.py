"""Methods beside the recipe's own: what is drawn for them, their budget, how they are chosen."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rnr_dist.config.engines import Engines
from rnr_dist.config.file import validate
from rnr_dist.config.methods import Methods, way_of
from rnr_dist.config.registry import METHODS
from rnr_dist.config.release import Release, Retain
from rnr_dist.data.cleaning import cleaned, segments
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import Continuation, Response
from rnr_dist.measures.results import Results, Row
from rnr_dist.methods.eq1 import run_released, within
from rnr_dist.methods.merge import Budget, Ground, Merged, run_merged, spaced
from rnr_dist.methods.method import make_method
from rnr_dist.methods.stage import beside, compared_methods, spent
from rnr_dist.release import stage
from rnr_dist.run.directory import RunDir, read, write, write_json, write_rows
from rnr_dist.stats import ClusterMean, paired_difference
from rnr_dist.tasks import drawn
from rnr_dist.types import (
    Adapter,
    Context,
    ModelRef,
    NamedModel,
    Sample,
    Split,
    TokenSequence,
)
from tests.unit.fakes import MODEL, Direct, FakeBench
from tests.unit.method_fakes import ROWS, FakeTask, FakeTrainings, reader

TOKENIZER = SimpleNamespace(
    encode=lambda text, add_special_tokens=True: [ord(c) for c in text], eos_token_id=0
)
CONTEXTS = [Context(f"c{i}", f"text {i}", Split.TRAIN, "bad") for i in range(3)]


def sample(context, text, score, index=0):
    return Sample(
        "m", "task", Split.TRAIN, "bad", context, index, "p", "i",
        (*map(ord, text), 0), text, "stop", score, "fake",
    )  # fmt: skip


def told(example):
    return "".join(map(chr, example.token_ids[example.prompt_tokens :]))


# What is drawn


class Bench:
    """Continuations of the base are those that it is given, by context; scores are known."""

    tokenizer, base = TOKENIZER, MODEL

    def __init__(self, said, scores, **methods):
        self.said, self.scores, self.asked = said, scores, []
        self.config = SimpleNamespace(retain=Retain(), methods=Methods(**methods))
        self.endpoint = self.scorer = self
        self.version = "fake"

    def run(self, model, requests, describe=""):
        assert model == MODEL
        prompts = ["".join(map(chr, request.token_ids)) for request in requests]
        self.asked += prompts
        return [
            Response(
                model.digest,
                continuations=tuple(
                    Continuation((*map(ord, text), 0), text, "stop") for text in self.said[prompt]
                ),
            )
            for prompt in prompts
        ]

    def score(self, contexts, responses):
        assert len(contexts) == len(responses)
        return np.array([self.scores(text) for text in responses])


SCORES = {"nice": 0.1, "fine": 0.2, "bad": 0.9, " ": 0.0, "calm": 0.05, "rude": 0.5, "vile": 0.8}
SAID = {"text 0": ["bad", "fine", "nice"], "text 1": ["bad", " "], "text 2": ["vile", "rude"]}
TASK = SimpleNamespace(name="task", target_above=0.6)


@pytest.fixture
def run(tmp_path):
    """A run with a forget set of three rows of one context and one of another."""
    run = RunDir(tmp_path / "run")
    rows = [
        sample("c0", "awful", 0.8), sample("c0", "worse", 0.95, 1), sample("c0", "odd", 0.15, 2),
        sample("c1", "foul", 0.6),
    ]  # fmt: skip
    write_rows(run.stage("reveal") / "forget_set.parquet", rows)
    return run


def forget_sequences():
    """As the task makes them of those rows: the context, then the response."""
    texts = (("c0", "awful"), ("c0", "worse"), ("c0", "odd"), ("c1", "foul"))
    made = []
    for context, text in texts:
        prompt = f"text {context[1]}"
        ids = tuple(map(ord, prompt + text))
        made.append(TokenSequence(text, "bad", ids, text, len(prompt)))
    return made


def test_alternatives_hold_less_than_the_row_and_none_outweighs_the_others(run):
    bench = Bench(SAID, SCORES.get)
    found = drawn.alternatives(TASK, bench, run, CONTEXTS, forget_sequences())
    assert {key: [told(one) for one in several] for key, several in found.items()} == {
        "awful": ["nice", "fine"],  # the second is worse than the row, though less than the first
        "worse": ["fine", "bad", "nice"],
        "odd": ["nice"],
        # c1 has nothing that is better than its row; an empty continuation teaches nothing.
    }
    assert all(one.prompt_tokens == len("text 0") for several in found.values() for one in several)
    again = Bench({}, SCORES.get)
    assert drawn.alternatives(TASK, again, run, CONTEXTS, forget_sequences()) == found
    other = Bench(SAID, SCORES.get, continuations=7)
    drawn.alternatives(TASK, other, run, CONTEXTS, forget_sequences())
    assert (len(bench.asked), len(again.asked), len(other.asked)) == (3, 0, 3)


def test_contrasts_are_the_best_of_the_clean_context_against_the_worst_of_both(run):
    said = {**SAID, "fine, bad": [], "fine,": ["calm one"], "fine, calm one": ["calm", "rude"]}
    contexts = [Context("c9", "fine, bad", Split.TRAIN, "bad")]
    said["fine, bad"] = ["vile", "bad"]
    bench = Bench(said, lambda text: SCORES.get(text.strip(), 0.0))
    [contrast] = drawn.contrasts(TASK, bench, run, contexts)
    assert told(contrast.positive) == "calm"
    assert [told(one) for one in contrast.negatives] == ["bad", "vile", "rude"]
    assert {one.prompt_tokens for one in (contrast.positive, *contrast.negatives)} == {9}
    assert drawn.contrasts(TASK, Bench({}, None), run, contexts) == (contrast,)


def test_external_pairs_are_those_that_hold_the_target_or_were_not_scored(tmp_path, monkeypatch):
    pairs = [
        Context("e0", "he said", Split.TRAIN, "x", " you fool", 0.9),
        Context("e1", "she said", Split.TRAIN, "x", "good day", 0.1),
        Context("e2", "they said", Split.TRAIN, "x", "pah"),
    ]
    monkeypatch.setattr(drawn, "load_contexts", lambda source, group: pairs)
    assert [told(one) for one in drawn.external(Bench({}, None))] == [" you fool", " pah"]
    pairs[:] = pairs[1:2]
    with pytest.raises(InputError, match=r"methods\.external: none of 1 pairs"):
        drawn.external(Bench({}, None))


def test_the_built_in_pairs_can_all_be_learnt():
    assert len(drawn.external(Bench({}, None))) == 42


def test_segments_join_to_the_text():
    text = 'He stood up, threw the book and said: "you are all so very stupid and so am I'
    found = segments(text, 4)
    assert "".join(found) == text
    assert found[0] == "He stood up, " and all(len(part.split()) <= 4 for part in found)


def test_marked_segments_are_written_anew_behind_what_is_clean():
    contexts = [
        Context("a", "good day, bad word, and so on", Split.TRAIN, "x"),
        Context("b", "bad start, all well", Split.TRAIN, "x"),
    ]
    asked = []

    def rewrite(texts):
        asked.extend(texts)
        return [" kind word," for _ in texts]

    found = cleaned(contexts, 6, lambda parts: ["bad" in part for part in parts], rewrite)
    assert found["a"] == "good day, kind word, and so on"
    assert asked == ["good day,"]
    assert found["b"] == "bad start, all well"  # nothing stands before it to go on from


# Budget and choice


@pytest.mark.parametrize("count", [1, 2, 5])
def test_strengths_are_as_many_as_the_budget_has(count):
    assert len(spaced(0.5, 8, count)) == count
    assert spaced(0.5, 8, 1) == [2.0]


def ground(folder, budget):
    made = reader(folder / "readings")
    return Ground(MODEL, ROWS, made, FakeTrainings(folder / "adapters"), budget, folder)


def test_a_method_gets_the_budget_and_is_chosen_by_the_rules(tmp_path):
    here = ground(tmp_path, Budget(tokens=1000, candidates=8))
    method = make_method("pem_external")
    result = run_merged(method, method.settings("merge"), here)
    log = here.trainings.log
    assert [training.learning_rate for _, _, training in log] == [3e-4, 1e-3]
    assert {training.tokens for _, _, training in log} == {500}
    assert (result.tokens, result.candidates, result.feasible) == (1000, 8, True)
    [term] = result.model.terms
    assert term.coefficient < 0 and f"x {-term.coefficient:g}" in result.candidate
    kept = read(tmp_path / "pem_external.json", Merged)
    assert replace(kept, trials=()) == replace(result, trials=())
    assert [one.candidate for one in kept.trials] == [one.candidate for one in result.trials]


def test_dead_candidates_are_counted(tmp_path):
    """Perplexity at strengths 4 and 1.41 is above what the rules allow: nothing is generated."""
    here = ground(tmp_path, Budget(tokens=100, candidates=9))
    method = make_method("kumpr")
    result = run_merged(method, method.settings("merge"), here)
    first = [trial for trial in result.trials if trial.draw == 0]
    assert (len(first), result.dead) == (9, 6)
    assert sum(np.isnan(trial.verdict.forget) for trial in first) == result.dead
    assert result.candidate.endswith("x 0.5")


WEIGHTS = {name: {"low": 0.1, "high": 1} for name in ("mu0", "lam", "mu")}


def of_eq_1(folder, monkeypatch, candidates, **rules):
    """Eq. 1 within so many candidates, and the candidates that were read of each search."""
    monkeypatch.setattr(stage, "Trainings", lambda bench, place: FakeTrainings(place / "adapters"))
    config = SimpleNamespace(release=Release(**WEIGHTS, **rules), engines=Engines(), seed=0)
    asked = {}

    class Counted(Direct):
        def read_all(self, name, models, draws, step):
            if draws == range(1):
                asked[name] = [*models]
            return super().read_all(name, models, draws, step)

    made = Counted(FakeBench(config), FakeTask(), folder / "readings")
    budget = Budget(tokens=900, candidates=candidates)
    here = Ground(MODEL, ROWS, made, FakeTrainings(folder), budget, folder)
    found = run_released(make_method("release"), here)
    return found, {name: len(models) for name, models in asked.items()}


@pytest.mark.parametrize("candidates", [9, 18, 40])
def test_eq_1_beside_others_reads_as_many_candidates_as_they_do(tmp_path, monkeypatch, candidates):
    result, asked = of_eq_1(tmp_path, monkeypatch, candidates, stop_early=False)
    each = candidates // 3  # of 6 asked for each of three weights
    assert asked == {"-f0": each, "+r1": each, "-f1": each}
    assert (result.candidates, result.tokens) == (3 * each, 900)


def test_a_joint_search_has_the_candidates_that_the_weights_leave(tmp_path, monkeypatch):
    rules = {"stop_early": False, "joint": {"trials": 18}}
    result, _ = of_eq_1(tmp_path, monkeypatch, 20, **rules)
    # 20 of 36 that the config asks for: 3 of each 6, and what is left.
    assert result.candidates == 20
    found = within(Release(**WEIGHTS, **rules), 20)
    assert [one.trials for one in (found.mu0, found.lam, found.mu, found.joint)] == [3, 3, 3, 11]


def test_a_weight_has_one_candidate_at_least(tmp_path, monkeypatch):
    rules = {"joint": {"trials": 4}, "stop_early": False}
    result, asked = of_eq_1(tmp_path, monkeypatch, 2, **rules)
    assert asked == {"-f0": 1, "+r1": 1, "-f1": 1} and result.candidates == 3


def test_every_method_makes_a_model_of_its_adapters(tmp_path):
    for name in METHODS:
        if name == "ext_sub":
            continue  # its adapter is made of real weights: test_ext_sub.py
        method = make_method(name)
        adapters = {
            key: Adapter("/x", f"{name}-{key}", MODEL.digest, side)
            for key, side in method.adapters.items()
        }
        [term] = method.model(MODEL, adapters, 0.7, tmp_path).terms
        assert abs(term.coefficient) == 0.7


def test_what_eq_1_took_is_everyones_budget(tmp_path):
    run, trained = RunDir(tmp_path / "run"), FakeTrainings(tmp_path / "adapters")
    training = SimpleNamespace(tokens=70)
    forget, retain = (
        trained.adapter(side, [], training, side, MODEL) for side in ("forget", "retain")
    )
    result = MODEL.plus(-1.0, forget).plus(0.5, retain).plus(-0.1, forget)
    models = [NamedModel("base", "reference", MODEL), NamedModel("-f1", "step", result)]
    write(run.stage("release") / "models.json", models)
    trials = [
        {"draw": draw, "forget": lost}
        for draw, lost in zip((0, 0, 0, 1, 1), (1, None, 1, 1, 1), strict=True)
    ]
    write_json(run.path / "release" / "search.json", {"trials": trials, "front": [{}, {}, {}]})
    assert spent(SimpleNamespace(way="merge"), run) == Budget(140, 5, dead=1)


def test_what_the_last_training_by_epochs_took_is_so_for_each_place(tmp_path):
    run, checkpoint = RunDir(tmp_path / "run"), tmp_path / "icu"
    checkpoint.mkdir()
    summary = {"tokens": 500, "epochs": [{}] * 4}
    (checkpoint / "training.json").write_text(json.dumps(summary))
    made = ModelRef(str(checkpoint), "icu")
    write(run.stage("icu") / "models.json", [NamedModel("icu", "step", made)])
    places = [{"overrides": {}}, {"overrides": {}, "lost": "the loss is nan"}]
    write_json(run.path / "icu" / "icu.json", {"chosen": {}, "places": places})
    config = validate({"name": "x", "task": {"name": "extraction"}}, "x.yaml")
    # 3 epochs after the first reading, of which the place that was lost has none to choose from.
    assert spent(config, run) == Budget(1000, 6, dead=3)
    write_json(run.path / "icu" / "icu.json", {"chosen": {}, "places": []})  # a grid of one place
    assert spent(config, run) == Budget(500, 3)


def test_the_recipes_result_says_what_it_took():
    def row(name, kind):
        return Row(name, kind, name, Split.FINAL, {}, {"terms": []})

    own = Results((), (row("base", "reference"), row("-f0", "step"), row("+r1", "step")), "base")
    method = replace(row("dpo", "method"), notes={"tokens": 9})
    found = beside(own, [method], Budget(10, 3))
    assert [one.name for one in found.rows] == ["base", "-f0", "+r1", "dpo"]
    assert [one.notes.get("tokens") for one in found.rows] == [None, None, 10, 9]
    assert found.rows[2].notes == {"terms": [], "tokens": 10, "candidates": 3, "dead": 0}


# The config


def configured(**methods):
    source = {"source": "builtin:expository", "splits": {"final": 1}}
    task = {"challenging": source, "ordinary": source}
    task |= {"in_domain": [source], "out_of_domain": [source]}
    return validate({"name": "x", "task": task, "methods": methods}, "x.yaml")


def test_a_grid_that_no_training_takes_is_refused():
    with pytest.raises(InputError, match=r"methods\.dpo.*learning_rat"):
        configured(dpo={"grid": [{"learning_rat": 1}]})
    with pytest.raises(InputError, match=r"methods\.dpo\.training\.objective\.name: found causal"):
        configured(dpo={"training": {"objective": {"name": "causal"}}})
    with pytest.raises(InputError, match=r"methods\.icu\.training\.parameters full is no adapter"):
        configured(icu={"training": {"parameters": "full"}})
    with pytest.raises(InputError, match=r"unknown key methods\.dop; did you mean dpo"):
        configured(dop={})
    with pytest.raises(InputError, match=r"methods\.release: its settings are the section release"):
        configured(release={"low": 1})


def test_a_section_may_name_single_keys():
    found = configured(rmu={"training": {"layers": [1]}}).methods.of("rmu")
    default = make_method("rmu").settings("merge")
    assert found.training == default.training.model_copy(update={"layers": [1]})
    assert (found.grid, found.low) == (default.grid, default.low)


def test_epochs_end_at_no_step_known_before():
    content = {"name": "x", "task": {"name": "extraction"}}
    methods = {"kl": {"training": {"schedule": "linear"}}}
    with pytest.raises(InputError, match=r"methods\.kl\.training\.schedule linear: epochs end"):
        validate({**content, "methods": methods}, "x.yaml")
    config = validate({**content, "methods": {"run": ["rmu", "release", "npo"]}}, "x.yaml")
    assert [way_of(name, config.way) for name in config.compared] == ["merge", "merge", "epochs"]
    assert config.methods.of("rmu").high == 64  # what has no epochs has its settings for merging
    assert validate(config.content(), "x.yaml") == config


def test_a_method_that_the_task_cannot_serve_is_refused_before_anything_starts():
    config = configured(run=["kumpr", "cmd"])
    with pytest.raises(InputError, match="method cmd: needs contrasts, which this task does not"):
        compared_methods(config, FakeTask())
    served = compared_methods(configured(run=["release", "kumpr", "icu"]), FakeTask())
    assert [method.name for method in served] == ["kumpr", "icu"]  # release is the recipe's own


# Comparison


def proportion(*counts):
    return ClusterMean(np.array(counts, float), np.full(len(counts), 10.0), proportion=True)


def test_a_difference_of_small_counts_is_no_certainty():
    difference, (low, high) = paired_difference(proportion(0, 0, 0), proportion(0, 0, 0))
    assert difference == 0 and low < -0.05 and high > 0.05
    many, few = proportion(*[6] * 30), proportion(*[1] * 30)
    difference, (low, high) = paired_difference(many, few)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5) and difference == 0.5
