"""From soft prompts to instructions, and what the bandit sees of them.

In: the arm table and demonstrations. Out: one instruction an arm, and its features.
Invariant: the meta-prompt is the same for all arms, so only the soft tokens tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rnr_dist.config.reveal import Reveal
from rnr_dist.config.schema import Config
from rnr_dist.data.encoding import encoded, encoded_on
from rnr_dist.errors import InputError
from rnr_dist.generate.requests import Generate, Response
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.run.precision import compute_dtype
from rnr_dist.types import SamplingSettings

# The reference ends its meta-prompt so; the paper's listed instructions start with it.
META_ENDING = "The instruction was to"


@dataclass(frozen=True)
class MetaPrompt:
    """Token ids before and after an arm's soft tokens; the same for all arms."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def meta_prompt(
    demonstrations: Sequence[tuple[str, str]], tokenizer: Any, place: Literal["first", "last"]
) -> MetaPrompt:
    """(context, response) pairs, then the words to go on from; soft tokens before or after them."""
    pairs = "".join(f"Input: {one_line(x)}\nOutput: {one_line(y)}\n\n" for x, y in demonstrations)
    if place == "first":
        # A begin token, where the tokenizer has one, comes after the soft tokens (INSTINCT).
        return MetaPrompt((), encoded(tokenizer, pairs + META_ENDING))
    return MetaPrompt(encoded(tokenizer, pairs), encoded_on(tokenizer, META_ENDING))


def meta_tokens(demonstrations: Sequence[tuple[str, str]], tokenizer: Any, reveal: Reveal) -> int:
    """What an arm takes of the writer's window: meta-prompt, soft tokens and an instruction."""
    meta = meta_prompt(demonstrations, tokenizer, reveal.soft_place)
    around = len(meta.before) + len(meta.after)
    return around + reveal.soft_tokens + reveal.instruction_tokens


def require_meta_prompt(config: Config, tokenizer: Any) -> None:
    """Raises InputError where not even a meta-prompt without demonstrations fits the window.

    tokenizer: of who decodes instructions. Demonstrations that do not fit are left out.
    """
    reveal, window = config.reveal, config.engines.max_model_len
    if (tokens := meta_tokens([], tokenizer, reveal)) > window:
        rest = tokens - reveal.soft_tokens - reveal.instruction_tokens
        raise InputError(
            f"reveal.soft_tokens: found {reveal.soft_tokens}, beside reveal.instruction_tokens "
            f"{reveal.instruction_tokens} and {rest} tokens of a meta-prompt without "
            f"demonstrations; expected a sum within engines.max_model_len {window}"
        )


def decode_requests(
    arms: ArmTable,
    numbers: Iterable[int],
    before: np.ndarray,
    after: np.ndarray,
    sampling: SamplingSettings,
) -> list[Generate]:
    """One request for each of these arms: the meta-prompt around its soft tokens, as embeddings.

    before, after: (tokens, hidden) float32 input embeddings of the meta-prompt's two sides.
    """
    return [
        Generate(sampling, embeddings=np.concatenate([before, arms.soft_prompt(arm), after]))
        for arm in numbers
    ]


def instruction_of(response: Response) -> str:
    """The first sentence of what was decoded, with the meta-prompt's verb form kept.

    Empty where the writer only went on with the meta-prompt's pairs.
    """
    text = response.continuations[0].text.strip()
    first_line = text.splitlines()[0].strip() if text else ""
    if first_line.startswith(("Input:", "Output:")):
        return ""
    return re.split(r"(?<=[.!?])\s", first_line, maxsplit=1)[0].strip()


def one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True)
class FeatureReader:
    """A model that is read for arms' features. dtype: as `engines.dtype`."""

    checkpoint: str
    dtype: str
    trust_remote_code: bool

    def load(self) -> Any:
        """The model, on all cores or the GPU."""
        import os

        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = compute_dtype(self.dtype, on_gpu=device == "cuda")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            self.checkpoint,
            dtype=getattr(torch, dtype),
            trust_remote_code=self.trust_remote_code,
        )
        return loaded.to(device).eval()


def arm_features(
    reader: FeatureReader,
    arms: ArmTable,
    wanted: Sequence[int],
    before: Sequence[int],
    after: Sequence[Sequence[int]],
    batch: int = 16,
) -> np.ndarray:
    """(wanted, hidden) float32: the final-norm hidden state of each arm's last token.

    wanted: numbers of the arms to compute. before: token ids ahead of the soft tokens, read once.
    after: of each wanted arm, those behind them: one at least. Runs as a Ray task while the engines
    rest, so on all cores; `batch` bounds memory to so many sequences of activations.
    """
    import copy

    import torch
    from torch.nn.utils.rnn import pad_sequence

    model = reader.load()
    embed = model.get_input_embeddings()
    device = embed.weight.device
    features = []
    with torch.inference_mode():
        shared = None
        if before:
            ids = torch.tensor([list(before)], device=device)
            shared = model.base_model(input_ids=ids, use_cache=True).past_key_values
        for first in range(0, len(wanted), batch):
            numbers = wanted[first : first + batch]
            rows = []
            for arm, ids in zip(numbers, after[first : first + batch], strict=True):
                soft = torch.from_numpy(arms.soft_prompt(arm)).to(device, embed.weight.dtype)
                rows.append(torch.cat([soft, embed(torch.tensor(list(ids), device=device))]))
            lengths = torch.tensor([len(row) for row in rows], device=device)
            held = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
            past = copy.deepcopy(shared)
            if past is not None:
                past.batch_repeat_interleave(len(rows))
                held = torch.cat([held.new_ones(len(rows), len(before)), held], dim=1)
            hidden = model.base_model(
                inputs_embeds=pad_sequence(rows, batch_first=True),
                attention_mask=held.long(),
                past_key_values=past,
                use_cache=past is not None,
            ).last_hidden_state
            last = hidden[torch.arange(len(rows), device=device), lengths - 1]
            features.append(last.float().cpu().numpy())
    return np.concatenate(features)
