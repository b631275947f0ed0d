"""A model behind an OpenAI-compatible server as oracle: it grades each response by a rubric.

In: contexts and responses. Out: its grade on the rubric's scale, brought to [0, 1]; an empty
response scores 0. Invariant: a grade is a number that is the whole answer and lies on the scale;
whatever else comes back, or nothing, is one InputError, never a score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from rnr_dist.config.base import Count, Number, Positive, Whole
from rnr_dist.config.oracles import OracleSettings
from rnr_dist.config.secrets import secret_of
from rnr_dist.errors import InputError, shown
from rnr_dist.run.server import Server, asking, client_of, unusable
from rnr_dist.score.oracles.kept import KeptScores, Texts
from rnr_dist.types import digest

GRADE = re.compile(r"[-+]?\d+(?:\.\d+)?")
ASKED = 3  # times that a grade is asked for, where what comes back is none
AGAIN_TEMPERATURE = 0.7  # of the second time on: the first answer is the likeliest one
TASK = "Answer with one number from {low:g} to {high:g}, and nothing else."
QUESTION = "Context:\n{context}\n\nResponse:\n{response}"


class RubricSettings(OracleSettings):
    """Who grades, and by what."""

    name: Literal["rubric"] = "rubric"
    url: str
    """The server, up to and with its version, as in http://127.0.0.1:8000/v1."""
    model: str
    """What the server calls the model."""
    rubric: Annotated[str, Field(min_length=1)]
    """What a grade means. The model is also told the scale, and to answer with a number alone."""
    low: Number = 0.0
    """The grade of a response that does not show the target."""
    high: Number = 10.0
    """The grade of one that shows it fully."""
    key_variable: str = ""
    """The environment variable that holds the key; empty for a server that asks for none."""
    timeout_seconds: Positive = 120.0
    """Of one request."""
    retries: Whole = 4
    """Further tries after a failed connection, a timeout or an answer of 408, 409, 429 or 5xx."""
    at_once: Count = 8
    """Requests under way together."""
    max_tokens: Count = 16
    """New tokens of an answer; a model that thinks first needs more."""

    @model_validator(mode="after")
    def _ordered(self) -> RubricSettings:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class RubricOracle:
    """Asks for each pair once; what was answered is kept (`kept`)."""

    Settings = RubricSettings

    def __init__(self, settings: RubricSettings):
        self._settings = settings
        self._server = Server(
            settings.url,
            settings.model,
            settings.key_variable,
            settings.timeout_seconds,
            settings.retries,
            settings.at_once,
        )
        self._client = client_of(self._server)
        told = [settings.url, settings.model, settings.rubric, settings.low, settings.high]
        self.version = f"rubric {settings.model} {digest(told)[:8]}"
        self._kept = KeptScores(self.version, settings.at_once)

    @staticmethod
    def check(settings: RubricSettings) -> None:
        """Raises InputError where the key's environment variable is not set."""
        if settings.key_variable:
            secret_of(settings.key_variable, f"oracle {settings}")

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        scores = np.zeros(len(responses))
        spoken = [index for index, response in enumerate(responses) if response.strip()]
        pairs = [(contexts[index], responses[index]) for index in spoken]
        scores[spoken] = self._kept.of(pairs, self._ask)
        return scores

    def _ask(self, texts: Texts) -> float:
        settings = self._settings
        context, response = texts
        told = f"{settings.rubric}\n\n{TASK.format(low=settings.low, high=settings.high)}"
        messages: list[Any] = [
            {"role": "system", "content": told},
            {"role": "user", "content": QUESTION.format(context=context, response=response)},
        ]
        for again in range(ASKED):
            said = self._said(messages, AGAIN_TEMPERATURE if again else 0.0)
            grade = float(said) if GRADE.fullmatch(said) else None
            if grade is not None and settings.low <= grade <= settings.high:
                return (grade - settings.low) / (settings.high - settings.low)
        raise InputError(
            f"{settings.url}: {settings.model} answered {shown(said)} to a request for a grade, "
            f"{ASKED} times none; expected a number from {settings.low:g} to {settings.high:g}"
        )

    def _said(self, messages: list[Any], temperature: float) -> str:
        with asking(self._server):
            answer = self._client.chat.completions.create(
                model=self._settings.model,
                messages=messages,
                max_tokens=self._settings.max_tokens,
                temperature=temperature,
            )
            choices = getattr(answer, "choices", None)
            said = getattr(getattr(choices[0], "message", None), "content", 0) if choices else 0
            if said is not None and not isinstance(said, str):
                raise unusable(self._server, "a choice without a text")
            return (said or "").strip()
