"""One vLLM engine: start-up arguments, requests in, responses out, weights exchanged in place.

Runs inside a generator actor. Invariant: every response names the model that was loaded while it
was made; the caller drains the engine before `load`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnr_dist.config.engines import Engines
from rnr_dist.generate.requests import (
    Continuation,
    Generate,
    ReadLikelihood,
    Request,
    Response,
    before_stop,
    prompt_ids,
)
from rnr_dist.run.precision import compute_dtype
from rnr_dist.types import SamplingSettings

NUCLEUS = "rnr_dist.generate.vllm_nucleus:ExactNucleus"


def engine_arguments(engines: Engines, checkpoint: str, trust_remote_code: bool) -> dict[str, Any]:
    """vLLM's engine arguments for this machine, as plain values (tested without vLLM)."""
    on_gpu = engines.gpus_each > 0
    arguments: dict[str, Any] = {
        "model": checkpoint,
        "dtype": compute_dtype(engines.dtype, on_gpu),
        "max_model_len": engines.max_model_len,
        "max_num_seqs": engines.max_num_seqs,
        "enforce_eager": engines.enforce_eager,
        "enable_prompt_embeds": True,
        "enable_prefix_caching": True,
        "trust_remote_code": trust_remote_code,
        "disable_log_stats": True,
    }
    if engines.weights == "lora":
        arguments |= {
            "enable_lora": True,
            "max_loras": engines.loras,
            "max_lora_rank": engines.lora_rank,
        }
    if on_gpu:
        arguments["tensor_parallel_size"] = max(1, int(engines.gpus_each))
        # Engines that share a GPU share its memory; a tenth stays for activations elsewhere.
        arguments["gpu_memory_utilization"] = round(0.9 * min(1.0, engines.gpus_each), 3)
        if engines.gpus_each < 1:
            # By itself vLLM reads how much of the card is taken, its neighbours' part included, and
            # engines that start together would count each other's.
            arguments["kv_cache_memory_bytes"] = int(engines.kv_cache_gib * 2**30)
    else:
        # On CPUs `gpu_memory_utilization` would be taken of the whole RAM.
        arguments["kv_cache_memory_bytes"] = int(engines.kv_cache_gib * 2**30)
        arguments["logits_processors"] = [NUCLEUS]
        # The model inside the engine's process instead of in one of its own: .6 GiB an engine, and
        # the same speed. vLLM takes it on CPUs only with `cpu_environment`.
        arguments["distributed_executor_backend"] = "uni"
    return {**arguments, **engines.extra}


def sampling_arguments(sampling: SamplingSettings, on_gpu: bool) -> dict[str, Any]:
    """vLLM's sampling parameters; on CPUs nucleus sampling goes through our own exact mask."""
    own_nucleus = not on_gpu and sampling.top_p < 1 and sampling.temperature > 0
    return {
        "n": sampling.n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0 if own_nucleus else sampling.top_p,
        "extra_args": {"nucleus": sampling.top_p} if own_nucleus else None,
        # One batched decode at the end is cheaper than one a token, which stop strings need.
        "detokenize": bool(sampling.stop),
        "stop": list(sampling.stop),
    }


class Engine:
    """An AsyncLLM with one model loaded at a time, or with adapters beside the base."""

    def __init__(self, engines: Engines, checkpoint: str, trust_remote_code: bool = False):
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError

        self.died = (EngineDeadError,)
        self._on_gpu = engines.gpus_each > 0
        arguments = engine_arguments(engines, checkpoint, trust_remote_code)
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._tokenizer = self._llm.get_tokenizer()
        self._ids = itertools.count()
        self._loras: dict[str, Any] = {}
        self._lora_ids = itertools.count(1)

    async def run(self, requests: Sequence[Request], model: str) -> list[Response]:
        """Answer all requests, in their order."""
        return list(await asyncio.gather(*(self._answer(request, model) for request in requests)))

    async def load(self, folder: Path) -> None:
        """Exchange the weights for those of a checkpoint folder. Nothing may be under way."""
        await self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        await self._llm.reset_prefix_cache()

    async def add(self, model: str, folder: Path) -> None:
        """Hold the adapter of that folder as `model`, beside what is held and under way."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(model, next(self._lora_ids), str(folder))
        await self._llm.add_lora(request)
        self._loras[model] = request

    def forget(self, model: str) -> None:
        """Take no further requests for `model`; the engine needs its place in time."""
        del self._loras[model]

    def shutdown(self) -> None:
        """End the engine's own processes; an actor that is killed before leaves orphans."""
        self._llm.shutdown()

    async def _answer(self, request: Request, model: str) -> Response:
        from vllm import SamplingParams
        from vllm.inputs import EmbedsPrompt, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        prompt: Any
        if isinstance(request, ReadLikelihood):
            arguments = {"max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
            token_ids = prompt_ids(request, self._tokenizer)
            prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        else:
            arguments = sampling_arguments(request.sampling, self._on_gpu)
            if request.embeddings is not None:
                import torch

                prompt = EmbedsPrompt(prompt_embeds=torch.from_numpy(request.embeddings))
            else:
                token_ids = prompt_ids(request, self._tokenizer)
                prompt = TokensPrompt(prompt_token_ids=list(token_ids))
        params = SamplingParams(**arguments, output_kind=RequestOutputKind.FINAL_ONLY)
        output: Any = None
        async for answer in self._llm.generate(
            prompt, params, str(next(self._ids)), lora_request=self._loras.get(model)
        ):
            output = answer
        if isinstance(request, ReadLikelihood):
            return Response(model, (), *_likelihoods(output, token_ids, request.start))
        return Response(model, continuations=self._continuations(output, request))

    def _continuations(self, output: Any, request: Generate) -> tuple[Continuation, ...]:
        ids = [tuple(choice.token_ids) for choice in output.outputs]
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return tuple(
            Continuation(
                token_ids, before_stop(text, request.sampling.stop), choice.finish_reason or ""
            )
            for token_ids, text, choice in zip(ids, texts, output.outputs, strict=True)
        )


def _likelihoods(
    output: Any, token_ids: Sequence[int], start: int
) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Log-likelihoods of positions start.. (natural log), and which of them are the arg max."""
    found = [
        output.prompt_logprobs[position][token_ids[position]]
        for position in range(start, len(token_ids))
    ]
    return tuple(one.logprob for one in found), tuple(one.rank == 1 for one in found)
