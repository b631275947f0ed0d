"""Drivers that are told to end, or lose their node, on real Ray: beside another session here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from rnr_dist.errors import InputError
from rnr_dist.machine import actors
from rnr_dist.machine.actors import POLL_SECONDS
from rnr_dist.reveal.arms import ArmTable
from rnr_dist.reveal.instructions import FeatureReader, arm_features
from rnr_dist.reveal.table import read_features
from rnr_dist.run.scratch import PREFIX
from rnr_dist.score.actors import start_scorer

ROOT = Path(__file__).parents[2]
GO_ON = "go on with: rnr run config.yaml --resume mine"
# A command that has made three searches, and is in the midst of a fourth or of a training.
COMMAND = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import ray
from rnr_dist.commands import cli
from rnr_dist.machine.cluster import ray_session
from rnr_dist.machine.ending import going_on
from rnr_dist.run.scratch import Scratch
from rnr_dist.machine.trials import Search, run_trials

def search(name, seconds):
    def trial(setting):
        import time
        from ray import tune
        time.sleep(setting["given"])
        tune.report({"done": 1})
    run_trials(trial, [seconds], Search(name, Path("tune"), 1))

def command(*arguments, **named):
    with going_on("rnr", "run", "config.yaml", "--resume", "mine"):
        with ray_session(SimpleNamespace(engine_slots=1)):
            before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            for name in "abc":
                search(name, 0)
            assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
            holder = ray.remote(Scratch).options(num_cpus=0).remote()  # as an engine has one
            ray.get(holder.__ray_ready__.remote())
            assert list(Path.cwd().glob("rnr-scratch-*"))
            Path("begun").touch()
            search("d", 600)
            Path("returned").touch()

cli.app = command
cli.main()
"""
ENDINGS = {
    "SIGINT": (lambda driver: driver.send_signal(signal.SIGINT), 130),
    "SIGTERM": (lambda driver: driver.send_signal(signal.SIGTERM), 143),
    "killed raylet": (lambda driver: killed(driver, "raylet"), 1),
}


def killed(driver, name):
    for process in psutil.Process(driver.pid).children():
        if process.name() == name:
            process.kill()


@pytest.fixture(scope="module")
def ended(ray_cluster, tmp_path_factory):
    """By ending: (exit code, seconds, what it told, its processes, its folder). All at once."""
    drivers = {}
    for name in ENDINGS:
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        environment["RAY_TMPDIR"] = "/tmp"  # Ray's sockets may not have long paths
        command = [sys.executable, "-c", COMMAND]
        with (folder / "log.txt").open("w") as log:
            driver = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Tests may run where it is ignored, as in a shell's background job.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        (folder / "driver").write_text(str(driver.pid), encoding="utf-8")
        drivers[name] = driver, folder
    found = {}
    for name, (driver, folder) in drivers.items():
        deadline = time.monotonic() + 120
        while not (folder / "begun").exists():
            assert driver.poll() is None and time.monotonic() < deadline, told(folder)
            time.sleep(0.1)
        processes = psutil.Process(driver.pid).children(recursive=True)
        end, _ = ENDINGS[name]
        began = time.monotonic()
        end(driver)
        code = driver.wait(60)
        found[name] = code, time.monotonic() - began, told(folder), processes, folder
    return found


def told(folder):
    return (folder / "log.txt").read_text()


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_ending_is_enough_and_leaves_nothing(ended, ending):
    code, seconds, text, processes, folder = ended[ending]
    assert code == ENDINGS[ending][1], text
    assert seconds < 15
    assert GO_ON in " ".join(text.split())
    assert "Traceback" not in text and "stack" not in text
    assert not (folder / "returned").exists(), "an interrupted search returned as if it were done"
    assert len(processes) > 3
    assert not [process for process in processes if alive(process)]
    assert not list(folder.glob(f"{PREFIX}*"))
    driver = (folder / "driver").read_text(encoding="utf-8")
    left = Path("/tmp").glob(f"rnr-ray-{os.getuid()}/ray/session_*_{driver}/*")
    # Of a session that failed the logs, to be read; no socket, no other file.
    assert [path.name for path in left] == (["logs"] if ending == "killed raylet" else [])


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_lost_node_is_named(ended):
    assert ended["killed raylet"][2].count("on this machine has ended") == 1


def test_a_session_beside_them_lives_on(ended, ray_cluster):
    import ray

    assert ray.get(ray.remote(lambda: 7).options(num_cpus=0).remote()) == 7


# Actors


def test_an_actor_that_cannot_be_loaded_tells_the_sentence_that_was_raised(ray_cluster):
    from rnr_dist.score.oracles import make_oracle

    with pytest.raises(InputError) as here:
        make_oracle("nowhere")
    with pytest.raises(InputError) as there:
        start_scorer("nowhere")
    assert str(there.value) == str(here.value)


def test_a_killed_scoring_process_is_waited_for(ray_cluster):
    import ray

    scorer = start_scorer("lexicon")
    before = scorer.score(["a"], ["you fool"])
    pid = ray.get(scorer._oracle.__ray_call__.remote(lambda actor: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert (scorer.score(["a"], ["you fool"]) == before).all()
    assert time.monotonic() - began > POLL_SECONDS / 2
    ray.kill(scorer._oracle)


def test_features_of_arms_wait_for_a_gpu_not_without_end(ray_cluster, tiny_llama, tmp_path):
    """And are those of a process of their own where there is room."""
    arms = ArmTable(3, 2, soft_tokens=2, hidden=32, seed=0, scale_std=0.1)
    reader = FeatureReader(str(tiny_llama(tmp_path / "model")), "float32", False)
    given = (reader, arms, [2, 0], (5, 6), [(7, 8)] * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "START_SECONDS", 3.0)
        sentence = r"^features of arms, for which workers\.gpus_each asks 1: did not start within"
        with pytest.raises(InputError, match=sentence):
            read_features(1, *given)
    np.testing.assert_allclose(read_features(0, *given), arm_features(*given), atol=1e-5)
