"""Progress where there is no terminal: lines, and not too many."""

import time
from types import SimpleNamespace

from rnr_dist.run import progress


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(monkeypatch, capsys):
    seconds = iter([0, 10, 59, 61, 61, 70, 130, 130, 200, 201])
    clock = SimpleNamespace(monotonic=lambda: next(seconds), strftime=time.strftime)
    monkeypatch.setattr(progress, "time", clock)
    with progress.progress_bar("reading", 6) as advance:
        for done in range(1, 7):
            advance(done, f"best {done}")
    told = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "reading: 3 of 6 (best 3)",
        "reading: 5 of 6 (best 5)",
        "reading: 6 in 201 s (best 6)",
    ]


def test_what_ends_early_says_where(capsys):
    with progress.progress_bar("epochs", 20) as advance:
        advance(14, "EL 0.95")
    assert "epochs: 14 of 20 in 0 s (EL 0.95)" in capsys.readouterr().err
