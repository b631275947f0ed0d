"""80 bad inputs to the public commands: half by hand, half from the fuzzer (`fuzzed.jsonl`).

Each must end with exit code 2 and one sentence, before anything costs time. Invariant: nothing of
what a case spoils can be read in a way that is right; what has a right reading is not listed.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.fault_parts.cases import Case, Edit, Gone, Swap, from_plain
from benchmarks.fault_parts.place import lines

FUZZED = Path(__file__).with_name("fuzzed.jsonl")
CHECK, CHECK_ICU = ("check", "config.yaml"), ("check", "icu.yaml")
CONFIG, ICU, STUDY = "config.yaml", "icu.yaml", "study.yaml"
CHALLENGING, FORGET, POOL, CHOICES = (
    f"{name}.jsonl" for name in ("challenging", "forget", "pool", "choices")
)
MODEL, INDEX, TOKENIZER = (
    f"model/{name}.json" for name in ("config", "model.safetensors.index", "tokenizer")
)
WEIGHTS = "model/model.safetensors"
ALIASES = "".join(
    f"    x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else 'w'}]\n" for n in range(7)
)


def _more(file: str, text: str) -> tuple[Edit]:
    """`text` at the start of a file."""
    return (Edit(file, text, 0, 0),)


def _set(*overrides: str, config: str = CONFIG) -> tuple[str, ...]:
    return ("check", config, *(word for one in overrides for word in ("--set", one)))


CONFIGS = (
    Case(
        "section twice",
        "the second `engines` drops the first one's keys",
        CHECK,
        (Edit(CONFIG, "\nengines: {count: 1, kv_cache_gib: 0.01}\n", -1, 0),),
        names=("engines",),
    ),
    Case(
        "key twice",
        "two seeds, of which one wins",
        CHECK,
        (Swap(CONFIG, "seed: 3\n", "seed: 3\nseed: 4\n"),),
        names=("seed",),
    ),
    Case(
        "variant twice",
        "of two variants of one name only one would run",
        ("study", "study.yaml"),
        (Edit(STUDY, "variants: {a: {seed: 1}, a: {reveal.alpha: 0.1}}\n", 0, 0),),
        names=("a",),
    ),
    Case(
        "seed yes",
        "a truth value is no seed",
        CHECK,
        (Swap(CONFIG, "seed: 3", "seed: yes"),),
        names=("seed",),
    ),
    Case(
        "seed 010", "eight or ten", CHECK, (Swap(CONFIG, "seed: 3", "seed: 010"),), names=("seed",)
    ),
    Case(
        "seed 1:30",
        "ninety in YAML 1.1",
        CHECK,
        (Swap(CONFIG, "seed: 3", "seed: 1:30"),),
        names=("seed",),
    ),
    Case(
        "endless learning rate",
        "infinity is no rate",
        CHECK,
        (Swap(CONFIG, "learning_rate: 0.002", "learning_rate: .inf"),),
        names=("learning_rate",),
    ),
    Case(
        "a thousand million arms", "no memory holds them", _set("reveal.arms=1e9"), names=("arms",)
    ),
    Case(
        "alias to itself",
        "a section without an end",
        CHECK,
        (Swap(CONFIG, "engines:\n", "engines: &e\n  extra: *e\n"),),
        names=(CONFIG,),
    ),
    Case(
        "aliases that explode",
        "half a million words in seven lines",
        CHECK,
        (Swap(CONFIG, "engines:\n", f"engines:\n  extra:\n{ALIASES}"),),
        names=(CONFIG,),
    ),
    Case(
        "run name with ..",
        "the run would lie outside of the runs folder",
        ("run", "config.yaml"),
        (Swap(CONFIG, "name: small", "name: ../../outside"),),
        names=("name",),
    ),
    Case(
        "run name of 300 characters",
        "no file system takes it",
        ("run", "config.yaml"),
        (Swap(CONFIG, "name: small", f"name: {'n' * 300}"),),
        names=("name",),
    ),
    Case(
        "run name with NUL",
        "no file system takes it",
        ("run", "config.yaml"),
        (Swap(CONFIG, "name: small", 'name: "a\\0b"'),),
        names=(CONFIG,),
    ),
    Case(
        "variable that sets another key",
        "a value with a newline is no path",
        CHECK,
        (Swap(CONFIG, "model: ./model", "model: ${WHERE}"),),
        {"WHERE": "./model\ntrust_remote_code: true"},
    ),
)

READERS = (
    Case(
        "number of 5,000 digits",
        "Python refuses to read it",
        CHECK,
        _more(CHALLENGING, f'{{"text": "w2 w3", "id": {"7" * 5000}}}\n'),
        names=(CHALLENGING, "row 1"),
    ),
    Case(
        "row nested without end",
        "deeper than a reader may go",
        CHECK,
        _more(CHALLENGING, f'{{"text": "w2", "x": {"[" * 100_000}{"]" * 100_000}}}\n'),
        names=(CHALLENGING, "row 1"),
    ),
    Case(
        "half of a surrogate pair",
        "no text that can be written as UTF-8",
        CHECK,
        _more(CHALLENGING, '{"text": "w2 \\ud800 w3"}\n'),
        names=(CHALLENGING, "row 1"),
    ),
    Case(
        "field twice in a row",
        "two texts in one row",
        CHECK,
        _more(CHALLENGING, '{"text": "w2 w3 w4", "text": "w5 w6 w7"}\n'),
        names=(CHALLENGING, "row 1", "text"),
    ),
    Case(
        "column twice in a CSV",
        "two texts in one row",
        CHECK,
        (Edit("ordinary.csv", "text,text\n" + "".join(f"{a},{a} w9\n" for a in lines(40, 2))),),
        names=("ordinary.csv", "text"),
    ),
    Case(
        "UTF-16 without a mark",
        "each second character would be NUL",
        CHECK,
        (Edit("outside.txt", "\n\n".join(lines(40, 4)).encode("utf-16-le").decode("latin-1")),),
        names=("outside.txt", "UTF"),
    ),
    Case(
        "truth values as tokens",
        "true is no token",
        CHECK_ICU,
        _more(POOL, f'{{"token_ids": [true, {", ".join("3579")}, {", ".join(["8"] * 20)}]}}\n'),
        names=(POOL, "row 1", "token_ids"),
    ),
    Case(
        "context longer than the window",
        "no engine could read it",
        CHECK,
        _more(CHALLENGING, f'{{"text": "{" ".join(lines(1, 9, 3000))}"}}\n'),
        names=(CHALLENGING,),
    ),
    Case(
        "question longer than the window",
        "no engine could read it",
        CHECK_ICU,
        _more(
            CHOICES,
            f'{{"question": "{lines(1, 9, 3000)[0]}", "choices": ["w4", "w5"], "answer": 0}}\n',
        ),
        names=(CHOICES,),
    ),
)

MODELS = (
    Case(
        "model without a tokenizer",
        "its prompts cannot be encoded",
        CHECK,
        (Gone(TOKENIZER), Gone("model/tokenizer_config.json")),
        names=("tokenizer",),
    ),
    Case(
        "window above the model's",
        "positions that the model has not",
        CHECK,
        (Swap(MODEL, '"max_position_embeddings": 2048', '"max_position_embeddings": 64'),),
        names=("max_model_len",),
    ),
    Case(
        "a norm to be trained",
        "a LoRA adapts linear layers",
        _set("release.forget.target_modules=[input_layernorm]"),
        names=("target_modules", "input_layernorm"),
    ),
    Case(
        "a tied embedding to be trained",
        "its delta would change the head too",
        _set("release.forget.target_modules=[embed_tokens]"),
        names=("target_modules", "embed_tokens"),
    ),
    Case(
        "weights of another size",
        "they fit no layer that config.json describes",
        CHECK,
        (Swap(MODEL, '"hidden_size": 32', '"hidden_size": 64'),),
        names=("model",),
    ),
    Case(
        "words that the model has no embedding of",
        "token ids beyond the embeddings",
        CHECK,
        (Swap(TOKENIZER, '"w255": 255', '"w255": 255, "w256": 300'),),
        names=("token",),
    ),
    Case(
        "config.json that is a list", "no config", CHECK, (Edit(MODEL, "[]\n"),), names=("model",)
    ),
    Case(
        "index without files",
        "names no shard",
        CHECK,
        (Edit(INDEX, '{"weight_map": ["a", "b"]}'),),
        names=("model",),
    ),
    Case("model's name with NUL", "no path", _set('model="./model\\0"'), names=("model",)),
)

PLACES = (
    Case(
        "cache that cannot be made",
        "the embedded model has no place",
        _set("model=embedded:smollm2-135m-instruct"),
        environment={"RNR_CACHE_DIR": "/dev/null/cache"},
        names=("/dev/null/cache",),
    ),
    Case(
        "export to no folder",
        "it cannot be made",
        ("export", "run", "--adapter", "/dev/null/out"),
        names=("/dev/null/out",),
    ),
    Case(
        "two exports to one folder",
        "one would replace the other",
        ("export", "run", "--adapter", "out", "--merged", "out"),
        names=("out",),
    ),
    Case(
        "database that is none",
        "MLflow cannot open it",
        ("ui", "--runs", "old"),
        _more("old/mlflow.db", "not a database, by no means\n" * 40),
        names=("mlflow.db",),
    ),
    Case("empty prompt", "nothing to continue", ("compare", "run", ""), names=("prompt",)),
    Case(
        "sheet of a run without sequences",
        "there is nothing to grade",
        ("grade", "run", "--sheet", "sheet.csv"),
        names=("run",),
    ),
    Case("verify what is no run", "a folder of texts", ("verify", "model"), names=("model",)),
    Case(
        "run whose base was edited",
        "other weights under the same name and of the same length",
        ("export", "run", "--adapter", "out"),
        (Edit(WEIGHTS, "\x7f", -9, 1),),
        names=("digest",),
    ),
)

BY_HAND = (*CONFIGS, *READERS, *MODELS, *PLACES)


def all_cases() -> list[Case]:
    """The whole list, as it is kept."""
    kept = FUZZED.read_text(encoding="utf-8").splitlines()
    return [*BY_HAND, *(from_plain(json.loads(line)) for line in kept)]
