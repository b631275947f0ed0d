"""From an instruction and a context to the prompt of a response (Algorithm 1, line 8).

In: texts or turns, and a style. Out: a prompt. Invariant: without an instruction the prompt is the
bare context, in every style; a conversation is one text, by the model's chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rnr_dist.data.encoding import begin_tokens, encoded
from rnr_dist.errors import InputError
from rnr_dist.types import Context, Message
from rnr_dist.weights.checkpoints import checkpoint_here, resolve_model

# `preamble` puts the context last, so that the model continues it as it will without instruction;
# `instruction_input_output` is the reference's template. `chat` has none: it is the model's own.
QUERY_FORMATS = {
    "preamble": "Instruction: {instruction}\n\n{context}",
    "instruction_input_output": "Instruction: {instruction}\n\nInput: {context}\nOutput:",
}


def query(instruction: str, context: str, style: str, tokenizer: Any) -> str:
    """The prompt of a response f(C, P_i); the bare context without an instruction.

    style: a key of QUERY_FORMATS, or `chat`: the instruction is the user's message by the
    tokenizer's chat template, the context is how the answer begins.
    """
    if not instruction:
        return context
    if style in QUERY_FORMATS:
        return QUERY_FORMATS[style].format(instruction=instruction, context=context)
    told = instruction[:1].upper() + instruction[1:]
    return by_template([Message("user", told)], tokenizer) + context


def by_template(turns: Sequence[Message], tokenizer: Any) -> str:
    """Turns by the tokenizer's chat template, up to where the assistant's begins."""
    before = tokenizer.apply_chat_template(
        [asdict(turn) for turn in turns], tokenize=False, add_generation_prompt=True
    )
    # Encoding puts a begin token before the prompt where the model has one; one is enough.
    if tokenizer.bos_token and tokenizer.bos_token_id in begin_tokens(tokenizer):
        before = before.removeprefix(tokenizer.bos_token)
    return str(before)


def instructed(context: Context, instruction: str, style: str, tokenizer: Any) -> str:
    """`query` for a context that may be a conversation: the instruction then stands before what its
    user says last, since not every template has a system's turn."""
    if not (context.messages and instruction):
        return query(instruction, context.text, style, tokenizer)
    *before, last = context.messages
    form = QUERY_FORMATS.get(style, "{instruction}\n\n{context}")
    told = form.format(instruction=instruction, context=last.content)
    return by_template([*before, replace(last, content=told)], tokenizer)


def as_asked(context: Context, tokenizer: Any, place: str) -> Context:
    """A context whose text is what the model is asked with: a conversation by its template.

    Raises InputError, which `place` begins, where the template does not take the turns.
    """
    if not context.messages:
        return context
    try:
        return replace(context, text=by_template(context.messages, tokenizer))
    except Exception as error:  # whatever the template itself raises
        raise InputError(
            f"{place}: the model's chat template does not take these turns ({error}); expected "
            "turns as it wants them"
        ) from error


def require_tokenizer(checkpoint: Path, trust_remote_code: bool) -> Any:
    """The checkpoint's tokenizer. Raises InputError where it has none, or one of more tokens than
    the model has embeddings."""
    from rnr_dist.weights.skeleton import skeleton

    try:
        tokenizer = _with_files(checkpoint, trust_remote_code)
        largest = max(encoded(tokenizer, "a"))
    except Exception as error:  # whatever the tokenizer's own code or files raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{checkpoint}: found no tokenizer that can be loaded ({reason}); expected "
            "tokenizer.json or the files of one beside the weights"
        ) from error
    model = skeleton(checkpoint, trust_remote_code)
    rows = largest + 1 if model is None else model.get_input_embeddings().weight.shape[0]
    if max(largest + 1, tokenizer.vocab_size) > rows:
        raise InputError(
            f"{checkpoint}: found a tokenizer of {tokenizer.vocab_size} tokens beside embeddings "
            f"of {rows}; expected at most as many tokens as embeddings"
        )
    return tokenizer


def _with_files(checkpoint: Path, trust_remote_code: bool) -> Any:
    """The tokenizer in a folder. Raises whatever its own code or files raise."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    # Without its files transformers makes up some tokenizers that know no word.
    names = sorted({*type(tokenizer).vocab_files_names.values()})
    if names and not any((checkpoint / name).exists() for name in (*names, "tokenizer.json")):
        raise FileNotFoundError(f"none of {', '.join(names)}")
    return tokenizer


def require_chat_template(tokenizer: Any, checkpoint: Path) -> None:
    """Raises InputError where a checkpoint has no chat template, which `chat` asks by."""
    if not tokenizer.chat_template:
        raise InputError(
            f"reveal.query: found chat, but {checkpoint} has no chat template; expected a model "
            "with one, or preamble or instruction_input_output"
        )


class NoTokenizerError(InputError):
    """A folder of this disk holds a model without its tokenizer."""


def tokenizer_of(model: str, trust_remote_code: bool) -> Any:
    """The tokenizer of a model of the config; one that lies on this disk is not read for it.

    Raises NoTokenizerError for a folder without one.
    """
    checkpoint = checkpoint_here(model) or Path(resolve_model(model, trust_remote_code).checkpoint)
    try:
        return _with_files(checkpoint, trust_remote_code)
    except Exception as error:  # whatever the tokenizer's own code or files raise
        raise NoTokenizerError(
            f"found no tokenizer in {checkpoint}; expected one beside it"
        ) from error
