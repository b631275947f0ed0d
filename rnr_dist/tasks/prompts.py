"""From an instruction and a context to the prompt of a response (Algorithm 1, line 8).

In: texts and a style. Out: a prompt. Invariant: without an instruction the prompt is the bare
context, in every style.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rnr_dist.data.encoding import begin_tokens, encoded
from rnr_dist.errors import InputError

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
    message = {"role": "user", "content": instruction[:1].upper() + instruction[1:]}
    before = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    # Encoding puts a begin token before the prompt where the model has one; one is enough.
    if tokenizer.bos_token and tokenizer.bos_token_id in begin_tokens(tokenizer):
        before = before.removeprefix(tokenizer.bos_token)
    return str(before) + context


def require_tokenizer(checkpoint: Path, trust_remote_code: bool) -> Any:
    """The checkpoint's tokenizer. Raises InputError where it has none, or one of more tokens than
    the model has embeddings."""
    from transformers import AutoTokenizer

    from rnr_dist.weights.skeleton import skeleton

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            checkpoint, trust_remote_code=trust_remote_code
        )
        # Without its files transformers makes up some tokenizers that know no word.
        names = sorted({*type(tokenizer).vocab_files_names.values()})
        if names and not any((checkpoint / name).exists() for name in names):
            raise FileNotFoundError(f"none of {', '.join(names)}")
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


def require_chat_template(tokenizer: Any, checkpoint: Path) -> None:
    """Raises InputError where a checkpoint has no chat template, which `chat` asks by."""
    if not tokenizer.chat_template:
        raise InputError(
            f"reveal.query: found chat, but {checkpoint} has no chat template; expected a model "
            "with one, or preamble or instruction_input_output"
        )
