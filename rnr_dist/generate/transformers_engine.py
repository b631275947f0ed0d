"""One transformers model as an engine: the interface of `engine.Engine`, for what vLLM serves not.

Runs inside a generator actor. Invariant: model and batches live in one thread, which is bound to
the cores that the actor was given; the caller drains the engine before `load`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rnr_dist.config.engines import Engines
from rnr_dist.generate.requests import Generate, ReadLikelihood, Request, Response
from rnr_dist.run.precision import compute_dtype

Made = TypeVar("Made")
# Of a GPU's memory that is free beside the weights, the part that caches may take.
CACHE_SHARE = 0.7


class TransformersEngine:
    """A model loaded by transformers. Its actor's death is its own: it has no other process."""

    died: tuple[type[BaseException], ...] = ()

    def __init__(self, engines: Engines, checkpoint: str, trust_remote_code: bool = False):
        self._engines = engines
        self._trust_remote_code = trust_remote_code
        cores = os.sched_getaffinity(0)  # of the thread that asks
        self._thread = ThreadPoolExecutor(1, initializer=_bind, initargs=(engines, cores))
        self._thread.submit(self._load, Path(checkpoint)).result()

    async def run(self, requests: Sequence[Request], model: str) -> list[Response]:
        """Answer all requests, in their order."""
        return await self._within(lambda: self._answers(list(requests), model))

    async def load(self, folder: Path) -> None:
        """Exchange the weights for those of a checkpoint folder."""
        await self._within(lambda: self._load(folder))

    async def add(self, model: str, folder: Path) -> None:
        """No adapters beside the weights; `backend_of` refuses `engines.weights: lora` before."""
        raise RuntimeError("engines of transformers hold one model at a time")

    def forget(self, model: str) -> None:
        """Nothing is ever held beside the weights."""
        raise RuntimeError("engines of transformers hold one model at a time")

    def shutdown(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown(cancel_futures=True)

    async def _within(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _load(self, folder: Path) -> None:
        """The old weights go first, so that there is never room needed for two models."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from rnr_dist.generate.decoding import Bounds, Decoder

        self._decoder: Any = None
        on_gpu = self._engines.gpus_each > 0
        trusted = {"trust_remote_code": self._trust_remote_code}
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, compute_dtype(self._engines.dtype, on_gpu)), **trusted
        )
        model = model.to("cuda" if on_gpu else "cpu").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
        memory = self._engines.kv_cache_gib * 2**30
        if on_gpu:
            share = min(1.0, self._engines.gpus_each)
            memory = CACHE_SHARE * share * torch.cuda.mem_get_info()[0]
        bounds = Bounds(
            self._engines.max_num_seqs,
            max(1, int(memory / place_bytes(model.config, model.dtype.itemsize))),
            self._engines.max_model_len,
        )
        self._decoder = Decoder(model, tokenizer, end_tokens(model, tokenizer), bounds)

    def _answers(self, requests: list[Request], model: str) -> list[Response]:
        prompts = [request for request in requests if isinstance(request, Generate)]
        texts = [request for request in requests if isinstance(request, ReadLikelihood)]
        said = iter(self._decoder.continuations(prompts))
        read = iter(self._decoder.likelihoods(texts))
        return [
            Response(model, next(said))
            if isinstance(request, Generate)
            else Response(model, (), *next(read))
            for request in requests
        ]


def place_bytes(config: Any, itemsize: int) -> int:
    """Bytes that one token of one sequence takes in the cache."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return 2 * config.num_hidden_layers * shared * width * itemsize


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: the generation config's and the tokenizer's."""
    told = getattr(model.generation_config, "eos_token_id", None)
    ends = told if isinstance(told, list) else [told]
    return sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})


def _bind(engines: Engines, cores: set[int]) -> None:
    if engines.gpus_each > 0:
        return
    import torch

    os.sched_setaffinity(0, cores)
    torch.set_num_threads(engines.cpus_each)
