"""From an instruction and a context to the prompt of a response (Algorithm 1, line 8).

In: texts and a style. Out: a prompt. Invariant: without an instruction the prompt is the bare
context, in every style.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    if tokenizer.bos_token and tokenizer.encode("a")[0] == tokenizer.bos_token_id:
        before = before.removeprefix(tokenizer.bos_token)
    return str(before) + context


def require_chat_template(checkpoint: Path, trust_remote_code: bool) -> None:
    """Raises InputError where a checkpoint has no chat template, which `chat` asks by."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    if not tokenizer.chat_template:
        raise InputError(
            f"reveal.query: found chat, but {checkpoint} has no chat template; expected a model "
            "with one, or preamble or instruction_input_output"
        )
