"""The Ray actor that holds one engine, of vLLM or of transformers.

Invariant: it answers only for models that it holds; a request for another is refused, so that no
response can come from the wrong weights.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rnr_dist.config.engines import Engines
from rnr_dist.generate.backend import backend_of
from rnr_dist.generate.requests import Request, Response
from rnr_dist.run.scratch import Scratch, sweep
from rnr_dist.types import ModelRef
from rnr_dist.weights.architecture import architecture
from rnr_dist.weights.checkpoints import require_content
from rnr_dist.weights.node_cache import adapter_folder, leave_all, weights_folder

Answer = TypeVar("Answer")
# vLLM would sample through FlashInfer, whose kernels are compiled when they are first asked for, by
# an nvcc that neither the image of cluster/Dockerfile nor most machines have.
GPU_ENVIRONMENT = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}


class Generator:
    """One engine and the models that it holds. Wrapped as an actor by the pool."""

    def __init__(
        self, engines: Engines, base: ModelRef, index: int, trust_remote_code: bool = False
    ):
        if engines.gpus_each == 0:
            # All engines of a node would pin to the same cores otherwise.
            cores = engine_cores(index, engines.cpus_each, list(os.sched_getaffinity(0)))
            os.environ.update(cpu_environment(engines.cpus_each))
            os.sched_setaffinity(0, cores)  # the engine's process inherits it
        else:
            for name, value in GPU_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
        self._base, self._trusted = base, trust_remote_code
        self._engines = engines
        # Here and not as Ray's runtime environment, for which each actor would wait.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        sweep()  # what engines that were killed have left on this node
        self._scratch = Scratch()
        # What is compiled is kept for the next engine, in torch's own place.
        compiled = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
        # Of the engine's process and of its sockets; this one has made up its mind before.
        os.environ["TMPDIR"] = os.environ["VLLM_RPC_BASE_PATH"] = str(self._scratch.path)
        self._held: list[str] = []
        self._engine: Any = None
        self._failure: Exception | None = None
        try:
            self._engine = self._start()
            self._held = [base.digest]
        except Exception as error:  # told by `ready`: raised here, Ray would make it a text
            self._failure = error

    def _start(self) -> Any:
        require_content(self._base)
        backend = self._engines.backend
        if backend == "auto":
            backend = backend_of(self._engines, self._base.checkpoint, self._trusted).backend
        return engine_class(backend)(self._engines, self._base.checkpoint, self._trusted)

    async def ready(self) -> list[str]:
        """Digests of the models that it answers for, once the engine runs.

        Raises what the engine raised where it could not be started.
        """
        if self._failure:
            raise self._failure
        return self._held

    async def load(self, model: ModelRef) -> list[str]:
        """Take another model; the digests of all that it answers for afterwards.

        Where weights are reloaded that is one, and the pool has drained this generator before.
        """
        self._require_alike(model)
        if self._engines.weights == "reload":
            self._held = []  # a failure half-way leaves no model that could be asked
            with weights_folder(model) as folder:
                await self._of_living_engine(self._engine.load(folder))
            self._held = [model.digest]
        else:
            kept = self._engines.greatest * (self._engines.loras + 1)
            with adapter_folder(model, self._engines.lora_rank, kept) as folder:
                await self._of_living_engine(self._engine.add(model.digest, folder))
            base, *others = self._held
            too_many = max(0, len(others) + 1 - self._engines.loras)
            for old in others[:too_many]:
                self._engine.forget(old)
            self._held = [base, *others[too_many:], model.digest]
        return self._held

    def _require_alike(self, model: ModelRef) -> None:
        """Raises ValueError for a checkpoint that this engine has no place for.

        Unlearning by all weights gives other checkpoints of the same architecture: these can be
        reloaded, but no adapter of them lies beside the base's weights.
        """
        if model.checkpoint_digest == self._base.checkpoint_digest:
            return
        theirs, ours = model.checkpoint, self._base.checkpoint
        if self._engines.weights == "lora" or (
            architecture(theirs, self._trusted) != architecture(ours, self._trusted)
        ):
            raise ValueError(f"{theirs}: another checkpoint than this engine's {ours}")

    async def run(self, requests: Sequence[Request], model: str) -> list[Response]:
        """Answer requests for the model of that digest."""
        if model not in self._held:
            raise RuntimeError(f"asked for model {model}, held: {', '.join(self._held) or 'none'}")
        return await self._of_living_engine(self._engine.run(requests, model))

    async def _of_living_engine(self, answer: Awaitable[Answer]) -> Answer:
        """The engine's answer. An actor whose engine died ends, so that Ray starts a new one."""
        try:
            return await answer
        except self._engine.died:
            os._exit(1)

    async def shutdown(self) -> None:
        """End the engine's processes and leave nothing merged; the pool ends the actor then."""
        if self._engine:
            self._engine.shutdown()
        self._scratch.remove()
        leave_all()


def engine_class(backend: str) -> Any:
    """The engine of a backend; only its own library is imported."""
    if backend == "transformers":
        from rnr_dist.generate.transformers_engine import TransformersEngine

        return TransformersEngine
    from rnr_dist.generate.engine import Engine

    return Engine


def actor_options(engines: Engines) -> dict[str, Any]:
    """Ray options of a generator: what it holds and how often it restarts.

    CPU engines hold one `rnr_engine` and no CPUs, so that idle engines never keep Ray Train
    waiting ("Engines hold no CPUs", docs/design.md).
    """
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": engines.max_restarts,
        "max_concurrency": 64,
    }
    if engines.gpus_each > 0:
        options["num_gpus"] = engines.gpus_each
    else:
        options["resources"] = {"rnr_engine": 1}
    return options


def cpu_environment(cpus_each: int) -> dict[str, str]:
    """Environment in which vLLM leaves the model in the engine's process, on its own cores.

    Without multiprocessing vLLM keeps the executor "uni" on CPUs; AsyncLLM has a process of its
    own for the engine all the same. Binding threads is then up to the process's affinity.
    """
    return {
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(cpus_each),
    }


def engine_cores(index: int, cpus_each: int, allowed: Sequence[int]) -> list[int]:
    """The cores of engine `index` on a node where `allowed` may be used."""
    slots = max(1, len(allowed) // cpus_each)
    first = index % slots * cpus_each
    return sorted(allowed)[first : first + cpus_each]
