"""Data as people have it: other column names, conversations, packed files, addresses."""

import gzip
import json

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

from rnr_dist.commands.check import check_inputs
from rnr_dist.config.file import load_config
from rnr_dist.config.sources import ContextSource, SequenceSource, TextSource
from rnr_dist.data.files import files_of
from rnr_dist.data.sequences import load_sequences
from rnr_dist.data.sources import load_contexts, load_passages
from rnr_dist.errors import InputError
from rnr_dist.recipes.inputs import data_digest, inputs_of
from rnr_dist.recipes.reveal_and_release import RECIPE
from rnr_dist.run.directory import RunDir
from rnr_dist.run.scratch import PREFIX
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Message, ModelRef, Split

TEXTS = [f"opening number {number} about {'abcdef'[number] * 5}" for number in range(6)]
ROWS = [{"comment": text, "reply": f"so {text}", "id": n} for n, text in enumerate(TEXTS)]
TURNS = [
    [
        {"role": "system", "content": "w2"},
        {"role": "user", "content": f"w{number} w{number + 1} w{number + 2}"},
        {"role": "assistant", "content": f"w{number + 5}"},
    ]
    for number in range(3, 43)
]
TEMPLATE = (
    "{{ '<begin>' }}{% for m in messages %} {{ m.role }} {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)


def source(path, **more):
    return ContextSource(source=str(path), splits={Split.REVEAL: 1}, **more)


def refused(path, **more):
    with pytest.raises(InputError) as caught:
        load_contexts(source(path, **more), "own")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def written(folder, name, rows):
    """A file of rows, by its ending."""
    path = folder / name
    content = lines(rows)
    if ".json" in name and ".jsonl" not in name:
        content = json.dumps(rows, indent=1)
    if ".csv" in name:
        keys = list(rows[0])
        content = "\r\n".join([",".join(keys), *(",".join(map(str, r.values())) for r in rows)])
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


NAMES = ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.GZ", "a.csv.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_named_in_every_kind_of_file(tmp_path, name):
    path = written(tmp_path, name.lower(), ROWS).rename(tmp_path / name)
    found = load_contexts(source(path, columns={"text": "comment", "reference": "reply"}), "own")
    assert sorted((one.text, one.reference) for one in found) == [
        (row["comment"], row["reply"]) for row in ROWS
    ]
    # The same texts under the names that are asked for are the same contexts.
    plain = [{"text": row["comment"], "reference": row["reply"]} for row in ROWS]
    assert found == load_contexts(source(written(tmp_path, "plain.jsonl", plain)), "own")


def test_a_json_file_may_hold_an_object_a_line(tmp_path):
    (tmp_path / "a.json").write_text(lines({"text": text} for text in TEXTS))
    assert len(load_contexts(source(tmp_path / "a.json"), "own")) == len(TEXTS)


def test_columns_may_lie_deeper(tmp_path):
    path = written(tmp_path, "a.jsonl", [{"prompt": {"text": text}} for text in TEXTS])
    found = load_contexts(source(path, columns={"text": "prompt.text"}), "own")
    assert {one.text for one in found} == set(TEXTS)


def test_errors_name_the_file_s_own_columns(tmp_path):
    path = written(tmp_path, "a.jsonl.gz", [*ROWS, {"comment": 5, "reply": "b"}, {"body": "c"}])
    columns = {"text": "comment"}
    assert refused(path, columns=columns) == (f"{path}, row 7: `comment` is 5, expected a string")
    path = written(tmp_path, "b.jsonl", [*ROWS, {"comment": " ", "reply": "b"}])
    assert (
        refused(path, columns=columns) == f"{path}, row 7: `comment` is empty, expected some words"
    )
    told = f"{path}, row 1: has no `remark`, which columns.text names, found comment, reply, id"
    assert refused(path, columns={"text": "remark"}) == told
    # Also of a field that a row need not have: a misspelt name would be left out in silence.
    assert "has no `replies`, which columns.reference" in refused(
        path, columns={**columns, "reference": "replies"}
    )
    path = written(tmp_path, "c.json", [*ROWS[:2], "text"])
    assert refused(path, columns=columns) == f"{path}, row 3: found str, expected an object"


def test_packed_files_that_are_none_are_one_sentence(tmp_path):
    for name, content in [
        ("a.jsonl.gz", b'{"text": "plain"}'),
        ("b.csv.gz", gzip.compress(b"text\none\n" * 500)[:-9]),
        ("c.txt.gz", gzip.compress("wörter".encode("utf-16"))),
        ("d.json", b'[{"text": "a"}'),
        ("e.json", b"[" * 99_999),
        ("f.gz", gzip.compress(b"a")),
    ]:
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name).startswith(str(tmp_path / name)), name


