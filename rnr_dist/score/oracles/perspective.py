"""Perspective's API, the oracle of Reveal-and-Release's paper: an attribute's score of a response.

In: responses. Out: what the service says of each, in [0, 1]; an empty one scores 0. Invariant: an
outage, a quota or a wrong key is one InputError, never a score.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import Message
from math import ceil
from typing import Any, Literal

import numpy as np

from rnr_dist.config.base import Positive, Whole
from rnr_dist.config.oracles import OracleSettings
from rnr_dist.config.secrets import secret_of
from rnr_dist.errors import InputError, shown
from rnr_dist.score.oracles.kept import KeptScores, Texts
from rnr_dist.types import digest

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 32.0  # between tries; each is twice the one before
MOST_AT_ONCE = 32


class PerspectiveSettings(OracleSettings):
    """Which attribute is asked for, and how fast."""

    name: Literal["perspective"] = "perspective"
    attribute: str = "TOXICITY"
    """An attribute of the service: TOXICITY, SEVERE_TOXICITY, INSULT, THREAT..."""
    languages: tuple[str, ...] = ("en",)
    """The languages that responses are in."""
    key_variable: str = "PERSPECTIVE_API_KEY"
    """The environment variable that holds the key."""
    per_second: Positive = 1.0
    """Requests a second of one process; the service's default quota is one."""
    retries: Whole = 6
    """Further tries after a failed connection, a timeout or an answer of 429 or 5xx; waits grow
    from one second to 32, and a Retry-After is kept to."""
    timeout_seconds: Positive = 30.0
    """Of one request."""
    url: str = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze"
    """Where it is served."""


class PerspectiveOracle:
    """Asks at the rate of the settings; what was answered once is kept (`kept`)."""

    Settings = PerspectiveSettings

    def __init__(self, settings: PerspectiveSettings):
        self._settings = settings
        self._key = secret_of(settings.key_variable, settings.url)
        self._lock, self._free_at = threading.Lock(), 0.0
        told = [settings.url, settings.attribute, list(settings.languages)]
        self.version = f"perspective {settings.attribute} {digest(told)[:8]}"
        self._kept = KeptScores(self.version, min(MOST_AT_ONCE, ceil(settings.per_second)))

    @staticmethod
    def check(settings: PerspectiveSettings) -> None:
        """Raises InputError where the key's environment variable is not set."""
        secret_of(settings.key_variable, f"oracle {settings}")

    def score(self, contexts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        scores = np.zeros(len(responses))
        spoken = [index for index, response in enumerate(responses) if response.strip()]
        scores[spoken] = self._kept.of([(responses[index],) for index in spoken], self._ask)
        return scores

    def _ask(self, texts: Texts) -> float:
        settings = self._settings
        body = {
            "comment": {"text": texts[0]},
            "languages": list(settings.languages),
            "requestedAttributes": {settings.attribute: {}},
            "doNotStore": True,
        }
        answer = self._answer(json.dumps(body).encode())
        try:
            value = answer["attributeScores"][settings.attribute]["summaryScore"]["value"]
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{settings.url}: answered {shown(answer)}; expected a score of "
                f"{settings.attribute} from 0 to 1"
            ) from None
        return float(value)

    def _answer(self, body: bytes) -> Any:
        """The service's answer, after as many tries as the settings allow."""
        settings = self._settings
        for tried in range(settings.retries + 1):
            self._wait_for_turn()
            try:
                return self._request(body)
            except urllib.error.HTTPError as error:
                said = " ".join(error.read().decode(errors="replace").split())[:200]
                found = f"answered {error.code} ({said})"
                if error.code != 429 and error.code < 500:
                    key = error.code in (401, 403) or "API_KEY_INVALID" in said
                    expected = f"a valid key in {settings.key_variable}" if key else "a score"
                    raise InputError(f"{settings.url}: {found}; expected {expected}") from error
                wait = _wait(tried, error.headers)
            except (OSError, ValueError) as error:  # no connection, a timeout, no JSON
                found, wait = f"found no answer ({error})", _wait(tried)
            if tried < settings.retries:
                time.sleep(wait)
        raise InputError(
            f"{settings.url}: {found} in {settings.retries + 1} tries; expected a score"
        )

    def _request(self, body: bytes) -> Any:
        request = urllib.request.Request(
            self._settings.url,
            body,
            # Not in the address, where it would be logged.
            {"Content-Type": "application/json", "X-Goog-Api-Key": self._key},
        )
        with urllib.request.urlopen(request, timeout=self._settings.timeout_seconds) as answer:
            return json.load(answer)

    def _wait_for_turn(self) -> None:
        """So many requests a second, whatever number of threads asks."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._free_at)
            self._free_at = turn + 1 / self._settings.per_second
        time.sleep(turn - now)


def _wait(tried: int, headers: Message | None = None) -> float:
    """Seconds before the next try."""
    told = headers.get("Retry-After", "") if headers else ""
    if told.isdigit():
        return float(told)
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**tried)
