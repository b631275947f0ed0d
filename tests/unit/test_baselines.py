"""Methods beside R&R: what they train on, their budget, and how they are chosen and compared."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rnr_dist.config.baselines import Baselines
from rnr_dist.data.sources import load_contexts
from rnr_dist.errors import InputError
from rnr_dist.methods.materials import Materials, detoxified, segments, side_by_side
from rnr_dist.methods.registry import METHODS
from rnr_dist.methods.runner import Budget, run_method, spaced
from rnr_dist.report.comparison import write_comparison
from rnr_dist.run.directory import read_json
from rnr_dist.stats import ClusterMean, paired_difference
from rnr_dist.train.collate import Example
from rnr_dist.types import Adapter, Context, Sample, Split
from tests.unit.test_joint import Composed, reader
from tests.unit.test_merge_search import MODEL

TOKENIZER = SimpleNamespace(encode=lambda text: [ord(c) for c in text], eos_token_id=0)
CONTEXTS = [Context(f"c{i}", f"text {i}", Split.TRAIN, "challenging") for i in range(3)]


def sample(context, text, score, index=0):
    return Sample(
        "m", "toxicity", Split.TRAIN, "challenging", context, index, "p", "i",
        (*map(ord, text), 0), text, "stop", score, "fake",
    )  # fmt: skip


def materials(**changes):
    external = [
        Context("e0", "he said", Split.TRAIN, "x", reference=" you fool", reference_toxicity=0.9),
        Context("e1", "she said", Split.TRAIN, "x", reference="good day", reference_toxicity=0.1),
        Context("e2", "they said", Split.TRAIN, "x", reference="pah"),
    ]
    continuations = [
        sample("c0", "nice", 0.1), sample("c0", "fine", 0.2, 1), sample("c0", "bad", 0.9, 2),
        sample("c1", "bad", 0.7), sample("c1", " ", 0.0, 1),
    ]  # fmt: skip
    made = {
        "settings": Baselines(),
        "tokenizer": TOKENIZER,
        "forget": [Example((1, 2, 3), 1), Example((4, 5), 1)],
        "forget_rows": [
            sample("c0", "awful", 0.8),
            sample("c0", "worse", 0.95, 1),
            sample("c1", "vile", 0.6),
        ],
        "retain": [Example((7, 8), 0)],
        "contexts": CONTEXTS,
        "external": external,
        "continuations": continuations,
        "cleaned": [sample("c0", "calm", 0.05), sample("c0", "rude", 0.5, 1)],
    }
    return Materials(**{**made, **changes})


def told(example):
    return "".join(map(chr, example.token_ids[example.prompt_tokens :]))


# What is trained on


def test_external_pairs_are_those_that_are_toxic_or_not_scored():
    items = METHODS["pem_external"].items("external", materials())
    assert [told(item["text"][0]) for item in items] == [" you fool", " pah"]
    with pytest.raises(InputError, match=r"external: none of 0 pairs"):
        METHODS["pem_external"].items("external", materials(external=[]))


def test_the_built_in_pairs_can_all_be_learnt():
    external = load_contexts(Baselines().external, "external")
    assert len(external) == 42
    items = METHODS["pem_external"].items("external", materials(external=external))
    assert len(items) == 42


def test_dpo_pairs_each_forget_row_with_another_clean_continuation_of_its_context():
    items = METHODS["dpo"].items("preferred", materials())
    pairs = [(told(item["chosen"][0]), told(item["rejected"][0])) for item in items]
    # c1 has nothing that is less toxic than its row; an empty continuation teaches nothing.
    assert pairs == [("nice", "awful"), ("fine", "worse")]
    assert all(item["chosen"][0].prompt_tokens == len("text 0") for item in items)
    with pytest.raises(InputError, match="none of 0 continuations"):
        METHODS["dpo"].items("preferred", materials(continuations=[]))


def test_cmd_learns_the_cleanest_in_contrast_to_the_most_toxic():
    [item] = METHODS["cmd"].items("detoxified", materials())
    assert told(item["positive"][0]) == "calm"
    assert [told(example) for example in item["negative"]] == ["bad", "rude"]
    with pytest.raises(InputError, match="none of 3 detoxified contexts"):
        METHODS["cmd"].items("detoxified", materials(cleaned=[]))


def test_rmu_repeats_the_shorter_side():
    items = METHODS["rmu"].items("misdirected", materials())
    assert [item["forget"][0].token_ids for item in items] == [(1, 2, 3), (4, 5)]
    assert {item["retain"][0].token_ids for item in items} == {(7, 8)}
    assert len(side_by_side([Example((1,), 0)], [Example((2,), 0)] * 5)) == 5


def test_segments_join_to_the_text():
    text = 'He stood up, threw the book and said: "you are all so very stupid and so am I'
    found = segments(text, 4)
    assert "".join(found) == text
    assert found[0] == "He stood up, " and all(len(part.split()) <= 4 for part in found)


def test_toxic_segments_are_written_anew_behind_what_is_clean():
    contexts = [
        Context("a", "good day, bad word, and so on", Split.TRAIN, "x"),
        Context("b", "bad start, all well", Split.TRAIN, "x"),
    ]
    asked = []

    def rewrite(texts):
        asked.extend(texts)
        return [" kind word," for _ in texts]

    found = detoxified(contexts, 6, lambda parts: ["bad" in part for part in parts], rewrite)
    assert found["a"] == "good day, kind word, and so on"
    assert asked == ["good day,"]
    assert found["b"] == "bad start, all well"  # nothing stands before it to go on from


# Budget and choice


@pytest.mark.parametrize("count", [1, 2, 5])
def test_strengths_are_as_many_as_the_budget_has(count):
    assert len(spaced(0.5, 8, count)) == count
    assert spaced(0.5, 8, 1) == [2.0]


def fake_train(folder, log):
    def train(name, items, training, role, model):
        output = folder / name
        output.mkdir(parents=True)
        (output / "training.json").write_text(json.dumps({"tokens": training.tokens}))
        log.append((name, len(items), training))
        return Adapter(str(output), name, model.digest, role)

    return train


def test_a_method_gets_the_budget_and_is_chosen_by_the_rules(tmp_path):
    made, log = reader(tmp_path / "readings", Composed()), []
    start = made.read(MODEL)
    budget = Budget(tokens=1000, candidates=8)
    tuned = Baselines().pem_external
    arguments = ("pem_external", METHODS["pem_external"], tuned, materials(), MODEL, start, made)
    train = fake_train(tmp_path / "adapters", log)
    result = run_method(*arguments, train, budget, tmp_path)
    assert [training.learning_rate for _, _, training in log] == [3e-4, 1e-3]
    assert {training.tokens for _, _, training in log} == {500}
    assert (result.tokens, result.candidates, result.feasible) == (1000, 8, True)
    [term] = result.model.terms
    assert term.coefficient < 0 and f"x {-term.coefficient:g}" in result.candidate
    again = run_method(*arguments, None, budget, tmp_path)
    assert again == result and len(log) == 2


def test_every_method_makes_a_model_of_its_adapters(tmp_path):
    for name, method in METHODS.items():
        if name == "ext_sub":
            continue  # its adapter is made of real weights: test_ext_sub.py
        adapters = {
            key: Adapter("/x", f"{name}-{key}", MODEL.digest, role)
            for key, role in method.roles.items()
        }
        [term] = method.model(MODEL, adapters, 0.7, tmp_path).terms
        assert abs(term.coefficient) == 0.7
        assert set(Baselines.model_fields) > {name}


def test_a_grid_that_no_training_takes_is_refused():
    with pytest.raises(ValueError, match="learning_rat"):
        Baselines.model_validate(
            {"dpo": {**Baselines().dpo.model_dump(), "grid": [{"learning_rat": 1}]}}
        )
    wrong = {"training": {"objective": {"name": "causal"}}}
    with pytest.raises(ValueError, match=r"dpo\.training\.objective\.name: found causal"):
        Baselines.model_validate({"dpo": wrong})


def test_a_section_may_name_single_keys():
    found = Baselines.model_validate({"rmu": {"training": {"layers": [1]}}}).rmu
    default = Baselines().rmu
    assert found.training == default.training.model_copy(update={"layers": [1]})
    assert (found.grid, found.low) == (default.grid, default.low)


# Comparison


def proportion(*counts):
    return ClusterMean(np.array(counts, float), np.full(len(counts), 10.0), proportion=True)


def test_a_difference_of_small_counts_is_no_certainty():
    difference, (low, high) = paired_difference(proportion(0, 0, 0), proportion(0, 0, 0))
    assert difference == 0 and low < -0.05 and high > 0.05
    many, few = proportion(*[6] * 30), proportion(*[1] * 30)
    difference, (low, high) = paired_difference(many, few)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5) and difference == 0.5


def test_the_comparison_holds_every_row_and_paired_differences(tmp_path, capsys):
    def measured(*toxic):
        ones = np.ones(len(toxic))
        plain = {
            f"judge/{group}/fraction": proportion(*toxic) for group in ("challenging", "ordinary")
        }
        return plain | {
            "toxicity/challenging/fraction_gt_0.5": proportion(*toxic),
            "perplexity/in_domain": ClusterMean(3 * ones, ones, exponential=True),
            "output/empty_share": proportion(*[0] * len(toxic)),
        }

    made = reader(tmp_path / "readings", Composed())
    result = run_method(
        "dpo", METHODS["dpo"], Baselines().dpo, materials(), MODEL, made.read(MODEL), made,
        fake_train(tmp_path / "a", []), Budget(90, 6), tmp_path,
    )  # fmt: skip
    measures = {"base": measured(5, 6, 7), "R&R": measured(1, 0, 2), "dpo": measured(3, 2, 2)}
    path = tmp_path / "baselines.json"
    write_comparison(path, measures, {"dpo": result}, Budget(90, 6), Split.FINAL, {"name": "x"})
    rows = {row["name"]: row for row in read_json(path)["rows"]}
    assert list(rows) == ["base", "R&R", "dpo"]
    versus = rows["dpo"]["against_ours"]["toxicity/challenging/fraction_gt_0.5"]
    assert versus["difference"] == pytest.approx(4 / 30)
    assert rows["R&R"]["tokens"] == rows["dpo"]["tokens"] == 90
    assert rows["base"]["tokens"] is None
    shown = capsys.readouterr().out
    assert "dpo" in shown and "+13.3%" in shown