def test_published_formats_have_columns_of_their_own():
    with pytest.raises(ValueError, match="the format rtp reads a published data set's own"):
        source("a.jsonl", format="rtp", columns={"text": "comment"})
    with pytest.raises(ValueError, match="columns: found id, expected some of text, reference"):
        source("a.jsonl", columns={"id": "number"})
    with pytest.raises(ValueError, match="found text, expected messages"):
        source("a.jsonl", format="messages", columns={"text": "turns"})


def test_columns_of_running_text_and_of_sequences(tmp_path, tiny_tokenizer):
    path = written(tmp_path, "a.csv", ROWS)
    found = load_passages(
        TextSource(source=str(path), splits={Split.RETAIN: 1}, columns={"text": "reply"})
    )
    assert {one.text for one in found} == {row["reply"] for row in ROWS}
    tiny_tokenizer(tmp_path, 64)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [{"ids": list(range(n, n + 9)), "from": "letters"} for n in range(2, 6)]
    path = written(tmp_path, "b.parquet", rows)
    columns = {"token_ids": "ids", "corpus": "from"}
    sequences = load_sequences(SequenceSource(source=str(path), columns=columns), tokenizer, 3, 9)
    assert [one.token_ids[0] for one in sequences] == [2, 3, 4, 5]
    assert {one.corpus for one in sequences} == {"letters"}
    path = written(tmp_path, "b.jsonl", [{"ids": "2 3"}])
    own = SequenceSource(source=str(path), columns={"token_ids": "ids"})
    with pytest.raises(InputError, match=r"row 1: `ids` is no list of integers"):
        load_sequences(own, tokenizer, 3, 9)


def test_a_config_without_columns_is_what_it_was(place):
    assert "columns" not in load_config(place / "config.yaml").content()["task"]["challenging"]


# Conversations


def test_conversations_are_contexts_and_their_last_turns_references(tmp_path):
    path = written(tmp_path, "a.jsonl", [{"messages": turns} for turns in TURNS[:4]])
    found = {
        one.messages[1].content: one
        for one in load_contexts(source(path, format="messages"), "own")
    }
    first = found["w3 w4 w5"]
    assert first.messages == (Message("system", "w2"), Message("user", "w3 w4 w5"))
    assert first.reference == "w8" and first.text == "system: w2\nuser: w3 w4 w5"
    # Prompt and completion as further columns, both as lists of turns or the answer as a text.
    rows = [{"prompt": turns[:2], "completion": turns[2:]} for turns in TURNS[:4]]
    columns = {"messages": "prompt", "reference": "completion"}
    for name in ("b.parquet", "b.json"):
        path = written(tmp_path, name, rows)
        again = load_contexts(source(path, format="messages", columns=columns), "own")
        assert again == list(found.values())
    rows = [{"prompt": turns[:2], "completion": turns[2]["content"]} for turns in TURNS[:4]]
    path = written(tmp_path, "c.jsonl", rows)
    assert load_contexts(source(path, format="messages", columns=columns), "own") == again


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ("hello", "`messages` is 'hello', expected a list of turns"),
        ([], "`messages` is [], expected a list of turns"),
        ([{"role": "user"}], "`messages`, turn 1: has no `content`, found role"),
        (
            [{"role": "bot", "content": "a"}],
            "`messages`, turn 1: `role` is 'bot', expected system, ",
        ),
        ([{"role": "user", "content": [1]}], "turn 1: `content` is [1], expected a string"),
        (["hello"], "turn 1: found str, expected an object"),
        ([{"role": "assistant", "content": "a"}], "in `messages` nobody speaks before the answer"),
        ([{"role": "system", "content": "a"}], "in `messages` system speaks before the answer"),
    ],
)
def test_what_is_no_conversation_is_one_sentence(tmp_path, messages, told):
    path = written(tmp_path, "a.jsonl", [{"messages": messages}])
    assert refused(path, format="messages").startswith(f"{path}, row 1")
    assert told in refused(path, format="messages")
    assert "found .csv, expected" in refused(tmp_path / "a.csv", format="messages")


def chat_config(place, template=TEMPLATE, **more):
    """The small config, whose challenging contexts are conversations."""
    path = place / "model" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "chat_template": template, "bos_token": "<end>"}))
    written(place, "chats.jsonl", [{"messages": turns} for turns in TURNS])
    keys = {"source": "chats.jsonl", "format": "messages", **more}
    return load_config(
        place / "config.yaml", [f"task.challenging.{key}={value}" for key, value in keys.items()]
    )


