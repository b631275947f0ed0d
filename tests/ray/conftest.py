"""One small Ray cluster for all tests of this folder; its workers import the package from here."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_cluster():
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        resources={"rnr_engine": 2},
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def process_group():
    """torch.distributed of this process alone, once: DeepSpeed keeps the first group it meets."""
    import os

    import torch

    os.environ["LOCAL_RANK"] = "0"
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    del os.environ["LOCAL_RANK"]
