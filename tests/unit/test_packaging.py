"""pyproject.toml, the locks and the cluster files say the same thing."""

import ast
import json
import re
import shlex
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BANNED = {"torchaudio", "torchcodec", "torchvision"}


# What a block of a lock looks like: a pin, and the hash of each of its files.
BLOCK = r"[a-z0-9-]+==[0-9][0-9a-z.]*(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"


def lock_lines(name: str) -> list[str]:
    """The pins of a lock, without their hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return [block.partition(" ")[0] for block in re.findall(BLOCK, text)]


def locked(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in lock_lines(name))


def cluster_yaml(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", ["cpu", "dev"])
def test_a_lock_holds_names_versions_and_hashes_and_nothing_else(name):
    assert re.fullmatch(f"(?:{BLOCK})+", (ROOT / "requirements" / f"{name}.txt").read_text())
    lines = lock_lines(name)
    assert len(lines) > 10 and lines == sorted(lines, key=lambda line: line.split("==")[0])


def test_each_package_is_locked_once_and_banned_ones_never():
    names = [line.split("==")[0] for line in lock_lines("cpu") + lock_lines("dev")]
    assert len(names) == len(set(names))
    assert BANNED.isdisjoint(names)


@pytest.mark.parametrize("group", ["dependencies", "cpu", "dev"])
def test_locks_satisfy_every_direct_requirement(group):
    versions = locked("cpu") | (locked("dev") if group == "dev" else {})
    direct = {"dependencies": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}[group]
    for text in direct:
        requirement = Requirement(text)
        found = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(found), f"{text}: locked {found}"


def test_every_import_is_a_declared_dependency():
    declared = {
        canonicalize_name(Requirement(text).name)
        for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["cpu"]
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
        if declared.isdisjoint(canonicalize_name(name) for name in providers.get(module, []))
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
    source = (ROOT / "rnr_dist" / "machine" / "cluster.py").read_text()
    assert '"rnr_engine"' in source


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
