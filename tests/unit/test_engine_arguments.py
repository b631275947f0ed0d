"""What engines and their actors are started with, on CPUs and on GPUs, and who has the room."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from pydantic import ValidationError

from rnr_dist.config.engines import Engines
from rnr_dist.config.schema import Config
from rnr_dist.errors import InputError
from rnr_dist.generate.actor import actor_options, cpu_environment, engine_cores
from rnr_dist.generate.engine import NUCLEUS, engine_arguments, sampling_arguments
from rnr_dist.machine.cluster import ENGINE_OVERHEAD_GIB, GIB, check_room
from rnr_dist.run import precision
from rnr_dist.types import SamplingSettings

ROOT = Path(__file__).parents[2]
SOURCE = {"source": "builtin:expository", "splits": {"final": 1}}


def config(**engines):
    task = {"challenging": SOURCE, "ordinary": SOURCE}
    task |= {"in_domain": [SOURCE], "out_of_domain": [SOURCE]}
    return Config(name="x", task=task, engines=engines)


# The engine


def test_cpu_engines_state_their_cache_and_bring_the_exact_nucleus():
    arguments = engine_arguments(Engines(kv_cache_gib=0.5), "/model", False)
    assert arguments["kv_cache_memory_bytes"] == 2**29
    assert arguments["distributed_executor_backend"] == "uni"
    assert arguments["logits_processors"] == [NUCLEUS]
    assert "gpu_memory_utilization" not in arguments  # on CPUs it would be taken of all RAM
    assert "tensor_parallel_size" not in arguments
    assert (arguments["model"], arguments["trust_remote_code"]) == ("/model", False)
    assert arguments["enable_prompt_embeds"]


def test_engines_compute_in_what_their_machine_computes_in(monkeypatch):
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx2"}))
    assert engine_arguments(Engines(), "/model", False)["dtype"] == "float32"
    assert engine_arguments(Engines(gpus_each=1), "/model", False)["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("gpus_each", "parallel", "memory"), [(1, 1, 0.9), (0.5, 1, 0.45), (4, 4, 0.9)]
)
def test_gpu_engines_share_a_gpu_or_span_several(gpus_each, parallel, memory):
    arguments = engine_arguments(Engines(gpus_each=gpus_each), "/model", False)
    assert arguments["tensor_parallel_size"] == parallel
    assert arguments["gpu_memory_utilization"] == memory
    assert "logits_processors" not in arguments
    # Else engines that start together count each other's memory.
    assert arguments.get("kv_cache_memory_bytes") == (2**29 if gpus_each < 1 else None)
    assert "distributed_executor_backend" not in arguments


@pytest.mark.parametrize("gpus_each", [1.5, 2.25])
def test_above_one_gpu_there_are_whole_ones(gpus_each):
    with pytest.raises(ValidationError, match=r"gpus_each: found .*expected a part of one GPU or"):
        Engines(gpus_each=gpus_each)


def test_batches_are_sized_for_gpus_unless_the_file_says_otherwise():
    plain, gpu = config(), config(gpus_each=1, count=4)
    assert (plain.engines.batch, plain.engines.max_num_seqs) == (64, 128)
    assert (gpu.engines.batch, gpu.engines.max_num_seqs) == (256, 1024)
    assert config(gpus_each=1, batch=32).engines.batch == 32
    content = {"name": "x", "task": {"name": "extraction"}, "workers": {"gpus_each": 1}}
    found = Config(**content, memorise={"training": {"micro_batch_tokens": 100}})
    assert found.memorise.training.micro_batch_tokens == 100
    assert found.memorise.training.parameters == "full"  # its own defaults stay
    assert found.methods.of("icu").training.micro_batch_tokens == 8192


def test_adapters_are_served_beside_the_base_where_asked():
    assert "enable_lora" not in engine_arguments(Engines(), "/model", False)
    arguments = engine_arguments(Engines(weights="lora", loras=3, lora_rank=32), "/m", False)
    assert arguments["enable_lora"]
    assert (arguments["max_loras"], arguments["max_lora_rank"]) == (3, 32)


def test_adapters_of_all_iterations_must_fit_the_engines():
    config(weights="lora", lora_rank=32)
    config(lora_rank=16)
    with pytest.raises(ValidationError, match=r"lora_rank 16: .* ranks that sum to 24"):
        config(weights="lora", lora_rank=16)


def test_settings_reach_the_engine_and_extra_ones_win():
    engines = Engines(
        max_model_len=77,
        max_num_seqs=5,
        dtype="float32",
        enforce_eager=False,
        extra={"seed": 3, "max_num_seqs": 6},
    )
    arguments = engine_arguments(engines, "/model", True)
    assert (arguments["max_model_len"], arguments["dtype"]) == (77, "float32")
    assert (arguments["enforce_eager"], arguments["trust_remote_code"]) == (False, True)
    assert (arguments["seed"], arguments["max_num_seqs"]) == (3, 6)


def test_the_nucleus_is_ours_on_cpus_and_the_engines_on_gpus():
    sampling = SamplingSettings(n=3, max_tokens=9, temperature=0.7, top_p=0.9)
    cpu, gpu = (sampling_arguments(sampling, on_gpu) for on_gpu in (False, True))
    assert (cpu["top_p"], cpu["extra_args"]) == (1.0, {"nucleus": 0.9})
    assert (gpu["top_p"], gpu["extra_args"]) == (0.9, None)
    for arguments in (cpu, gpu):
        assert (arguments["n"], arguments["max_tokens"]) == (3, 9)
        assert arguments["temperature"] == 0.7


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 0.9), (1.0, 1.0)])
def test_greedy_and_full_sampling_need_no_nucleus(on_gpu, temperature, top_p):
    sampling = SamplingSettings(temperature=temperature, top_p=top_p)
    assert sampling_arguments(sampling, on_gpu)["extra_args"] is None


# The actor


def test_cpu_actors_hold_a_slot_and_no_cpus():
    options = actor_options(Engines(count=3, cpus_each=2, max_restarts=5))
    assert (options["num_cpus"], options["resources"]) == (0, {"rnr_engine": 1})
    assert options["max_restarts"] == 5
    assert "num_gpus" not in options
    # An environment of Ray's would cost each actor a process that was not started beforehand.
    assert "runtime_env" not in options
    assert cpu_environment(2)["CUDA_VISIBLE_DEVICES"] == ""


def test_engines_of_a_node_have_cores_of_their_own():
    assert [engine_cores(i, 2, range(6)) for i in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert engine_cores(1, 1, [4, 7]) == [7]  # a container that may use other cores than the first
    assert engine_cores(3, 1, [0, 1]) == [1]  # the second engine of a cluster's second node


@pytest.mark.parametrize("gpus_each", [0.5, 1, 2])
def test_gpu_actors_hold_their_gpus(gpus_each):
    options = actor_options(Engines(gpus_each=gpus_each))
    assert (options["num_gpus"], options["num_cpus"]) == (gpus_each, 0)
    assert "resources" not in options
    assert "runtime_env" not in options  # Ray says which GPUs it may see


def test_actors_take_more_calls_than_one_engine_may_hold():
    assert actor_options(Engines(in_flight=2))["max_concurrency"] > 2


# A package with vLLM's names, whose engine is dead as soon as it is asked for anything.
FAKE_VLLM = {
    "vllm/__init__.py": """
