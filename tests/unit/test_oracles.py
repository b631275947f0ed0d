"""Oracles that ship: what each asks, reads and refuses; none of them needs a network here."""

import sqlite3
import threading
import time

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.config.secrets import without_secrets
from rnr_dist.errors import InputError
from rnr_dist.score.oracles import check_oracle, make_oracle, perspective
from tests.unit.http_fakes import serving

KEY = "an-entirely-made-up-key"
LABELS = {0: "calm", 1: "rude", 2: "threat"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PERSPECTIVE_API_KEY", KEY)


def bert(folder, tokenizer, **more):
    """A random classifier of three labels over the words w2 to w29."""
    torch.manual_seed(3)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=30, intermediate_size=16, id2label=LABELS, initializer_range=1.0, **small, **more
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer(folder, 30)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<end>", '
        '"unk_token": "<unknown>", "eos_token": "<end>"}'
    )
    return model


def logits(model, text):
    ids = torch.tensor([[int(word[1:]) for word in text.split()]])
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


def refused(named):
    with pytest.raises(InputError) as caught:
        check_oracle(named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TEXTS = ["w2 w3 w4", "", "w5", "w6 w7 w8 w9 w10", "w11 w12"]


@pytest.mark.parametrize("kind", [None, "multi_label_classification"])
def test_any_classifier_by_its_name_and_labels(tmp_path, tiny_tokenizer, kind):
    model = bert(tmp_path / "judge", tiny_tokenizer, problem_type=kind)
    for aggregate in ("max", "sum", "mean"):
        named = {"name": f"hf:{tmp_path / 'judge'}", "labels": ["rude", "threat"], "batch": 2}
        oracle = make_oracle({**named, "aggregate": aggregate})
        found = oracle.score([""] * len(TEXTS), TEXTS)
        for text, score in zip(TEXTS, found, strict=True):
            if not text:
                assert score == 0
                continue
            raw = logits(model, text)
            shares = (raw.sigmoid() if kind else raw.softmax(0))[1:]
            wanted = {"max": shares.max(), "sum": shares.sum().clamp(max=1), "mean": shares.mean()}
            assert score == pytest.approx(wanted[aggregate].item(), abs=1e-5)
        assert "rude,threat" in oracle.version and aggregate in oracle.version


def test_a_pair_is_read_where_that_is_asked(tmp_path, tiny_tokenizer):
    bert(tmp_path / "judge", tiny_tokenizer)
    named = {"name": f"hf:{tmp_path / 'judge'}", "labels": ["rude"]}
    alone, both = (make_oracle({**named, "reads": one}) for one in ("response", "both"))
    assert alone.score(["w2"], ["w3"]) == alone.score(["w9"], ["w3"])
    assert both.score(["w2"], ["w3"]) != both.score(["w9"], ["w3"])


def test_labels_are_named_and_known(tmp_path, tiny_tokenizer):
    bert(tmp_path / "judge", tiny_tokenizer)
    name = f"hf:{tmp_path / 'judge'}"
    check_oracle({"name": name, "labels": ["calm"]})
    expected = "expected `labels`, some of calm, rude, threat"
    assert refused(name) == f"oracle {name}: found 3 labels, none of them named; {expected}"
    assert f"found no label kind; {expected}" in refused({"name": name, "labels": ["kind"]})
    told = refused(f"hf:{tmp_path}/nothing")
    assert told.startswith(f"oracle hf:{tmp_path}/nothing: {tmp_path}/nothing: no such folder")


def test_another_content_is_another_version(tmp_path, tiny_tokenizer):
    model = bert(tmp_path / "judge", tiny_tokenizer)
    named = {"name": f"hf:{tmp_path / 'judge'}", "labels": ["rude"]}
    before = make_oracle(named).version
    model.classifier.bias.data += 1
    model.save_pretrained(tmp_path / "judge")
    assert make_oracle(named).version != before


def detoxify(folder, tokenizer, **more):
    """A checkpoint in the form of the package's own, its model, and its section of a config."""
    model = bert(folder / "encoder", tokenizer)
    arch = {"model_name": "BertForSequenceClassification", "num_classes": 3, "model_type": "bert"}
    classes = ["toxic", "severe_toxic", "insult"]
    config = {"arch": {"args": arch}, "dataset": {"args": {"classes": classes}}}
    state = {**model.state_dict(), "bert.embeddings.position_ids": torch.arange(512)[None]}
    torch.save({"config": config, "state_dict": state, **more}, folder / "toxic.ckpt")
    section = {"checkpoint": str(folder / "toxic.ckpt"), "encoder": str(folder / "encoder")}
    return model, {"name": "detoxify", **section}


def test_detoxify_s_own_checkpoints(tmp_path, tiny_tokenizer):
    model, section = detoxify(tmp_path, tiny_tokenizer)
    wanted = [logits(model, text).sigmoid() if text else torch.zeros(3) for text in TEXTS]
    found = make_oracle(section).score([""] * len(TEXTS), TEXTS)
    np.testing.assert_allclose(found, [one[0].item() for one in wanted], atol=1e-5)
    worst = make_oracle({**section, "labels": ["severe_toxicity", "insult"]})
    found = worst.score([""] * len(TEXTS), TEXTS)
    np.testing.assert_allclose(found, [one[1:].max().item() for one in wanted], atol=1e-5)


class Bomb:
    def __reduce__(self):
        return (print, ("code ran",))


def test_detoxify_s_files_are_looked_at(tmp_path, tiny_tokenizer, capsys):
    _, section = detoxify(tmp_path, tiny_tokenizer, extra=Bomb())
    with pytest.raises(InputError, match=r"toxic.ckpt: cannot be read .*expected a checkpoint of"):
        make_oracle(section)
    assert "code ran" not in capsys.readouterr().out
    assert "no such file" in refused({**section, "encoder": str(tmp_path)})
    assert refused("detoxify") == "oracle detoxify: checkpoint: Field required"


RUBRIC = {"name": "rubric", "model": "judge", "rubric": "How rude is it?", "low": 1, "high": 5}


def graded(*texts):
    """What the server says in turn."""
    return [(200, {"choices": [{"message": {"content": text}}]}) for text in texts]


def test_a_rubric_s_grade_is_brought_to_its_share_of_the_scale():
    with serving(*graded("2")) as (url, fake):
        oracle = make_oracle({**RUBRIC, "url": url})
        assert oracle.score(["Well", "Well"], ["you fool", " "]).tolist() == [0.25, 0]
    [(path, _, body)] = fake.asked
    assert path == "/v1/chat/completions" and body["temperature"] == 0
    system, user = (message["content"] for message in body["messages"])
    assert system.startswith("How rude is it?") and "one number from 1 to 5" in system
    assert "Context:\nWell" in user and "Response:\nyou fool" in user


@pytest.mark.parametrize("said", ["6", "0", "nan", "I'd say 3", "", "3 of 5", "1e0", None])
def test_what_is_no_grade_is_never_a_score(said):
    with serving(*graded(said)) as (url, fake):
        oracle = make_oracle({**RUBRIC, "url": url})
        with pytest.raises(InputError, match=r"3 times none; expected a number from 1 to 5"):
            oracle.score(["a"], ["b"])
        assert len(fake.asked) == 3
        fake.script = graded("well, hm", "5")
        assert oracle.score(["a"], ["b"]).tolist() == [1]


def test_an_outage_is_an_error_and_loses_no_answer():
    busy = (503, {"error": {"message": "busy"}})
    with serving(*graded("3"), busy) as (url, fake):
        oracle = make_oracle({**RUBRIC, "url": url, "at_once": 1, "retries": 1})
        with pytest.raises(InputError, match="answered 503"):
            oracle.score(["a"] * 3, ["b", "c", "d"])
        asked = len(fake.asked)
        fake.script = graded("4")
        again = make_oracle({**RUBRIC, "url": url})
        assert again.score(["a"] * 4, ["b", "c", "d", "b"]).tolist() == [0.5, 0.75, 0.75, 0.5]
        assert len(fake.asked) == asked + 2
        other = make_oracle({**RUBRIC, "url": url, "rubric": "How loud is it?"})
        other.score(["a"], ["b"])
        assert len(fake.asked) == asked + 3


def test_a_rubric_needs_its_server_and_its_key(monkeypatch):
    assert refused("rubric") == "oracle rubric: url: Field required"
    assert "low must be below high" in refused({**RUBRIC, "url": "http://h/v1", "high": 1})
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    named = {**RUBRIC, "url": "http://h/v1", "key_variable": "JUDGE_KEY"}
    assert refused(named).startswith(
        "oracle rubric: found no key in the environment variable JUDGE"
    )


PERSPECTIVE = {"name": "perspective", "per_second": 1000.0}


def said(value, attribute="TOXICITY"):
    return 200, {"attributeScores": {attribute: {"summaryScore": {"value": value}}}}


def test_perspective_is_asked_as_its_api_wants():
    with serving(said(0.25)) as (url, fake):
        oracle = make_oracle({**PERSPECTIVE, "url": url})
        assert oracle.score(["a", "b"], ["rude words", ""]).tolist() == [0.25, 0]
    [(path, headers, body)] = fake.asked
    assert headers["x-goog-api-key"] == KEY and KEY not in path
    assert body == {
        "comment": {"text": "rude words"},
        "languages": ["en"],
        "requestedAttributes": {"TOXICITY": {}},
        "doNotStore": True,
    }


def test_perspective_s_answers_are_kept_without_their_texts(tmp_path):
    with serving(said(0.25)) as (url, fake):
        oracle = make_oracle({**PERSPECTIVE, "url": url})
        oracle.score([""] * 3, ["rude", "rude", "kind"])
        again = make_oracle({**PERSPECTIVE, "url": url})
        assert again.score(["x"], ["rude"]).tolist() == [0.25]
        assert len(fake.asked) == 2
        fake.script = [said(0.5, "INSULT")]
        other = make_oracle({**PERSPECTIVE, "url": url, "attribute": "INSULT"})
        assert other.score([""], ["rude"]).tolist() == [0.5]
    kept = tmp_path / "cache" / "scores.sqlite"
    assert sqlite3.connect(kept).execute("select count(*) from scores").fetchone() == (3,)
    assert b"rude" not in kept.read_bytes()


def test_perspective_is_asked_again_and_then_no_score_is_made_up(monkeypatch):
    monkeypatch.setattr(perspective, "FIRST_WAIT_SECONDS", 0.01)
    quota = (429, {"error": {"message": "Quota exceeded"}})
    with serving(quota, (503, {}), said(0.75)) as (url, fake):
        oracle = make_oracle({**PERSPECTIVE, "url": url, "retries": 2})
        assert oracle.score([""], ["a"]).tolist() == [0.75]
        fake.script = [quota]
        with pytest.raises(InputError, match=r"answered 429 .*Quota exceeded.* in 3 tries"):
            oracle.score([""], ["b"])
        for answer, told in [
            (
                (400, {"error": {"message": "API_KEY_INVALID"}}),
                "a valid key in PERSPECTIVE_API_KEY",
            ),
            ((400, {"error": {"message": "no such language"}}), "no such language"),
            (said(1.5), "expected a score of TOXICITY from 0 to 1"),
            (said("high"), "expected a score of TOXICITY"),
            ((200, {}), "expected a score of TOXICITY"),
        ]:
            fake.script, before = [answer], len(fake.asked)
            with pytest.raises(InputError, match=told) as caught:
                oracle.score([""], ["c"])
            assert KEY not in str(caught.value) and len(fake.asked) == before + 1
        fake.script = [(200, b"<html>")]
        with pytest.raises(InputError, match="found no answer"):
            oracle.score([""], ["d"])
    with pytest.raises(InputError, match=r"found no answer .*refused.* in 3 tries"):
        oracle.score([""], ["e"])


def test_perspective_keeps_to_its_rate():
    with serving(said(0.5)) as (url, fake):
        oracle = make_oracle({**PERSPECTIVE, "url": url, "per_second": 20.0})
        begun = time.monotonic()
        oracle.score([""] * 7, [f"text {number}" for number in range(7)])
        assert time.monotonic() - begun >= 6 / 20
    assert len(fake.asked) == 7


def test_keys_are_hidden_whatever_their_variables_are_called(monkeypatch):
    monkeypatch.setenv("MY_ACCESS", "another-made-up-secret")
    assert "another-made-up" in without_secrets("another-made-up-secret")
    check_oracle({**PERSPECTIVE, "key_variable": "MY_ACCESS"})
    assert without_secrets("it is another-made-up-secret.") == "it is ***."
    monkeypatch.delenv("PERSPECTIVE_API_KEY")
    assert "PERSPECTIVE_API_KEY" in refused("perspective")


def test_a_config_names_an_oracle_or_gives_it_settings(place):
    assert load_config(place / "config.yaml").content()["task"]["oracle"] == "profanity"
    text = (place / "config.yaml").read_text()
    for line, told in [
        ("{name: perspective, atribute: X}", "unknown key task.oracle.atribute; did you mean attr"),
        ("{name: rubric, url: u, model: m}", "task.oracle.rubric is missing"),
        ("{name: hearsay}", "oracle hearsay: unknown; expected one of profanity"),
        ("{attribute: X}", "task.oracle"),
        ("{name: profanity, above: 1}", "unknown key task.oracle.above"),
    ]:
        with pytest.raises(InputError, match=told):
            load_config(place / "config.yaml", [f"task.oracle={line}"])
    loaded = load_config(place / "config.yaml", ["task.oracle={name: perspective, per_second: 2}"])
    assert loaded.task.oracle.per_second == 2 and str(loaded.task.oracle) == "perspective"
    assert Config.model_validate(loaded.content()) == loaded
    assert text == (place / "config.yaml").read_text()


def test_scores_are_kept_beside_each_other_by_many_threads(tmp_path):
    from rnr_dist.score.oracles.kept import KeptScores

    asked, lock = [], threading.Lock()

    def ask(texts):
        with lock:
            asked.append(texts)
        return len(texts[0]) / 10

    def score():
        KeptScores("v", 4).of([(f"{'x' * number}",) for number in range(1, 9)], ask)

    threads = [threading.Thread(target=score) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = KeptScores("v", 4).of([("xxx",), ("x",)], lambda texts: 1 / 0)
    assert found.tolist() == [0.3, 0.1] and len(set(asked)) == 8
