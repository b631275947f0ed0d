"""Files in cluster/, by the schemas and linters of the tools that read them, and by the code."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from rnr_dist.config.file import load_config
from rnr_dist.machine.ending import GRACE_SECONDS
from rnr_dist.machine.placement import Node, generators_with_room, place

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCKERFILES = ("Dockerfile", "Dockerfile.cpu")
SHARED = "/opt/rnr/runs"  # what every node mounts


def content(name):
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def problems(schema, instance):
    return [
        error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(instance)
    ]


@pytest.fixture(scope="module")
def kuberay():
    """KubeRay's schema of a RayJob (tests/data/kuberay/trim.py)."""
    path = ROOT / "tests" / "data" / "kuberay" / "rayjob.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


# Schemas


def test_the_launcher_fits_rays_own_schema_and_checks():
    path = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    schema = json.loads(path.read_text(encoding="utf-8"))
    launcher = content("launcher.yaml")
    assert problems(schema, launcher) == []
    validate_config(prepare_config(copy.deepcopy(launcher)))
    assert problems(schema, {**launcher, "max_worker": 2}) != []


def test_the_rayjob_fits_kuberays_schema(kuberay):
    assert problems(kuberay, content("rayjob.yaml")) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "entrypoints"), "python"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "token-ish"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "4"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volume"), []),
    ],
)
def test_the_schema_sees_what_kuberay_would_refuse(kuberay, place, value):
    job = content("rayjob.yaml")
    *way, last = place
    section = job
    for step in way:
        section = section[step]
    section[last] = value
    assert problems(kuberay, job) != []


def test_pods_of_the_tracking_server_fit_kubernetes_schema(kuberay):
    """A RayJob's pods are Kubernetes' own, so its schema knows any other's too."""
    deployment, _ = tracking_server()
    cluster = kuberay["properties"]["spec"]["properties"]["rayClusterSpec"]
    pod = resolved(kuberay, resolved(kuberay, cluster)["properties"]["headGroupSpec"])
    template = {**pod["properties"]["template"], "$defs": kuberay["$defs"]}
    made = deployment["spec"]["template"]
    assert problems(template, {"spec": made["spec"]}) == []
    wrong = copy.deepcopy(made["spec"])
    wrong["containers"][0]["envsFrom"] = []
    assert problems(template, {"spec": wrong}) != []


def resolved(schema, part):
    """The part itself where it refers to a definition."""
    return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


