"""MLflow's server as cluster/README.md starts it, and what a run's records become there."""

import urllib.error
import urllib.request

import pytest

from rnr_dist.run.tracking import Tracker
from tests.services import servers
from tests.services.conftest import BUCKET

pytestmark = pytest.mark.timeout(300)


def delivered(address, folder, name):
    """A run of that name with a figure and a file, told to the server."""
    folder.mkdir()
    kept = folder / f"{name}.txt"
    kept.write_text(f"what {name} found", encoding="utf-8")
    tracker = Tracker(address, "servers", folder / "mlflow-spool.jsonl")
    with tracker.parent(name, {"seed": 3}):
        tracker.metrics({"result/toxic": 0.25})
        tracker.exhibit(kept)
    tracker.close()
    spool = folder / "mlflow-spool.jsonl"
    assert not spool.exists() or not spool.read_bytes()


FIGURES = """select m.value, p.value from runs r join metrics m using (run_uuid)
    join params p using (run_uuid) where r.name = '{}' and m.key = 'result/toxic'"""


def test_records_go_to_postgresql_and_files_to_s3(tracking, database, store, tmp_path):
    delivered(tracking, tmp_path / "run", "stored")
    assert database.ask(FIGURES.format("stored")) == [(0.25, "3")]
    [key] = [key for key in store.keys(BUCKET) if key.endswith("/stored.txt")]
    kept = store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert kept == b"what stored found"


def test_files_go_to_a_shared_folder_where_the_server_has_one(database, tmp_path):
    shared = tmp_path / "shared"
    with servers.mlflow(database, str(shared)) as address:
        delivered(address, tmp_path / "run", "shared")
    assert database.ask(FIGURES.format("shared")) == [(0.25, "3")]
    [kept] = shared.rglob("shared.txt")
    assert kept.read_text(encoding="utf-8") == "what shared found"


def status(address, host):
    asked = urllib.request.Request(f"{address}/ajax-api/2.0/mlflow/experiments/get?experiment_id=0")
    asked.add_header("Host", host)
    try:
        return urllib.request.urlopen(asked).status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_the_server_answers_to_its_name_in_the_cluster_and_to_no_other(tracking):
    """A page of another site could use it through somebody's browser."""
    assert status(tracking, "rnr-mlflow:5000") == 200
    assert status(tracking, "elsewhere.example") == 403
