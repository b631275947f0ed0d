"""Generators between a minimum and a maximum on a cluster that Ray's own autoscaler sizes.

Its provider of nodes starts them on this machine, as raylets of their own; generators only pretend
to generate. Everything between is real: the pool, its scaler, Ray's demand and its autoscaler.
"""

import asyncio
import json
import subprocess
import sys
import time

import pytest

from rnr_dist.config.file import load_config
from rnr_dist.generate.requests import Generate, Response
from rnr_dist.types import ModelRef, SamplingSettings
from tests.nodes import ROOT, Nodes

pytestmark = pytest.mark.timeout(240)
# As Ray's provider for one machine calls its head.
HEAD, HEAD_ID = "ray.head.default", "f" * 51 + "00000"
BASE = ModelRef("/simulated", "simulated")
SETTINGS = ["engines.count=1", "engines.most=3", "engines.idle_seconds=3", "engines.in_flight=1"]
SETTINGS += ["engines.batch=1", "workers.cpus_each=1"]


class Simulated:
    """Half a second for a batch."""

    def __init__(self, engines, base, number, trusted=False):
        self._digest = base.digest

    async def ready(self):
        return [self._digest]

    async def load(self, model):
        raise AssertionError("one model only")

    async def run(self, requests, model):
        await asyncio.sleep(0.5)
        return [Response(model, log_likelihoods=(float(one.token_ids[0]),)) for one in requests]

    async def shutdown(self):
        pass


def drive() -> None:
    """A driver: work for a while, then none. Prints what the pool and the cluster came to."""
    import ray

    from rnr_dist.generate.cluster_pool import generator_pool
    from rnr_dist.machine.cluster import joined_nodes

    ray.init(log_to_driver=False, logging_level="ERROR")

    def count():
        return sum(node.engines > 0 for node in joined_nodes())

    config = load_config("demo", SETTINGS)
    with generator_pool(config, BASE, Simulated) as pool:
        found = {"nodes at first": count()}
        asked = [Generate(SamplingSettings(n=1), (number,)) for number in range(200)]
        answers = pool.submit(BASE, asked)
        most = 0
        while not ray.wait([answers], timeout=1)[0]:
            most = max(most, count())
        found["nodes at most"] = most
        found["answered"] = [int(one.log_likelihoods[0]) for one in ray.get(answers)]
        deadline = time.monotonic() + 90
        while count() > 1 and time.monotonic() < deadline:
            time.sleep(1)
        found["nodes in the end"] = count()
        # What is left still answers.
        found["afterwards"] = len(ray.get(pool.submit(BASE, asked[:3])))
    print(json.dumps(found))


def autoscaler(folder, gcs):
    """Ray's settings for nodes on this machine: one with a place always, up to three."""
    worker = {"CPU": 1, "rnr_engine": 1}
    types = {
        HEAD: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "min_workers": 1, "max_workers": 3},
    }
    provider = {"type": "fake_multinode", "gcs_address": gcs, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    commands = ("initialization", "setup", "head_setup", "worker_setup")
    content = {
        "cluster_name": "here",
        "max_workers": 3,
        "idle_timeout_minutes": 0.1,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": HEAD,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        **{f"{name}_commands": [] for name in commands},
    }
    path = folder / "autoscaler.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_pool_and_its_cluster_grow_with_work_and_shrink_without(tmp_path):
    local = {"RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    with Nodes(tmp_path, **local, AUTOSCALER_UPDATE_INTERVAL_S="1") as nodes:
        nodes.head(f"--autoscaling-config={autoscaler(tmp_path, nodes.address)}", cpus=1)
        nodes.wait_for_jobs()
        code = "from tests.services.test_autoscaling import drive; drive()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**nodes.environment, "RAY_ADDRESS": nodes.address},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes at first"] == 1
    assert found["nodes at most"] == 3
    assert found["answered"] == list(range(200))
    assert found["nodes in the end"] == 1
    assert found["afterwards"] == 3
