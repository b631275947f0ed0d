"""Programs that do what a program in the sandbox shall not, and how each of them ends.

Each defines `f`, which is asked for `f(7) == 4711` unless it brings a test of its own. `ends` says
the outcome in every layer; where a layer does not keep something off, `sees` says so.
"""

from dataclasses import dataclass

from rnr_dist.sandbox.verdicts import Outcome

ASKED = "assert f(7) == 4711"


@dataclass(frozen=True)
class Hostile:
    name: str
    program: str
    ends: Outcome
    test: str = ASKED


RAISED, FAILED, ENDED, PASSED = Outcome.RAISED, Outcome.FAILED, Outcome.ENDED, Outcome.PASSED
LATE, MEMORY = Outcome.TIMED_OUT, Outcome.OUT_OF_MEMORY

HOSTILE = (
    Hostile("endless loop", "def f(x):\n    while True:\n        pass", LATE),
    Hostile("sleeps", "import time\ndef f(x):\n    time.sleep(3600)", LATE),
    Hostile(
        "a handler of the limit's signal",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        LATE,
    ),
    Hostile("fork bomb", "import os\ndef f(x):\n    while True:\n        os.fork()", RAISED),
    Hostile(
        "a shell's fork bomb",
        "import subprocess\ndef f(x):\n    subprocess.run([':(){ :|:& };:'], shell=True)",
        RAISED,
    ),
    Hostile(
        "a process of multiprocessing",
        "import multiprocessing as m\ndef f(x):\n    m.Process(target=print).start()",
        RAISED,
    ),
    Hostile(
        "another program in its place",
        "import os, sys\ndef f(x):\n    os.execv(sys.executable, [sys.executable])",
        RAISED,
    ),
    Hostile("8 GB at once", "def f(x):\n    return len(bytearray(8 * 2**30))", MEMORY),
    Hostile(
        "8 GB bit by bit",
        "def f(x):\n    held = []\n    while True:\n        held.append(bytearray(2**26))",
        MEMORY,
    ),
    Hostile(
        "8 GB in shared memory",
        "import mmap\ndef f(x):\n    return len(mmap.mmap(-1, 8 * 2**30))",
        RAISED,
    ),
    Hostile(
        "disk fill",
        "def f(x):\n    for n in range(1000):\n        with open(f'/tmp/{n}', 'wb') as file:\n"
        "            file.write(bytes(2**20))",
        RAISED,
    ),
    Hostile(
        "one large file",
        "def f(x):\n    with open('/tmp/large', 'wb') as file:\n"
        "        for _ in range(1000):\n            file.write(bytes(2**20))",
        RAISED,
    ),
    Hostile("sockets", "import socket\ndef f(x):\n    return socket.socket()", RAISED),
    Hostile("a socket pair", "import socket\ndef f(x):\n    return socket.socketpair()", RAISED),
    Hostile(
        "a call over the network",
        "import urllib.request\ndef f(x):\n    return urllib.request.urlopen('http://127.0.0.1').read()",
        RAISED,
    ),
    Hostile(
        "its own environment",
        "import os\ndef f(x):\n    return sorted(os.environ)",
        PASSED,
        "assert set(f(7)) <= {'LC_CTYPE', 'PWD'}",
    ),
    Hostile(
        "other processes by /proc", "import os\ndef f(x):\n    return os.listdir('/proc')", RAISED
    ),
    Hostile(
        "the judge's memory by /proc",
        "import os\ndef f(x):\n    return open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
        RAISED,
    ),
    Hostile(
        "its parent's environment",
        "import os\ndef f(x):\n    return open(f'/proc/{os.getppid()}/environ').read()",
        RAISED,
    ),
    Hostile(
        "output flood",
        "def f(x):\n    for _ in range(200):\n        print('x' * 10**6)\n    return 1",
        FAILED,
    ),
    Hostile("a flood as its answer", "def f(x):\n    return 'x' * 10**7", Outcome.TOO_MUCH),
    Hostile(
        "a flood into every descriptor",
        "import os\ndef f(x):\n    while True:\n        for n in range(64):\n            try:\n"
        "                os.write(n, b'x' * 10000)\n"
        "            except OSError:\n                pass",
        Outcome.TOO_MUCH,
    ),
    Hostile("signal to the parent", "import os\ndef f(x):\n    os.kill(os.getppid(), 9)", RAISED),
    Hostile("signal to everyone", "import os\ndef f(x):\n    os.kill(-1, 9)", RAISED),
    Hostile("signal to its group", "import os\ndef f(x):\n    os.killpg(0, 9)", RAISED),
    Hostile("leaves its group", "import os\ndef f(x):\n    os.setsid()", RAISED),
    Hostile("exit 0 in the middle", "import os\ndef f(x):\n    os._exit(0)", ENDED),
    Hostile("exit 0 at loading", "import sys\nsys.exit(0)\ndef f(x):\n    return 4711", RAISED),
    Hostile("a crash", "import ctypes\ndef f(x):\n    ctypes.string_at(0)", ENDED),
    Hostile(
        "forged success on all descriptors",
        "import os\ndef f(x):\n    for n in range(64):\n        try:\n"
        '            os.write(n, b\'{"outcomes": ["passed"], "detail": "", "seconds": 0}\\n\')\n'
        "        except OSError:\n            pass\n    return 1",
        Outcome.UNPLAIN,
    ),
    Hostile(
        "says that the kernel refused it",
        "import os\nfor n in range(64):\n    try:\n"
        '        os.write(n, b\'["dict",[["refused","x"]]]\\n\')\n'
        "    except OSError:\n        pass\ndef f(x):\n    return 1",
        Outcome.UNPLAIN,
    ),
    Hostile(
        "ends the test's own loop",
        "def f(x):\n    raise StopIteration",
        RAISED,
        "for found, right in zip(map(f, [7, 8]), [1, 2]):\n    assert found == right",
    ),
    Hostile("forged success as output", "def f(x):\n    print('passed')\n    return 1", FAILED),
    Hostile(
        "answers before it is asked",
        "import os\nfor n in range(64):\n    try:\n"
        '        os.write(n, b\'["dict",[["value",true]]]\\n\' * 3)\n'
        "    except OSError:\n        pass\ndef f(x):\n    return 1",
        FAILED,
    ),
    Hostile(
        "thread left behind",
        "import threading, time\ndef f(x):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()",
        RAISED,
    ),
    Hostile(
        "ctypes: fork",
        "import ctypes\ndef f(x):\n    return ctypes.CDLL(None).fork()",
        PASSED,
        "assert f(7) == -1",
    ),
    Hostile(
        "ctypes: the filter taken off",
        "import ctypes, os\ndef f(x):\n    libc = ctypes.CDLL(None)\n"
        "    return [libc.prctl(22, 0, 0, 0, 0), libc.ptrace(16, os.getppid(), 0, 0)]",
        PASSED,
        "assert f(7) == [-1, -1]",
    ),
    Hostile(
        "its limits raised",
        "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
        RAISED,
    ),
    Hostile(
        "__builtins__: all classes",
        "def f(x):\n    kinds = ().__class__.__base__.__subclasses__()\n"
        "    found = [kind for kind in kinds if kind.__name__ == 'Popen']\n"
        "    popen = found or [__import__('subprocess').Popen]\n"
        "    return popen[0](['true']).wait()",
        RAISED,
    ),
    Hostile(
        "the answer looked up in memory",
        "import gc, sys\ndef f(x):\n    found = []\n    frame = sys._getframe()\n    while frame:\n"
        "        found += map(repr, [frame.f_locals, frame.f_globals, frame.f_code.co_consts])\n"
        "        frame = frame.f_back\n"
        "    found += [one for one in gc.get_objects() if isinstance(one, str)]\n"
        "    found += sys.argv\n    mark = ''.join(map(chr, (122, 120, 109)))\n"
        "    return 4711 if any(mark in text for text in found if text is not mark) else 0",
        FAILED,
        "assert f(7) == 4711  # zxm",
    ),
    Hostile(
        "builtins replaced",
        "import builtins\nbuiltins.AssertionError = None\nbuiltins.isinstance = lambda *a: True\n"
        "def f(x):\n    return 1",
        ENDED,
    ),
    Hostile(
        "assert by a patched class",
        "class AssertionError(BaseException):\n    pass\n"
        "import builtins\nbuiltins.AssertionError = AssertionError\ndef f(x):\n    return 1",
        FAILED,
    ),
    Hostile(
        "equal to everything",
        "class All:\n    def __eq__(self, other):\n        return True\n"
        "def f(x):\n    return All()",
        Outcome.UNPLAIN,
    ),
    Hostile(
        "a number equal to everything",
        "class All(int):\n    def __eq__(self, other):\n        return True\n"
        "def f(x):\n    return All(1)",
        FAILED,
    ),
    Hostile(
        "an iterator without end",
        "import itertools\ndef f(x):\n    return itertools.count()",
        Outcome.UNPLAIN,
    ),
    Hostile(
        "a value of a thousand levels",
        "def f(x):\n    found = []\n    for _ in range(1000):\n        found = [found]\n"
        "    return found",
        Outcome.UNPLAIN,
    ),
    Hostile(
        "a tracer that changes what others see",
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "def f(x):\n    return 1",
        FAILED,
    ),
    Hostile("no Python", "def f(x:\n    return 4711", Outcome.UNPARSED),
    Hostile("nothing", "", RAISED),
)
