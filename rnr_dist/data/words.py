"""Words of a text, also of one in a script that sets no spaces between them.

In: a text. Out: its words, and where they stand. Invariant: in scripts with spaces a word is what
stands between them; in Chinese, Japanese, Thai and the like it is one character with its marks.
"""

from __future__ import annotations

import re

# Thai, Lao, Tibetan, Myanmar, Khmer, kana, Bopomofo, Han and its later planes, half-width kana.
# Their marks (vowels and tones above or below a letter) belong to the letter before.
_MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
    "\u0f18-\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f3f\u0f71-\u0f84\u0f86-\u0f87\u0f8d-\u0fbc\u0fc6"
    "\u102b-\u103e\u1056-\u1059\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d"
    "\u17b4-\u17d3\u17dd\u3099-\u309a\uff9e-\uff9f\u0300-\u036f\ufe00-\ufe0f"
)
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3031-\u3035\u3040-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
# What closes stays with the word before it, as it does between spaces.
_CLOSING = (
    r"\]\)}.,;:!?%'\"\u2019\u201d\u2026\u3001\u3002\u3009\u300b\u300d\u300f\u3011"
    r"\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
)
_ONE = f"[{_UNSPACED}][{_MARKS}]*"
WORD = re.compile(rf"{_ONE}[{_CLOSING}]*|[^\s{_UNSPACED}]+")
# Behind it one pauses, at the end of a word.
PAUSE = re.compile("[.,;:!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]\\W*\\Z")
LETTERS = re.compile(rf"{_ONE}|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """What stands between white space, punctuation included; unspaced scripts by characters."""
    return WORD.findall(text)


def bare_words(text: str) -> list[str]:
    """The same without punctuation: runs of letters and digits."""
    return LETTERS.findall(text)
