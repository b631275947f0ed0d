"""Small problem sets: what else a model can do, beside what it must forget (paper's Table 1).

In: a source. Out: `Question`s and `Dialogue`s, in the order of the file. Invariant: nothing is ever
trained on or chosen by them.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from rnr_dist.data.files import files_of
from rnr_dist.data.rows import file_rows
from rnr_dist.errors import InputError

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


@dataclass(frozen=True)
class Question:
    """The beginning of a text, endings to choose from, and the number of the right one, from 0."""

    question: Text
    choices: Annotated[tuple[Text, ...], Field(min_length=2)]
    answer: Annotated[int, Field(ge=0, strict=True)]
    kind: str = ""

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Question:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} is none of the {len(self.choices)} choices")
        return self


@dataclass(frozen=True)
class Dialogue:
    """Turns of a conversation, and the one that came next."""

    context: Annotated[tuple[Text, ...], Field(min_length=1)]
    reply: Text


Problem = TypeVar("Problem", Question, Dialogue)


def load_problems(source: str, kind: type[Problem]) -> tuple[Problem, ...]:
    """The rows of a source (`.jsonl` or `.parquet`) as problems; other fields are left out.

    Raises InputError that names file, row and field.
    """
    adapter = TypeAdapter(kind)
    found = []
    for path in files_of(source):
        for row in file_rows(path):
            try:
                found.append(adapter.validate_python(row.fields))
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, first["loc"]))
                told = first["msg"].removeprefix("Value error, ")
                raise InputError(f"{row.place}: {f'`{key}`: ' if key else ''}{told}") from None
    if not found:
        raise InputError(f"{source}: holds no rows; expected some")
    return tuple(found)