# Images


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_pass_hadolint(name):
    beside = Path(sys.executable).with_name("hadolint")
    tool = str(beside) if beside.exists() else shutil.which("hadolint")
    assert tool, "found no hadolint; expected that of requirements/dev.txt"
    done = subprocess.run([tool, str(CLUSTER / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_hold_files_that_are_there_by_locks_that_are_there(name):
    text = (CLUSTER / name).read_text(encoding="utf-8").replace("\\\n", " ")
    copied = [
        source for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for source in line.split()
    ]
    assert {"requirements", "rnr_dist", "jobs", "configs", "pyproject.toml"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    locks = re.findall(r"requirements/(\w+)\.txt", text)
    locks += [
        lock for line in re.findall(r'^ARG LOCKS="(.+)"$', text, re.M) for lock in line.split()
    ]
    assert locks and all((ROOT / "requirements" / f"{lock}.txt").exists() for lock in locks)
    installs = re.findall(r"pip install .*", text)
    assert len(installs) == 2 and all("--no-deps" in line for line in installs)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nothing_in_an_image_runs_as_root(name):
    text = (CLUSTER / name).read_text(encoding="utf-8")
    made = re.search(r"useradd .*--uid (\d+) (\w+)", text)
    assert made
    [user] = re.findall(r"^USER (\d+)$", text, re.M)
    assert user == made[1] != "0"
    after = text[text.index(f"USER {user}") :]
    assert not re.search(r"^(RUN|COPY)", after, re.M)
    assert f"HOME=/home/{made[2]}" in after
    # The pods and the launcher's files are that user's.
    for pod in pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] and str(context["runAsUser"]) == user
    [target] = content("launcher.yaml")["file_mounts"]
    assert target.startswith(f"/home/{made[2]}/")


def pods():
    cluster = content("rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    deployment, _ = tracking_server()
    return [one["template"]["spec"] for one in (*groups, deployment["spec"])]


def test_the_image_brings_what_a_tracking_server_needs():
    lock = (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8")
    for name in ("mlflow", "psycopg-binary", "boto3"):
        assert re.search(rf"^{name}==", lock, re.M), name


# MLflow: never sqlite on storage that nodes share


def tracking_server():
    """(deployment, service) of cluster/mlflow.yaml."""
    text = (CLUSTER / "mlflow.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


def entrypoint():
    return shlex.split(content("rayjob.yaml")["spec"]["entrypoint"])


def settings():
    words = entrypoint()
    return [words[place + 1] for place, word in enumerate(words) if word == "--set"]


def test_the_rayjob_tracks_by_the_server_of_the_other_file():
    deployment, service = tracking_server()
    uri = dict(one.split("=", 1) for one in settings())["tracking.uri"]
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert uri == f"http://{name}:{port}"
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    known = {one["name"]: one["value"] for one in container["env"]}
    assert f"{name}:{port}" in known["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert f"--port={port}" in container["command"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    # Its passwords come from a Secret, and its files lie on no volume.
    assert container["envFrom"] == [{"secretRef": {"name": "rnr-mlflow"}}]
    assert "volumeMounts" not in container


def test_the_launchers_head_keeps_the_database_on_its_own_disk():
    launcher = content("launcher.yaml")
    [command] = [one for one in launcher["head_start_ray_commands"] if "mlflow server" in one]
    options = dict(word.lstrip("-").split("=", 1) for word in shlex.split(command) if "=" in word)
    mounted = [
        line.split()[1].split(":")[1]
        for line in launcher["docker"]["run_options"]
        if line.startswith("--volume")
    ]
    assert mounted == [SHARED]
    assert options["host"] == "127.0.0.1"
    assert options["backend-store-uri"].startswith("sqlite:////home/rnr/")
    assert options["artifacts-destination"].startswith(f"{SHARED}/")


def test_both_ways_name_a_tracking_server():
    """Left out, a run's records would be sqlite beside the runs, on the shared storage."""
    told = (CLUSTER / "README.md").read_text(encoding="utf-8")
    submits = re.findall(r"-- python jobs/rnr.py run(?:.*\\\n)+.*", told)
    assert submits
    for command in submits:
        assert "tracking.uri=http://127.0.0.1:5000" in command


def test_a_job_that_is_stopped_has_time_to_end_in_good_order():
    """Ray 2.60 kills after 3 s unless the job's environment says else."""
    given = int(content("runtime_env.yaml")["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])
    assert given > GRACE_SECONDS


# Placement and growth


def test_the_rayjobs_cluster_has_room_from_its_least_to_its_most():
    cluster = content("rayjob.yaml")["spec"]["rayClusterSpec"]
    [group] = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    [limits] = [one["resources"]["limits"] for one in group["template"]["spec"]["containers"]]
    worker = Node(float(limits["cpu"]), int(limits["nvidia.com/gpu"]))
    config = load_config("demo", [one for one in settings() if not one.startswith("tracking")])
    assert config.engines.most > config.engines.count
    place(config, [Node(8), *[worker] * group["minReplicas"]])
    most = generators_with_room(config, [Node(8), *[worker] * group["maxReplicas"]])
    assert most == config.engines.most


def test_the_launcher_may_grow_on_machines_that_may_go():
    worker = content("launcher.yaml")["available_node_types"]["gpu_worker"]
    assert 0 < worker["min_workers"] < worker["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