class AsyncEngineArgs:
    def __init__(self, **arguments): pass
class SamplingParams(AsyncEngineArgs): pass
""",
    "vllm/inputs.py": "EmbedsPrompt = TokensPrompt = dict\n",
    "vllm/sampling_params.py": "class RequestOutputKind:\n    FINAL_ONLY = 0\n",
    "vllm/v1/__init__.py": "",
    "vllm/v1/engine/__init__.py": "",
    "vllm/v1/engine/exceptions.py": "class EngineDeadError(Exception): pass\n",
    "vllm/v1/engine/async_llm.py": """
from vllm.v1.engine.exceptions import EngineDeadError
class AsyncLLM:
    @classmethod
    def from_engine_args(cls, arguments): return cls()
    def get_tokenizer(self): return None
    async def generate(self, *arguments, **named):
        raise EngineDeadError
        yield
    async def collective_rpc(self, *arguments, **named): raise EngineDeadError
""",
}
ASK = """
import asyncio, sys
from rnr_dist.weights import checkpoints
checkpoints.require_content = lambda model: None  # there is no checkpoint
from rnr_dist.config.engines import Engines
from rnr_dist.generate.actor import Generator
from rnr_dist.generate.requests import Generate
from rnr_dist.types import ModelRef, SamplingSettings
base = ModelRef("/base", "base")
generator = Generator(Engines(backend="vllm"), base, 0)
request = Generate(SamplingSettings(), (1,))
call = {"run": generator.run([request], base.digest), "load": generator.load(base)}[sys.argv[1]]
try:
    asyncio.run(call)
