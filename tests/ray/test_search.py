"""The search with real actors around a pretended engine: killed generators and bandits."""

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import ray

from rnr_dist.config.file import load_config
from rnr_dist.generate.cluster_pool import generator_pool
from rnr_dist.generate.requests import Continuation, Response
from rnr_dist.reveal.bandit_actor import remote_bandit
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.run.directory import write_rows
from rnr_dist.score.actors import OracleActor, Scorer
from rnr_dist.types import Arm, ModelRef, Split
from tests.unit.fakes import FakeBench, FakeTask, contexts

pytestmark = pytest.mark.usefixtures("ray_cluster")

BASE = ModelRef("/model", "digest")
ARMS, BUDGET = 60, 24


class SlowGenerator:
    """Answers after a moment, as an engine does."""

    def __init__(self, engines, base, index, trust_remote_code=False):
        self._digest = base.digest

    async def ready(self):
        return [self._digest]

    async def load(self, model):
        self._digest = model.digest
        return [self._digest]

    async def run(self, requests, model):
        await asyncio.sleep(0.15)
        texts = [f"answer {hash(request.token_ids) % 1000}" for request in requests]
        return [Response(model, (Continuation((1, 2), text, "stop"),)) for text in texts]

    async def process(self):
        return os.getpid()

    async def shutdown(self):
        pass


class LetterEmbedder:
    def embed(self, texts):
        rows = [[1 + text.count(letter) for letter in "0123456789"] for text in texts]
        return np.asarray(rows, dtype=np.float32)


def test_killed_generators_and_bandits_lose_no_pull_and_repeat_none(tmp_path):
    root = Path(__file__).parents[2]
    config = load_config(
        root / "configs" / "demo.yaml",
        ["reveal.outer_iterations=1", f"reveal.budget={BUDGET}", f"reveal.arms={ARMS}",
         "reveal.in_flight=4", "reveal.training_steps=20", "reveal.min_relevance=0",
         "engines.max_restarts=10"],
    )  # fmt: skip
    write_rows(tmp_path / "arms.parquet", [Arm(i, (0.0,), f"say {i}") for i in range(ARMS)])
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(ARMS, 8)))
    handles = []

    @contextlib.contextmanager
    def observed(*arguments):
        with remote_bandit(*arguments) as bandit:
            handles.append(bandit)
            yield bandit

    def kill(number, figures):
        """A generator after the 6th pull, the bandit after the 12th, both after the 18th."""
        doomed = []
        if number in (6, 18):
            doomed.append(ray.get(pool.generators[number // 18].process.remote()))
        if number in (12, 18):
            doomed.append(ray.get(handles[-1].actor.process.remote()))
        for process in doomed:
            os.kill(process, signal.SIGKILL)

    with generator_pool(config, BASE, SlowGenerator) as pool:
        scorer = Scorer(
            ray.remote(OracleActor).options(num_cpus=0).remote("profanity"),
            ray.remote(LetterEmbedder).options(num_cpus=0).remote(),
            "profanity",
        )
        bench = FakeBench(config, pool, scorer, base=BASE)
        given = [*contexts(Split.REVEAL, 20), *contexts(Split.TRAIN, 2)]
        setting = Setting(bench, FakeTask(given=given), tmp_path)
        # `kill` blocks on Ray, which an event loop's own thread may not.
        heard = Listeners(on_pull=lambda n, f: threading.Thread(target=kill, args=(n, f)).start())
        history = search(setting, heard, observed)
    assert len(handles) == 3
    ids = [pull.id for pull in history.pulls]
    assert len(set(ids)) == len(ids) == BUDGET
    assert len(history.fills) == 1
