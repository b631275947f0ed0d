"""Rows of data sets, as tests write them."""

import json

from rnr_dist.types import Split

SHARES = {Split.REVEAL: 1, Split.TRAIN: 3, Split.FINAL: 4}


def rtp_row(text, toxicity, reference=" and so on."):
    """A row of RealToxicityPrompts, as it is published."""
    return {
        "filename": "0870163-f77b.txt",
        "begin": 495,
        "end": 634,
        "challenging": False,
        "prompt": {"text": text, "profanity": 0.02, "insult": 0.05, "toxicity": toxicity},
        "continuation": {"text": reference, "insult": 0.9, "toxicity": 0.98},
    }


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
