"""A finished tiny run that several tests read."""

import time

import pytest

from tests.e2e.command import TINY, alive, engines_of, start, wait_until


@pytest.fixture(scope="session")
def killed_and_resumed(tmp_path_factory):
    """A tiny run whose driver was killed after reveal; `baselines --resume` then did all the rest.

    Returns (run directory, event log as it was when killed, engines of the second run, its log).
    Engines that outlive the killed driver fail it.
    """
    folder = tmp_path_factory.mktemp("runs")
    run, log = folder / "tiny", folder / "log.txt"
    driver = start(["run", str(TINY), "--run", str(run)], log)
    revealed = run / "reveal" / "manifest.json"
    wait_until(lambda: revealed.exists() or driver.poll() is not None, 700, log.read_text())
    assert revealed.exists(), log.read_text()[-3000:]
    engines = engines_of(driver.pid)
    assert engines
    driver.kill()
    driver.wait()
    events = (run / "reveal" / "events.jsonl").read_bytes()
    wait_until(lambda: not alive(engines), 60, "engines outlive their killed driver")
    resumed = start(["baselines", str(TINY), "--resume", str(run)], log)
    engines = []
    while resumed.poll() is None:
        engines = engines_of(resumed.pid) or engines
        time.sleep(2)
    assert resumed.returncode == 0, log.read_text()[-5000:]
    return run, events, engines, log.read_text()
