"""Text becomes tokens in one place: what stands before a text; nothing stands behind it."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import rnr_dist
from benchmarks.fault_parts.tiny import write_tokenizer
from rnr_dist.data.encoding import begin_tokens, encoded, encoded_on
from rnr_dist.data.problems import Dialogue, Question
from rnr_dist.generate.requests import Generate, ReadLikelihood, prompt_ids
from rnr_dist.measures.continuations import Asked
from rnr_dist.measures.problems import REPLY, choice_requests, reply_requests
from rnr_dist.reveal.instructions import meta_prompt
from rnr_dist.tasks.extraction_evaluation import translated
from rnr_dist.tasks.prompts import query
from rnr_dist.types import Context, Split, TokenSequence

END, BEGIN = 1, 2


@pytest.fixture(params=[("", ""), ("<begin>", ""), ("", "<end>"), ("<begin>", "<end>")])
def adding(request, tmp_path):
    """(tokenizer, what it puts before a text); it may put an end token behind one."""
    before, behind = request.param
    write_tokenizer(tmp_path, before, behind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (END in tokenizer.encode("w3")) == bool(behind)
    return tokenizer, (BEGIN,) * bool(before)


def test_a_text_that_begins_has_what_the_tokenizer_puts_before_it_and_no_end(adding):
    tokenizer, begun = adding
    assert begin_tokens(tokenizer) == begun
    assert encoded(tokenizer, "w3 w4") == (*begun, 3, 4)
    assert encoded_on(tokenizer, "w3 w4") == (3, 4)
    assert encoded(tokenizer, "") == begun


def test_no_end_token_stands_before_what_is_asked_or_read(adding):
    tokenizer, begun = adding
    question = Question("w3 w4", ("w5", "w6"), 0)
    choice, _ = choice_requests([question], tokenizer)
    assert (choice.token_ids, choice.start) == ((*begun, 3, 4, 5), len(begun) + 2)
    [reply] = reply_requests([Dialogue(("w3",), "w4")], tokenizer)
    assert reply.token_ids[: len(begun)] == begun and END not in reply.token_ids
    asked = Asked.bare("x", [Context("a", "w3 w4", Split.FINAL, "")])
    assert asked.requests(tokenizer, REPLY)[0].token_ids == (*begun, 3, 4)
    for request in (Generate(REPLY, text="w3 w4"), ReadLikelihood(text="w3 w4")):
        assert prompt_ids(request, tokenizer) == (*begun, 3, 4)
    for place in ("first", "last"):
        meta = meta_prompt([("w3", "w4")], tokenizer, place)
        assert END not in (*meta.before, *meta.after)
        assert (*meta.before, *meta.after)[: len(begun)] == begun


def test_a_chat_query_holds_one_begin_token_and_no_end(adding):
    tokenizer, _ = adding
    tokenizer.chat_template = "<begin> {{ messages[0].content }} w9 "
    text = query("w3", "w4", "chat", tokenizer)
    assert prompt_ids(Generate(REPLY, text=text), tokenizer)[-2:] == (9, 4)
    ids = encoded(tokenizer, text)
    assert ids.count(BEGIN) == 1 and END not in ids


def test_a_begin_token_is_not_read_out_as_text_in_another_vocabulary(adding):
    tokenizer, begun = adding
    ids = (*begun, 3, 4, 5)
    one = TokenSequence("a", "", ids, "", len(begun) + 1)
    [found] = translated([one], tokenizer, tokenizer)
    assert (found.token_ids, found.prefix_tokens) == (ids, len(begun) + 1)


def test_no_other_module_encodes_texts():
    """What a tokenizer adds is decided in one place, and cannot be decided otherwise elsewhere."""
    call = re.compile(r"(?<!text|alse)\.encode\((?!\))|okenizer\.encode|= tokenizer\(")
    # The others embed sentences, and hash or write text.
    allowed = {"data/encoding.py", "score/actors.py"}
    package = Path(rnr_dist.__path__[0])
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if call.search(path.read_text())
    }
    assert found == allowed
