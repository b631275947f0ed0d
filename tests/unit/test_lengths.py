"""Texts beyond the model's window: refused with file and row before anything starts."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.fault_parts.tiny import write
from rnr_dist.commands.check import check_checkpoint
from rnr_dist.commands.lengths import Window, require_texts_fit
from rnr_dist.config.file import load_config, validate
from rnr_dist.data.problems import Dialogue, Question, load_problems
from rnr_dist.errors import InputError
from rnr_dist.generate.backend import positions_of
from rnr_dist.reveal.instructions import META_ENDING
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Context, Split
from tests.unit.command_fakes import LLAMA, lines

WINDOW = 300  # tokens: a word of the tiny tokenizer is one


def words(count, first=2):
    return " ".join(f"w{2 + (first + n) % 60}" for n in range(count))


@pytest.fixture
def small(place, tiny_tokenizer):
    """The place's config, whose model counts words; SMALL keeps its own windows within that."""
    tiny_tokenizer(place / "model", 64)
    return (f"engines.max_model_len={WINDOW}", "perplexity.window=64", "perplexity.stride=64")


def options(overrides):
    return [word for override in overrides for word in ("--set", override)]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("kind", ["challenging", "ordinary"])
def test_a_long_context_is_refused_with_its_file_and_row(place, refused, small, command, kind):
    path = place / f"{kind}.txt"
    path.write_text(path.read_text() + "\n\n" + words(WINDOW), encoding="utf-8")
    row = len(path.read_text().splitlines())
    sentence = refused(command, "config.yaml", *options(small))
    assert sentence.startswith(f"{kind}.txt, row {row}: has {WINDOW} tokens ('w4 w5 ")
    assert sentence.endswith(f"engines.max_model_len {WINDOW}")


def test_a_context_may_fill_the_window_to_the_last_token_and_no_further(place, small):
    for kind, split in (("ordinary", "final"), ("ordinary", "retain"), ("challenging", "search")):
        (place / "one.txt").write_text("", encoding="utf-8")
        sources = [f"task.{kind}.source=one.txt", f"task.{kind}.splits={{{split}: 1}}"]
        config = load_config(place / "config.yaml", [*small, *sources])
        most = max(
            config.evaluate.sampling.max_tokens,
            config.release.search.max_tokens,
            config.retain.response.max_tokens,
        )
        for count, fits in ((WINDOW - most, True), (WINDOW - most + 1, False)):
            context = SimpleNamespace(
                text=words(count), split=Split(split), group=kind, id="c", reference=None
            )
            (place / "one.txt").write_text(f"another\n{words(count)}\n", encoding="utf-8")
            task = SimpleNamespace(
                contexts=lambda s, k, c=context: [c] if (s, k) == (c.split, "retain") else []
            )
            if fits:
                require_texts_fit(config, task, place / "model")
                continue
            with pytest.raises(
                InputError, match=rf"^one.txt, row 2: has {count} tokens .*{most} m"
            ):
                require_texts_fit(config, task, place / "model")


@pytest.mark.parametrize("split", ["reveal", "train"])
def test_a_context_behind_an_instruction_needs_room_for_it(place, small, split):
    config = load_config(place / "config.yaml", [*small, "reveal.response.max_tokens=20"])
    task, wanted = make_task(config), Split(split)
    [context, *_] = task.contexts(wanted, "forget")
    around = len(task.prompt(context, "a", "preamble", None).split()) - len(context.text.split())
    room = WINDOW - 20 - config.reveal.instruction_tokens - around
    place_of_row = rf"challenging.txt, row 1, behind an instruction: has {room + 1 + around} tokens"
    for count, fits in ((room, True), (room + 1, False)):
        text = words(count)
        (place / "challenging.txt").write_text(text, encoding="utf-8")
        own = Context("c", text, wanted, "challenging")
        fake = SimpleNamespace(
            contexts=lambda s, k, own=own: [own] if (s, k) == (own.split, "forget") else [],
            prompt=task.prompt,
        )
        if fits:
            require_texts_fit(config, fake, place / "model")
            continue
        with pytest.raises(InputError, match=place_of_row):
            require_texts_fit(config, fake, place / "model")
    # An instruction of one's own counts as long as it is.
    told = load_config(place / "config.yaml", [*small, f"reveal.prompts=['{words(200)}']"])
    with pytest.raises(InputError, match="behind an instruction"):
        require_texts_fit(told, fake, place / "model")


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("place_of", ["first", "last"])
@pytest.mark.parametrize("writer", [(), ("reveal.writer=./writer",)])
def test_what_the_writer_is_asked_has_to_fit_the_window(
    place, refused, small, tiny_tokenizer, command, place_of, writer
):
    """Without demonstrations; those that do not fit are left out."""
    for each in ("model", "writer"):
        write(LLAMA, place / each)
        tiny_tokenizer(place / each, 64)
    ending = len(META_ENDING.split())
    given = (*small, f"reveal.soft_place={place_of}", *writer)
    config = load_config(place / "config.yaml", given)
    most = WINDOW - ending - config.reveal.instruction_tokens
    config = load_config(place / "config.yaml", [*given, f"reveal.soft_tokens={most}"])
    require_texts_fit(config, make_task(config), place / "model")
    sentence = refused(command, "config.yaml", *options([*given, f"reveal.soft_tokens={most + 1}"]))
    assert sentence == (
        f"reveal.soft_tokens: found {most + 1}, beside reveal.instruction_tokens "
        f"{config.reveal.instruction_tokens} and {ending} tokens of a meta-prompt without "
        f"demonstrations; expected a sum within engines.max_model_len {WINDOW}"
    )