finally:
    print("still here")
"""


@pytest.mark.parametrize("call", ["run", "load"])
def test_an_actor_whose_engine_is_dead_ends_so_that_ray_starts_another(tmp_path, call):
    ended = with_fake_vllm(tmp_path, FAKE_VLLM, ASK, call)
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert "Traceback" not in ended.stderr


def with_fake_vllm(folder, files, code, *arguments):
    """Runs the code where these files are vLLM."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )


ON_GPU = """
import os
from rnr_dist.weights import checkpoints
checkpoints.require_content = lambda model: None  # there is no checkpoint
from rnr_dist.config.engines import Engines
from rnr_dist.generate.actor import Generator
from rnr_dist.types import ModelRef
Generator(Engines(backend="vllm", gpus_each=1), ModelRef("/base", "base"), 0)
print(os.environ["VLLM_USE_FLASHINFER_SAMPLER"], os.environ.get("CUDA_VISIBLE_DEVICES"))
"""


def test_engines_on_gpus_compile_no_sampler(tmp_path):
    ended = with_fake_vllm(tmp_path, FAKE_VLLM, ON_GPU)
    assert ended.stdout == "0 None\n", ended.stderr


FAILS = """
import asyncio, os, stat, sys, tempfile
from rnr_dist.weights import checkpoints
checkpoints.require_content = lambda model: None  # there is no checkpoint
from rnr_dist.config.engines import Engines
from rnr_dist.generate.actor import Generator
from rnr_dist.types import ModelRef
generator = Generator(Engines(backend="vllm"), ModelRef("/base", "base"), 0)
sockets = os.environ["VLLM_RPC_BASE_PATH"]
assert os.path.dirname(sockets) == tempfile.gettempdir()
assert stat.S_IMODE(os.stat(sockets).st_mode) == 0o700
try:
    asyncio.run(generator.ready())
except ValueError as error:
    print("told:", error)
asyncio.run(generator.shutdown())
assert not os.path.exists(sockets)
"""


def test_an_engine_that_cannot_start_tells_why_when_it_is_asked(tmp_path):
    """Raised while the actor is made, Ray would hand it on as a text of pages."""
    broken = FAKE_VLLM | {
        "vllm/v1/engine/async_llm.py": """
class AsyncLLM:
    @classmethod
    def from_engine_args(cls, arguments): raise ValueError("no memory for the cache")
"""
    }
    ended = with_fake_vllm(tmp_path, broken, FAILS)
    assert (ended.returncode, ended.stdout) == (0, "told: no memory for the cache\n"), ended.stderr


# Room


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many cores, GiB and GPUs."""

    def of(cores=4, gib=64.0, gpus=0):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        free = SimpleNamespace(available=int(gib * GIB))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return of


def test_cpu_engines_need_cores_of_their_own(machine):
    machine(cores=4)
    check_room(config(count=2, cpus_each=2), 0)
    with pytest.raises(InputError, match=r"engines\.count: found 3 .* has 4 core.* at most 2"):
        check_room(config(count=3, cpus_each=2), 0)


def test_cpu_engines_need_memory_for_weights_cache_and_overhead(machine):
    weights = int(0.4 * GIB)
    each = 0.4 + 1.0 + ENGINE_OVERHEAD_GIB
    machine(cores=8, gib=2 * each + 0.1)
    check_room(config(count=2, kv_cache_gib=1), weights)
    with pytest.raises(InputError, match=r"engines\.count: found 3 .*GiB free; expected at most 2"):
        check_room(config(count=3, kv_cache_gib=1), weights)
    with pytest.raises(InputError, match="at most 1"):
        check_room(config(count=2, kv_cache_gib=3), weights)


def test_gpu_engines_need_gpus_and_no_cores(machine):
    machine(cores=2, gib=0.1, gpus=2)  # the cores are those of a training
    check_room(config(count=2, gpus_each=1), 0)
    check_room(config(count=4, gpus_each=0.5), 0)
    with pytest.raises(InputError, match=r"found 5 generators of 0\.5 GPU.*2 GPU.*at most 4"):
        check_room(config(count=5, gpus_each=0.5), 0)
    machine(gpus=0)
    with pytest.raises(InputError, match=r"has 0 GPU"):
        check_room(config(count=1, gpus_each=1), 0)


def test_a_cluster_has_other_machines_than_this_one(machine, monkeypatch):
    machine(cores=1, gib=0.1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_room(config(count=8, cpus_each=4), 0)
    check_room(config(count=8, gpus_each=1), 0)