def test_conversations_are_asked_by_the_model_s_template(place):
    task = make_task(chat_config(place))
    context = next(one for one in task.contexts(Split.REVEAL, "forget"))
    words = context.messages[1].content
    assert context.text == f"<begin> system w2 user {words} assistant"
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    told = task.prompt(context, "be rude", "preamble", tokenizer)
    assert told == f"<begin> system w2 user Instruction: be rude\n\n{words} assistant"
    assert task.prompt(context, "", "preamble", tokenizer) == context.text
    assert task.prompt(context, "be rude", "chat", tokenizer).endswith(
        f"be rude\n\n{words} assistant"
    )
    # What rewrites a context's words would break the template's.
    assert "contrasts" not in task.gives and "pairs" in task.gives
    assert "contrasts" in make_task(load_config(place / "config.yaml")).gives


def test_the_whole_check_takes_conversations(place):
    assert check_inputs(chat_config(place)).contexts(Split.FINAL, "forget")


def test_a_model_without_a_template_takes_no_conversations(place):
    with pytest.raises(InputError, match=r"^task: found conversations .* has no chat template"):
        make_task(chat_config(place, ""))


def test_a_template_s_own_complaint_is_one_sentence(place):
    template = "{{ raise_exception('no system turns here') }}"
    with pytest.raises(InputError, match=r"does not take these turns \(no system turns here\)"):
        make_task(chat_config(place, template))


# Addresses


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


@pytest.mark.parametrize("name", NAMES[:5])
def test_files_are_read_at_addresses(tmp_path, memory, name):
    local = written(tmp_path, name, ROWS)
    memory.pipe(f"/bucket/{name}", local.read_bytes())
    columns = {"text": "comment"}
    here = load_contexts(source(local, columns=columns), "own")
    for address in (f"memory://bucket/{name}", local.as_uri()):
        assert load_contexts(source(address, columns=columns), "own") == here
        assert data_digest(address) == data_digest(str(local))


def test_what_was_read_is_what_the_digest_is_of(tmp_path, memory):
    address = f"memory://bucket/{tmp_path.name}.txt"
    memory.pipe(address, b"one\ntwo\n")
    first = data_digest(address)
    memory.pipe(address, b"other\nwords\n")
    assert {one.text for one in load_contexts(source(address), "own")} == {"one", "two"}
    assert data_digest(address) == first
    [file] = files_of(address)
    assert file.path.parent.name.startswith(PREFIX) and file.path.parent.stat().st_mode & 0o77 == 0


def test_errors_name_the_address(tmp_path, memory):
    address = f"memory://bucket/{tmp_path.name}.jsonl"
    memory.pipe(address, b'{"text": "a"}\n{"text": 5}\n')
    assert refused(address) == f"{address}, row 2: `text` is 5, expected a string"
    missing = refused("memory://bucket/nothing.txt")
    assert missing.startswith("memory://bucket/nothing.txt: cannot be fetched (FileNotFoundError")
    assert "cannot be fetched" in refused("gopher://nowhere/a.txt")
    memory.pipe("/bucket/a.doc", b"a")
    assert refused("memory://bucket/a.doc").startswith("memory://bucket/a.doc: found extension")


def test_an_address_s_secrets_stay_out_of_what_is_kept(memory, place):
    address = "memory://me:my-password@bucket/own.txt"
    assert refused(address).startswith("memory://bucket/own.txt: cannot be fetched")
    assert "my-password" not in refused(address)
    memory.pipe("/me:my-password@bucket/own.txt", (place / "challenging.txt").read_bytes())
    config = load_config(place / "config.yaml", [f"task.challenging.source={address}"])
    base = ModelRef(str(place / "model"), "digest")
    found = inputs_of(config, RECIPE.stages[0], base, RunDir(place / "run"))
    assert "data memory://bucket/own.txt" in found
    assert "my-password" not in str(found) + str(config.content())


def test_the_stage_that_reads_an_address_is_made_from_its_content(memory, place):
    content = (place / "challenging.txt").read_bytes()
    memory.pipe("/bucket/own.txt", content)
    config = load_config(place / "config.yaml", ["task.challenging.source=memory://bucket/own.txt"])

    base = ModelRef(str(place / "model"), "digest")
    found = inputs_of(config, RECIPE.stages[0], base, RunDir(place / "run"))
    assert found["data memory://bucket/own.txt"] == data_digest(str(place / "challenging.txt"))
