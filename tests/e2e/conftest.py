"""A finished tiny run that several tests read."""

import time

import pytest

from tests.e2e.command import TINY, engine_processes, start, wait_until


@pytest.fixture(scope="session")
def killed_and_resumed(tmp_path_factory):
    """A tiny run whose driver was killed after reveal and which `--resume` then finished.

    Returns (run directory, event log as it was when killed, processes that outlived the kill).
    """
    folder = tmp_path_factory.mktemp("runs")
    run, log = folder / "tiny", folder / "log.txt"
    before = engine_processes()
    driver = start(["run", str(TINY), "--run", str(run)], log)
    revealed = run / "reveal" / "manifest.json"
    wait_until(lambda: revealed.exists() or driver.poll() is not None, 400, log.read_text())
    assert revealed.exists(), log.read_text()[-3000:]
    driver.kill()
    driver.wait()
    events = (run / "reveal" / "events.jsonl").read_bytes()
    deadline = time.monotonic() + 60
    while engine_processes() - before and time.monotonic() < deadline:
        time.sleep(0.5)
    outlived = engine_processes() - before
    finished = start(["run", str(TINY), "--resume", str(run)], log)
    assert finished.wait(900) == 0, log.read_text()[-5000:]
    return run, events, outlived, log.read_text()
