"""Pulls a minute on the real model: the product's search, against INSTINCT's way of working.

`ours`: two one-core engines, four pulls in flight, the bandit beside them. `instinct`: one
instruction at a time, one batched `transformers.generate` over all its contexts on both cores,
then scores, then 1,000 Adam steps from the start. Same instructions' table, contexts, sampling,
token limit, number format, oracle, embedder and number of pulls. `ours` also kills one engine's
process when asked to, and reports which pulls were lost.

    python benchmarks/reveal_parts/search_speed.py ours FOLDER
    python benchmarks/reveal_parts/search_speed.py instinct FOLDER   (after `ours`, same folder)
    python benchmarks/reveal_parts/search_speed.py killed FOLDER     (after `ours`, same folder)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray

from rnr_dist.bench import Bench
from rnr_dist.config.file import load_config
from rnr_dist.config.schema import Config
from rnr_dist.reveal.instinct import Instinct
from rnr_dist.reveal.network import BanditSettings
from rnr_dist.reveal.pulls import pull_contexts
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.reveal.table import arm_table
from rnr_dist.run.directory import read_rows
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Arm

ROOT = Path(__file__).parents[2]
PULLS, WARM, CONTEXTS = 30, 6, 16


def configured() -> Config:
    overrides = {
        "reveal.outer_iterations": 1,
        "reveal.budget": PULLS + WARM,
        "reveal.arms": 256,
        "reveal.contexts_per_pull": CONTEXTS,
        "reveal.recheck": 0,
        "reveal.fill_per_context": 1,
        "task.challenging.limit.reveal": 40,
        "task.challenging.limit.train": 1,
    }
    settings = [f"{key}={value}" for key, value in overrides.items()]
    return load_config(ROOT / "configs" / "demo.yaml", settings)


def ours(folder: Path) -> dict[str, float]:
    config = configured()
    ends: list[float] = []
    task = make_task(config)
    with Bench(config, task.oracle) as bench:
        setting = Setting(bench, task, folder)
        arm_table(setting)
        heard = Listeners(on_pull=lambda number, figures: ends.append(time.perf_counter()))
        history = search(setting, heard)
        tokens = sum(
            len(row.token_ids) for row in _rows(folder, [pull.id for pull in history.pulls[WARM:]])
        )
    seconds = ends[-1] - ends[WARM - 1]
    pulls = len(ends) - WARM
    return {"pulls_a_minute": 60 * pulls / seconds, "tokens_a_second": tokens / seconds}


def _rows(folder: Path, names: list[str]) -> list:
    from rnr_dist.types import Sample

    wanted = set(names)
    paths = [path for path in (folder / "pulls").glob("*.parquet") if path.name[:5] != "fill-"]
    found = [row for path in paths for row in read_rows(path, Sample)]
    return [row for row in found if row.pull_id in wanted]


def instinct(folder: Path) -> dict[str, float]:
    """One after the other in this process, with all cores for whoever works."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rnr_dist.reveal.scoring import score_batch
    from rnr_dist.reveal.vendi import SecondMoment
    from rnr_dist.run.precision import compute_dtype
    from rnr_dist.score.oracles import make_oracle
    from rnr_dist.weights.checkpoints import resolve_embedder, resolve_model

    config = configured()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base = resolve_model(config.model)
    dtype = getattr(torch, compute_dtype(config.engines.dtype, on_gpu=False))
    model = AutoModelForCausalLM.from_pretrained(base.checkpoint, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(base.checkpoint, padding_side="left")
    oracle = make_oracle(config.task.oracle)
    embedder = SentenceTransformer(resolve_embedder(config.reveal.embedder))
    arms = read_rows(folder / "arms.parquet", Arm)
    bench: Any = SimpleNamespace(config=config, tokenizer=tokenizer)  # nothing is started
    setting = Setting(bench, make_task(config), folder)
    contexts = pull_contexts(setting, 0)[0]
    bandit = Instinct(
        np.load(folder / "features.npy"),
        seed=0,
        settings=BanditSettings(initial=config.reveal.initial),
    )
    sampling = config.reveal.response
    times, tokens = [], 0
    for _ in range(WARM + PULLS):
        began = time.perf_counter()
        if bandit.stale:
            bandit.train()
        arm = bandit.select()
        bandit.dispatch(arm)
        prompts = list(setting.asked(arms[arm].instruction, contexts).prompts)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=sampling.max_tokens,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                pad_token_id=tokenizer.pad_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        scores = oracle.score([context.text for context in contexts], texts)
        rows = embedder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        empty = SecondMoment(rows.shape[1])
        score, _ = score_batch(rows, float(np.mean(scores)), empty, 0.5, "union", 0.5)
        bandit.observe(arm, score)
        times.append(time.perf_counter() - began)
        tokens += int((new != tokenizer.pad_token_id).sum()) if len(times) > WARM else 0
    seconds = sum(times[WARM:])
    return {"pulls_a_minute": 60 * PULLS / seconds, "tokens_a_second": tokens / seconds}


def killed(folder: Path) -> dict[str, float]:
    """One real vLLM engine is killed in the middle of a search."""
    import psutil

    config = configured()
    again = folder / "killed"
    again.mkdir()
    for name in ("arms.parquet", "features.npy"):
        shutil.copy(folder / name, again / name)
    pulls: list[int] = []
    gone: list[int] = []

    def kill_one(number: int, figures: dict[str, float]) -> None:
        pulls.append(number)
        if number == 8:
            engines = [p for p in psutil.Process().children(recursive=True) if _is_engine(p)]
            gone.extend(p.pid for p in engines)
            threading.Timer(0.3, os.kill, (engines[0].pid, signal.SIGKILL)).start()

    task = make_task(config)
    with Bench(config, task.oracle) as bench:
        history = search(Setting(bench, task, again), Listeners(on_pull=kill_one))
        engines = [p.pid for p in psutil.Process().children(recursive=True) if _is_engine(p)]
    ray.shutdown()
    ids = [pull.id for pull in history.pulls]
    time.sleep(2)
    left = [pid for pid in {*gone, *engines} if psutil.pid_exists(pid)]
    expected = min(PULLS + WARM, len(read_rows(again / "arms.parquet", Arm)))
    return {
        "lost_pulls": expected - len(set(ids)),
        "repeated_pulls": len(ids) - len(set(ids)),
        "processes_left": len(left),
    }


def _is_engine(process) -> bool:
    import psutil

    try:
        return "EngineCore" in " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return False


if __name__ == "__main__":
    part = {"ours": ours, "instinct": instinct, "killed": killed}[sys.argv[1]]
    print(json.dumps(part(Path(sys.argv[2]))))
