"""How one asks for the entities of a type: the published words, as turns or as plain text.

In: a text and a type. Out: the turns of a conversation, or one prompt. Invariant: `paper` is
Reveal-and-Release's appendix A.2 to the letter, `universal_ner` UniversalNER's conversation, and
the text can be found again between the words of either.
"""

from __future__ import annotations

import re

from rnr_dist.types import Message

# Appendix A.2, where `Entity` stands for the type.
INSTRUCTION = (
    "What describes {type} in the text? Identify any {type} entities mentioned in the text and "
    'respond ONLY with a list in the exact format: ["Entity1", "Entity2"]. If no {type} entities '
    "are mentioned, respond only with an empty list: []."
)
PAPER = f"Instruction:\n{INSTRUCTION}\n\nInput:\nText: {{text}}\n\nOutput:\n"
READ = "I've read this text."
QUESTION = "What describes {type} in the text?"
# What UniversalNER puts around the turns of its conversation.
PREAMBLE = "A virtual assistant answers questions from a user based on the provided text."
# The words that stand around the text, by wording.
AROUND = {"paper": ("Text: ", "\n\nOutput:"), "universal_ner": ("Text: ", READ)}


def turns(wording: str, text: str, type_name: str) -> tuple[Message, ...]:
    """What is said up to the answer, for a chat template."""
    if wording == "paper":
        return (Message("user", PAPER.format(type=type_name, text=text).rstrip("\n")),)
    asked = QUESTION.format(type=type_name)
    return (
        Message("user", f"Text: {text}"),
        Message("assistant", READ),
        Message("user", asked),
    )


def plain(wording: str, text: str, type_name: str) -> str:
    """The same as one text that an answer goes on from, without a template."""
    if wording == "paper":
        return PAPER.format(type=type_name, text=text)
    said = " ".join(
        f"{'USER' if turn.role == 'user' else 'ASSISTANT'}: {turn.content}"
        for turn in turns(wording, text, type_name)
    )
    return f"{PREAMBLE} {said} ASSISTANT:"


def text_within(prompt: str, wording: str) -> str:
    """The text that a prompt asks about, with what a template puts behind it; "" without one."""
    before, after = map(re.escape, AROUND[wording])
    found = re.search(f"{before}(.*?){after}", prompt, re.DOTALL)
    return found.group(1) if found else ""
