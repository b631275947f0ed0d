"""The task of entities: its questions, what is trained on, what is read."""

import json
from types import SimpleNamespace

import pytest

from rnr_dist.data.entity_questions import plain
from rnr_dist.errors import InputError
from rnr_dist.measures.measure import Role
from rnr_dist.release.rules import MergeStep, judge
from rnr_dist.run.directory import RunDir, read_rows, write_rows
from rnr_dist.tasks import ner
from rnr_dist.tasks.ner_answers import EntityRow
from rnr_dist.tasks.ner_files import scored_file
from rnr_dist.types import ModelRef, Sample, Split
from tests.unit.fakes import MODEL, Characters, Direct
from tests.unit.ner_fakes import GREEDY, KEPT, bench_of, made, refused, text_of

# Questions


def test_the_paper_s_words_to_the_letter():
    """Appendix A.2."""
    asked = plain("paper", "Nels Carlson and Joe Campo.", "Person")
    assert asked == (
        "Instruction:\nWhat describes Person in the text? Identify any Person entities mentioned "
        "in the text and respond ONLY with a list in the exact format: "
        '["Entity1", "Entity2"]. If no Person entities are mentioned, respond only with an empty '
        "list: [].\n\nInput:\nText: Nels Carlson and Joe Campo.\n\nOutput:\n"
    )


def test_universal_ner_s_words_to_the_letter():
    assert plain("universal_ner", "Ann {met} Bo.", "person") == (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Text: Ann {met} Bo. ASSISTANT: I've read this text. "
        "USER: What describes person in the text? ASSISTANT:"
    )


class Chat(Characters):
    """Turns in angle brackets; a bench's tokenizer that has a template."""

    chat_template, bos_token, bos_token_id = "turns", None, None

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return "".join(f"<{one['role']}>{one['content']}" for one in messages) + "<assistant>"


def test_a_template_is_given_turns(monkeypatch):
    monkeypatch.setattr(ner, "tokenizer_of", lambda *named: Chat())
    task = made({"asks": {"wording": "universal_ner"}})
    one = task.contexts(Split.REVEAL, "forget")[0]
    text = one.messages[0].content
    assert one.text == (
        f"<user>{text}<assistant>I've read this text.<user>What describes person in the text?"
        "<assistant>"
    )
    instructed = task.prompt(one, "Look twice.", "preamble", Chat())
    assert "<user>Instruction: Look twice.\n\nWhat describes person" in instructed
    assert task.prompt(one, "", "preamble", Chat()) == one.text
    paper = made({"asks": {"wording": "paper"}}).contexts(Split.REVEAL, "forget")[0]
    assert [turn.role for turn in paper.messages] == ["user"]
    assert paper.text.endswith("Output:<assistant>")


def test_a_model_without_a_template_is_asked_plainly_or_not_at_all(monkeypatch):
    nothing = SimpleNamespace(chat_template=None)
    monkeypatch.setattr(ner, "tokenizer_of", lambda *named: nothing)
    assert "task.asks.chat: found true, but" in refused({"asks": {}})


def test_all_questions_on_a_text_are_in_one_split_and_the_target_is_forgotten():
    task = made({"target": "date", "retained": ["person", "location"]})
    met = {}
    for split in Split:
        for kind in ("forget", "retain"):
            for one in task.contexts(split, kind):
                assert (one.group == "date") is (kind == "forget")
                met.setdefault(one.id.partition("-")[0], set()).add(split)
    assert len(met) > 500 and all(len(splits) == 1 for splits in met.values())
    assert {one.group for one in task.contexts(Split.DEV, "retain")} == {"person", "location"}
    assert task.oracle.name == "entities"


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"target": "persn"}, "task.texts: found no entity of type 'persn' in builtin:entities"),
        ({"retained": ["colour"]}, "no entity of type 'colour'"),
        ({"retained": ["Person"]}, "found person twice among target and retained types"),
        ({"retained": []}, "task.retained: found [], List should have at least 1 item"),
        ({"asks": {"wording": "poem"}}, "task.asks.wording: found 'poem'"),
        ({"texts": {"format": "conll"}}, "task.texts: format: found conll beside builtin:entities"),
        ({"texts": {"source": "a.json"}}, "format: found builtin beside a.json"),
        ({"texts": {"count": 12}}, "found no entity of type"),
        ({"texts": {"count": 1}}, "task.texts: splits."),
        ({"teach": {}}, "task.teach: found a section beside the recipe reveal-and-release"),
        ({"texts": {"splits": {"reveal": 1, "train": 1}}}, "in split search, expected at least"),
    ],
)
def test_bad_settings(task, told):
    assert told in refused(task)


