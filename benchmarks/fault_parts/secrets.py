"""Secrets that are planted in the environment and in a tracking server's address, and looked for.

In: an empty folder. Out: how many files hold one. Invariant: a short run and a search of Ray Tune
end well first; run directory, MLflow's database, Ray's session folder and the terminal are read.

    python -m benchmarks.fault_parts.secrets    (as a file it would hide Python's own `secrets`)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "e2e" / "tiny.yaml"
MARK = "Planted7Qx"  # stands in each secret and nowhere else
SECRETS = {
    "HF_TOKEN": f"hf_{MARK}huggingface",
    "AWS_ACCESS_KEY_ID": f"AKIA{MARK}identity",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/aws+secret",
    "AWS_SESSION_TOKEN": f"{MARK}awsSession",
    "OPENAI_API_KEY": f"sk-{MARK}openai",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}mlflow",
}
# Nothing listens there: each line about the server is said, and all entries wait in the spool.
SERVER = f"http://anna:{MARK}uri@127.0.0.1:9/base?token={MARK}query"
LAUNCH = "from rnr_dist.commands.cli import main; main()"
SEARCH = """
import sys
from pathlib import Path
from rnr_dist.config.file import load_config
from rnr_dist.machine.cluster import ray_session
from rnr_dist.machine.trials import Search, run_trials

def trial(setting):
    from ray import tune
    tune.report({"done": 1})

with ray_session(load_config(sys.argv[1])):
    run_trials(trial, [1, 2], Search("planted", Path(sys.argv[2]), 1))
"""


def secrets_found(folder: Path) -> int:
    """Files below `folder`, with what was printed, that hold a planted secret.

    Raises RuntimeError where the run or the search failed, which would have left little to find.
    """
    run = folder / "runs" / "tiny"
    # Ray's sockets allow paths of 107 characters.
    with tempfile.TemporaryDirectory(prefix="rnr-s-") as scratch:
        settings = {**os.environ, **SECRETS, "TMPDIR": scratch, "PYTHONPATH": str(ROOT)}
        settings |= {"HF_HUB_OFFLINE": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        arguments = ["reveal", str(TINY), "--run", str(run), "--set", f"tracking.uri={SERVER}"]
        _do(["-c", LAUNCH, *arguments], settings, folder / "reveal.log")
        _do(["-c", SEARCH, str(TINY), str(folder / "tune")], settings, folder / "search.log")
        _deliver(folder, run)
        return len(holding([folder, Path(scratch)], MARK.encode()))


def holding(folders: Iterable[Path], secret: bytes) -> list[Path]:
    """Files below the folders whose bytes hold the secret; sockets and links are left out."""
    files = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [
        path
        for path in files
        if path.is_file() and not path.is_symlink() and secret in path.read_bytes()
    ]


def _do(arguments: list[str], settings: Mapping[str, str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, *arguments], env=settings, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise RuntimeError(
            f"exit code {done.returncode}: {log.read_text(encoding='utf-8')[-2000:]}"
        )


def _deliver(folder: Path, run: Path) -> None:
    """What waits in the spool, into a database of MLflow that is read like the rest."""
    from rnr_dist.run.tracking import Tracker, default_uri

    spool = run / "mlflow-spool.jsonl"
    waiting = spool.read_text(encoding="utf-8")
    Tracker(default_uri(folder), "rnr", spool).close()
    if not waiting or spool.read_text(encoding="utf-8"):
        raise RuntimeError(f"{spool}: {len(waiting)} characters waited; MLflow did not take them")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rnr-secrets-") as made:
        print(secrets_found(Path(made)))
