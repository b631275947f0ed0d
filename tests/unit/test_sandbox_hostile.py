"""Hostile programs in the sandbox, for real: each is held, gets its verdict, leaves nothing behind.

They run in the best layer that this machine has, and in the layer `process`, which every Linux has.
"""

import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rnr_dist.sandbox.layers import namespaces_layer, process_layer, strongest
from rnr_dist.sandbox.runner import Sandbox
from rnr_dist.sandbox.verdicts import Check, Limits, Outcome
from tests.unit.hostile import HOSTILE, Hostile

# Without a filter a fork bomb would be one: the test of the layers then says what is missing.
LAYERS = {layer.name: layer for layer in (strongest(), process_layer()) if layer.filter}
# One second of CPU, which a busy machine may take a while to give.
LIMITS = Limits(cpu=1, wall=15.0)
HURRIED = Limits(cpu=1, wall=0.5)  # for a program that takes no CPU


def left_behind() -> list[psutil.Process]:
    """Processes of this one that are still there after a moment, also ended ones that keep their
    numbers: who checks inherits what a judge leaves."""
    until = time.monotonic() + 5
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < until:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: one.name)
def test_a_hostile_program_is_held(hostile: Hostile, layer):
    limits = HURRIED if hostile.name == "sleeps" else LIMITS
    before = sorted(Path(tempfile.gettempdir()).glob("rnr-check*"))
    verdict = Sandbox(layer).check(Check(hostile.program, (hostile.test,)), limits)
    assert verdict.outcome is hostile.ends, verdict.detail
    assert not left_behind()
    assert sorted(Path(tempfile.gettempdir()).glob("rnr-check*")) == before


def test_the_layers_under_test_hold_what_they_say():
    """Without namespaces here, the other layer is what runs, and nothing claims more."""
    assert process_layer().filter, "libseccomp is missing here"
    found, why = namespaces_layer()
    assert set(LAYERS) == {"process"} | ({"namespaces"} if found else set())
    assert (found is None) == bool(why)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
def test_files_outside_are_neither_read_nor_written(layer, tmp_path, monkeypatch):
    secret, target = tmp_path / "secret.txt", tmp_path / "made.txt"
    secret.write_text("4711", encoding="utf-8")
    program = (
        f"def read(x):\n    return open({str(secret)!r}).read()\n"
        f"def listed(x):\n    import os\n    return os.listdir({str(tmp_path)!r})\n"
        f"def make(x):\n    return open({str(target)!r}, 'w').write('x')\n"
        f"def change(x):\n    return open({str(secret)!r}, 'a').write('x')\n"
        f"def remove(x):\n    import os\n    return os.remove({str(secret)!r})\n"
        f"def project(x):\n    return open({__file__!r}).read()\n"
        f"def home(x):\n    import os\n    return os.listdir({str(Path.home())!r})\n"
    )
    seen = Outcome.PASSED if layer.name == "process" and not layer.landlock else Outcome.RAISED
    held = Outcome.PASSED if layer.name == "process" and not layer.filter else Outcome.RAISED
    names = ("read", "listed", "make", "change", "remove", "project")
    verdict = Sandbox(layer, LIMITS).check(Check(program, tuple(f"{n}(7)" for n in names)))
    assert verdict.outcomes == (seen, seen, held, held, held, seen), verdict.detail
    assert secret.read_text(encoding="utf-8") == "4711" and not target.exists()
    home = Sandbox(layer, LIMITS).check(Check(program, ("assert not set(home(7)) - {'.pyenv'}",)))
    # Python itself may live there, in namespaces alone in a home.
    assert not home.passed or layer.name == "namespaces"


@pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
def test_the_environment_of_the_caller_is_not_there(layer, monkeypatch):
    monkeypatch.setenv("RNR_SECRET", "4711")
    program = (
        "import os, ctypes\ndef f(x):\n    return os.environ.get('RNR_SECRET')\n"
        "def g(x):\n    get = ctypes.CDLL(None).getenv\n    get.restype = ctypes.c_char_p\n"
        "    return get(b'RNR_SECRET')"
    )
    verdict = Sandbox(layer, LIMITS).check(Check(program, ("assert f(7) is g(7) is None",)))
    assert verdict.passed, verdict.detail


def test_a_private_folder_is_there_in_namespaces_and_gone_afterwards():
    program = (
        "import os\ndef f(x):\n    with open('note', 'w') as file:\n        file.write('4711')\n"
        "    return os.getcwd(), sorted(os.listdir('.'))"
    )
    layer = strongest()
    sandbox = Sandbox(layer, LIMITS)
    expected = Outcome.PASSED if layer.name == "namespaces" else Outcome.RAISED
    for _ in range(2):  # the second finds none of the first
        verdict = sandbox.check(Check(program, ("assert f(7) == ('/tmp', ['note'])",)))
        assert verdict.outcome is expected, verdict.detail
    assert not Path("/tmp/note").exists()
