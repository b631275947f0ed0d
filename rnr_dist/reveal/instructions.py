"""From soft prompts to instructions, and from instructions to response queries.

In: the arm table and demonstrations. Out: one instruction an arm, and prompts that hold it.
Invariant: the meta-prompt is the same for all arms, so only the soft tokens tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnr_dist.generate.requests import Generate, Response
from rnr_dist.precision import compute_dtype
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.types import SamplingSettings

# The reference ends its meta-prompt so; the paper's listed instructions start with it.
META_ENDING = "The instruction was to"

# `preamble` puts the context last, so that the model continues it as it will without instruction;
# `instruction_input_output` is the reference's template.
QUERY_FORMATS = {
    "preamble": "Instruction: {instruction}\n\n{context}",
    "instruction_input_output": "Instruction: {instruction}\n\nInput: {context}\nOutput:",
}


def meta_prompt(demonstrations: Sequence[tuple[str, str]]) -> str:
    """Text after the soft tokens: (context, response) pairs, then the words to go on from."""
    pairs = "".join(f"Input: {one_line(x)}\nOutput: {one_line(y)}\n\n" for x, y in demonstrations)
    return pairs + META_ENDING


def decode_requests(
    arms: ArmTable, numbers: Iterable[int], meta: np.ndarray, max_tokens: int
) -> list[Generate]:
    """One greedy request for each of these arms: soft tokens, then the meta-prompt, as embeddings.

    meta: (tokens, hidden) float32 input embeddings of the meta-prompt.
    """
    sampling = SamplingSettings(n=1, max_tokens=max_tokens, temperature=0.0, top_p=1.0)
    return [
        Generate(sampling, embeddings=np.concatenate([arms.soft_prompt(arm), meta]))
        for arm in numbers
    ]


def instruction_of(response: Response) -> str:
    """The first sentence of what was decoded, with the meta-prompt's verb form kept."""
    text = response.continuations[0].text.strip()
    first_line = text.splitlines()[0].strip() if text else ""
    return re.split(r"(?<=[.!?])\s", first_line, maxsplit=1)[0].strip()


def one_line(text: str) -> str:
    return " ".join(text.split())


def query(instruction: str, context: str, style: str) -> str:
    """The prompt of a response f(C, P_i) (Algorithm 1, line 8); the bare context without one."""
    if not instruction:
        return context
    return QUERY_FORMATS[style].format(instruction=instruction, context=context)


class InputEmbeddings:
    """A checkpoint's input embedding matrix, read by rows: no model and no whole matrix is loaded.

    Raises ValueError when the checkpoint has none under a known name.
    """

    def __init__(self, checkpoint: Path):
        from safetensors import safe_open

        from rnr_dist.models import weight_files

        names = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
        for path in weight_files(checkpoint):
            file = safe_open(path, "pt")
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                if name.endswith(names):
                    self._rows = file.get_slice(name)
                    self.vocabulary, self.hidden = self._rows.get_shape()
                    return
        raise ValueError(f"{checkpoint}: holds no input embedding matrix under a known name")

    def of(self, token_ids: Sequence[int]) -> np.ndarray:
        """(tokens, hidden) float32."""
        return np.concatenate([self._block(token, token + 1) for token in token_ids])

    def std(self) -> float:
        """Standard deviation of all entries."""
        count = self.vocabulary * self.hidden
        total = square = 0.0
        for first in range(0, self.vocabulary, 4096):
            block = self._block(first, min(first + 4096, self.vocabulary)).astype(np.float64)
            total += float(block.sum())
            square += float((block**2).sum())
        return float(np.sqrt(square / count - (total / count) ** 2))

    def _block(self, first: int, last: int) -> np.ndarray:
        return self._rows[first:last].float().numpy()


def arm_features(
    checkpoint: str,
    arms: ArmTable,
    wanted: Sequence[int],
    meta_tokens: Sequence[int],
    dtype: str,
    trust_remote_code: bool,
    batch: int = 16,
) -> np.ndarray:
    """(wanted, hidden) float32: the final-norm hidden state of the last meta-prompt token.

    wanted: numbers of the arms to compute. dtype: as `engines.dtype`. Runs as a Ray task while the
    engines rest, so on all cores; `batch` bounds memory to so many sequences of activations.
    """
    import os

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = compute_dtype(dtype, on_gpu=device == "cuda")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
    )
    model = loaded.to(device).eval()
    meta = model.get_input_embeddings()(torch.tensor(list(meta_tokens), device=device))
    features = []
    with torch.inference_mode():
        for first in range(0, len(wanted), batch):
            numbers = wanted[first : first + batch]
            soft = torch.from_numpy(np.stack([arms.soft_prompt(arm) for arm in numbers]))
            soft = soft.to(device, meta.dtype)
            inputs = torch.cat([soft, meta.expand(len(numbers), -1, -1)], dim=1)
            hidden = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            features.append(hidden[:, -1].float().cpu().numpy())
    return np.concatenate(features)