def test_prompts_of_ones_own_are_written_by_nobody(place, small):
    told = [*small, "reveal.soft_tokens=1000", "reveal.prompts=['be rude']"]
    config = load_config(place / "config.yaml", told)
    require_texts_fit(config, make_task(config), place / "model")


def test_short_texts_need_no_tokenizer(place):
    config = load_config(place / "config.yaml")
    require_texts_fit(config, make_task(config), place / "nowhere")
    window = Window(config, place / "nowhere")
    window.require("word " * 150, 20, lambda: "here")
    with pytest.raises(OSError):
        window.require("word " * 1000, 20, lambda: "here")


def test_another_model_s_tokens_count_for_its_own_row(place, small, tiny_tokenizer, tmp_path):
    """Of a model whose vocabulary is larger, words of which the base knows no part."""
    config = load_config(place / "config.yaml", [*small, "evaluate.others={other: ./model}"])
    context = SimpleNamespace(text=words(290), split=Split.FINAL, group="ordinary", id="c7")
    task = SimpleNamespace(contexts=lambda s, k: [context] if (s, k) == ("final", "retain") else [])
    (place / "ordinary.txt").write_text("\n".join([*lines(3, 0), words(290)]), encoding="utf-8")
    with pytest.raises(InputError, match=r"^ordinary.txt, row 4: has 290 tokens"):
        require_texts_fit(config, task, place / "model")
    (place / "empty").mkdir()
    with pytest.raises(InputError, match=r"^task toxicity, context c7: has 290"):
        require_texts_fit(
            config.model_copy(update={"task": SimpleNamespace(name="toxicity")}),
            task,
            place / "model",
        )


def test_questions_and_conversations_are_named_by_file_and_row(tmp_path, tiny_tokenizer):
    (tmp_path / "model").mkdir()
    tiny_tokenizer(tmp_path / "model", 64)
    rows = [{"question": words(5), "choices": ["w2", "w3"], "answer": 0}] * 2
    rows.insert(1, {"question": words(WINDOW - 4), "choices": ["w2", "w2 w3 w4 w5"], "answer": 0})
    turns = [{"context": [words(3)], "reply": "w2"}, {"context": [words(WINDOW)], "reply": "w2"}]
    for name, content in (("choices", rows), ("dialogues", turns)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    settings = {"name": "extraction", "choices": str(tmp_path / "choices.jsonl")}
    settings["dialogues"] = str(tmp_path / "dialogues.jsonl")
    engines = {"max_model_len": WINDOW}
    config = validate(
        {
            "name": "x",
            "task": settings,
            "engines": engines,
            "perplexity": {"window": 64, "stride": 64},
        },
        "",
    )
    questions = load_problems(settings["choices"], Question)
    dialogues = load_problems(settings["dialogues"], Dialogue)
    found = SimpleNamespace(contexts=lambda split, kind: [], questions=questions, dialogues=())
    with pytest.raises(InputError, match=r"choices.jsonl, row 2: has 300 tokens .* at most 299"):
        require_texts_fit(config, found, tmp_path / "model")
    found.questions, found.dialogues = questions[:1], dialogues
    with pytest.raises(InputError, match=r"dialogues.jsonl, row 2: has 302 tokens .* at most 268"):
        require_texts_fit(config, found, tmp_path / "model")


def test_the_check_of_a_downloaded_model_reads_the_texts_too(place, small):
    config = load_config(place / "config.yaml", [*small])
    task = make_task(config)
    check_checkpoint(config, place / "model", task)
    (place / "ordinary.txt").write_text(words(WINDOW), encoding="utf-8")
    source = ["task.ordinary.splits={final: 1}", "task.ordinary.source=ordinary.txt"]
    context = SimpleNamespace(text=words(WINDOW), split=Split.FINAL, group="ordinary", id="c")
    longer = SimpleNamespace(contexts=lambda s, k: [context] if k == "retain" else [])
    with pytest.raises(InputError, match=r"^ordinary.txt, row 1: has 300 tokens"):
        check_checkpoint(
            load_config(place / "config.yaml", [*small, *source]), place / "model", longer
        )


@pytest.mark.parametrize(
    ("content", "positions"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024, "n_ctx": 512}, 512),
        ({"text_config": {"max_position_embeddings": 256}}, 256),
        ({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 4}}, 400),
        (
            {
                "max_position_embeddings": 100,
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0},
            },
            200,
        ),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4}}, 100),
        (
            {"max_position_embeddings": 100, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
            100,
        ),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 100,
                "rope_scaling": {"rope_type": "linear", "factor": 8},
            },
            100,
        ),
        ({"max_position_embeddings": 100, "rope_scaling": None}, 100),
        ({"max_position_embeddings": None}, None),
        ({}, None),
    ],
)
def test_positions_are_counted_as_vllm_counts_them(content, positions):
    assert positions_of(content) == positions


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_window_above_the_model_s_own_is_refused(place, refused, command):
    path = place / "model" / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "max_position_embeddings": 512}), encoding="utf-8")
    sentence = refused(command, "config.yaml")
    assert sentence.startswith("engines.max_model_len: found 1024, but ")
    assert "has 512 positions" in sentence