# What is read of a model


def of_kind(**answers):
    """A model that answers the types named here so, all others rightly."""
    return lambda model, kind, gold: answers.get(kind, json.dumps(gold))


def values(found):
    return {name: one.value for name, one in found.items()}


def test_what_the_rules_read():
    task = made()
    bench = bench_of(task, of_kind(person="[]", date="It says 1999."))
    utility = values(task.read_utility(bench, MODEL, Split.SEARCH))
    target = values(task.read_target(bench, MODEL, Split.SEARCH, task.config.release.search))
    assert utility["entities/organization/f1"] == 1
    assert utility["entities/date/f1"] == 0
    assert utility["entities/date/unread"] == 1 and utility["entities/date/empty"] == 0
    assert 0.7 < utility["entities/retained/f1"] < 1
    assert target == {
        "entities/person/f1": 0,
        "entities/person/empty": 1,
        "entities/person/unread": 0,
    }
    declared = {one.name for role in (Role.TARGET, Role.GUARD) for one in task.measures.of(role)}
    assert declared <= utility.keys() | target.keys()


@pytest.mark.parametrize(
    ("answers", "broken"),
    [
        ({"person": "[]"}, ()),
        ({"person": "Nobody."}, ("entities/person/unread",)),
        (dict.fromkeys(("person", *KEPT), "[]"), ("utility",)),
    ],
)
def test_the_rules_tell_a_model_that_forgot_from_one_that_is_broken(tmp_path, answers, broken):
    """`[]` to everything, and no list at all, look like forgetting by the target's F1 alone."""
    task = made()
    forgot = ModelRef("/base", "forgot")

    def of(model, kind, gold):
        return of_kind(**answers)(model, kind, gold) if model == forgot else json.dumps(gold)

    reader = Direct(bench_of(task, of), task, tmp_path)
    start, after = reader.read(MODEL), reader.read(forgot)
    verdict = judge(after, MergeStep.final(task.measures, start), reader.rules)
    assert start.forget.value == 1 and after.forget.value == 0
    assert set(broken) <= set(verdict.broken) and verdict.feasible is not bool(broken)


def test_every_answer_is_kept_with_the_truth_beside_it(tmp_path):
    task = made()
    bench = bench_of(task, of_kind(person='["Nobody"]', product="none"))
    found = values(task.evaluate(bench, MODEL, "base", tmp_path))
    assert {one.name for one in task.measures} == set(found)
    rows = read_rows(tmp_path / "base.parquet", EntityRow)
    assert len(rows) == sum(len(task.contexts(Split.DEV, kind)) for kind in ("forget", "retain"))
    person = [row for row in rows if row.type == "person"]
    assert {row.said for row in person} == {'["Nobody"]'} and {row.state for row in person} == {
        "named"
    }
    assert all(row.state == "unread" and row.said == "" for row in rows if row.type == "product")
    assert all(row.gold == row.text for row in rows if row.type == "date")
    assert {row.score for row in person} == {0.0}


def test_general_text_is_a_utility_where_it_is_given(tmp_path):
    splits = {"retain": 1, "search": 1, "dev": 1}
    general = [{"source": "builtin:practical", "splits": splits}]
    task = made({"general": general})
    bench = bench_of(task)
    assert "perplexity/general" in task.read_utility(bench, MODEL, Split.SEARCH)
    assert "perplexity/general" in task.evaluate(bench, MODEL, "base", tmp_path)
    lone = [{"source": "builtin:practical", "splits": {"retain": 1}}]
    assert "task.general: holds no text in the split search" in refused({"general": lone})


# Answers in a file


def answers_of(task, split=Split.DEV):
    return [
        {"text": text, "type": kind.upper(), "answer": json.dumps(gold)}
        for _, text, kind, gold in task.asked(split)
    ]


def file_of(tmp_path, rows):
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_file_of_answers_is_scored_as_a_model_is(tmp_path):
    task = made()
    wrong = of_kind(person='["Nobody"]', date="no list")
    own = values(task.evaluate(bench_of(task, wrong), MODEL, "base", tmp_path))
    rows = answers_of(task)
    for row in rows:
        row["answer"] = wrong(None, row["type"].lower(), json.loads(row["answer"]))
    rows[0]["text"] = f" {rows[0]['text'].upper()} "
    assert values(scored_file(task, file_of(tmp_path, rows))) == own


def test_an_answer_file_of_another_set_is_refused(tmp_path):
    task = made()

    def told(rows):
        with pytest.raises(InputError) as error:
            scored_file(task, file_of(tmp_path, rows))
        return str(error.value)

    rows = answers_of(task)
    assert "row 1: found an answer for 'organization' on" in told(answers_of(task, Split.TRAIN)[1:])
    assert f"is none of the {len(rows)} questions in dev; expected answers to this set" in told(
        [{**rows[0], "type": "colour"}]
    )
    assert "row 3: answers a question again" in told([*rows[:2], rows[0]])
    assert f"answers {len(rows) - 1} of {len(rows)} questions in dev, none for" in told(rows[:-1])
    assert "row 1: has no `type`" in told([{"text": "x"}])
    assert "row 1: `answer` is 7, expected a string" in told([{**rows[0], "answer": 7}])


# What is trained on


def reveal(task, run, answer='["Ann"]'):
    """A forget set of one row a `train` question."""
    ids = (*map(ord, answer), Characters.eos_token_id)
    told = {"index": 0, "instruction": "", "token_ids": ids, "text": answer, "oracle": "o"}
    told |= {"model": "m", "task": "ner", "finish_reason": "stop", "score": 1.0}
    rows = [
        Sample(split=one.split, group=one.group, context_id=one.id, prompt=one.text, **told)
        for one in task.contexts(Split.TRAIN, "forget")
    ]
    write_rows(run.stage("reveal") / "forget_set.parquet", rows)
    return rows


@pytest.fixture
def run(tmp_path):
    return RunDir.open(tmp_path / "run", {}, resume=False)


def test_materials(run):
    task = made(retain={"responses_per_context": 1, "response": GREEDY})
    bench = bench_of(task, of_kind(date="no list"))
    rows = reveal(task, run)
    needs = frozenset({"forget", "retain", "pairs", "alternatives", "external"})
    found = task.materials(bench, run, needs)
    assert len(found.forget) == len(rows)
    assert text_of(found.forget[0].token_ids[found.forget[0].prefix_tokens :]) == '["Ann"]'
    # Retained: what the model says itself of the other types, if it can be read.
    said = [text_of(one.token_ids[one.prompt_tokens :]) for one in found.retain]
    assert len(said) > 300 and all(json.loads(one) is not None for one in said)
    assert said.count("[]") / len(said) <= 0.25 < (said.count("[]") + 2) / len(said)
    assert not any("What describes date" in text_of(one.token_ids) for one in found.retain)
    assert not any("What describes person" in text_of(one.token_ids) for one in found.retain)
    # Preferred by DPO: to say that there is nobody. External: the truth.
    [other] = found.alternatives[found.forget[0].id]
    assert text_of(other.token_ids[other.prompt_tokens :]) == "[]"
    asked = [one for one in task.contexts(Split.TRAIN, "forget") if one.reference != "[]"]
    assert [text_of(one.token_ids) for one in found.external] == [
        f"{one.text}{one.reference}" for one in asked
    ]
    assert set(found.pairs) == {one.id for one in found.forget}
    # What was drawn is not drawn again.
    again = task.materials(bench_of(task, of_kind(**dict.fromkeys(KEPT, "[]"))), run, needs)
    assert again.retain == found.retain


def test_to_name_nobody_can_be_retained_too(run):
    """Where the model itself says so of the target: texts that name nobody."""
    task = made(retain={"responses_per_context": 0, "mild_per_context": 1, "response": GREEDY})
    reveal(task, run)
    found = task.materials(bench_of(task), run, frozenset({"forget", "retain"}))
    nobody = [one for one in task.contexts(Split.TRAIN, "forget") if one.reference == "[]"]
    assert {text_of(one.token_ids) for one in found.retain} == {f"{one.text}[]" for one in nobody}


def test_a_model_that_cannot_do_the_task_is_not_worked_on(run):
    task = made(retain={"response": GREEDY})
    reveal(task, run)
    bench = bench_of(task, of_kind(**dict.fromkeys(KEPT, "Certainly!")))
    with pytest.raises(
        InputError, match=r"none of \d+ answers names anything \(the first is .Certainly!"
    ):
        task.materials(bench, run, frozenset({"forget", "retain"}))
