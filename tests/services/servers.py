"""Real servers on this machine for as long as a test needs them: PostgreSQL, S3, MLflow.

S3 is OpenStack Swift with its S3 interface: a store that data centres run, from Debian's packages
(its rclone is older than `serve s3`; MinIO, Garage and SeaweedFS are not there).
Each server listens on loopback alone, on a free port, and its data goes with it.
"""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.nodes import ROOT, free_port

START_SECONDS = 120
ENDING_SECONDS = 20


@contextlib.contextmanager
def own_folder(prefix, user=None):
    """A folder in /tmp, which `user` can reach where pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        if user:
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serving(command, ready, log, **options):
    """The command, once `ready()`; ended with the block."""
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            told = f"{command[0]} does not serve: {log.read_text(errors='replace')[-3000:]}"
            assert server.poll() is None and time.monotonic() < deadline, told
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def speaks(port):
    """Whether somebody answers there by HTTP."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


# PostgreSQL


@dataclass(frozen=True)
class Database:
    """address: as MLflow takes it, with the password."""

    address: str

    def ask(self, query):
        """The rows of a query, by a client that knows nothing of MLflow."""
        import psycopg

        with psycopg.connect(self.address.replace("+psycopg", "")) as connection:
            return connection.execute(query).fetchall()


@contextlib.contextmanager
def postgres():
    """PostgreSQL of Debian's package, by the user `postgres`: it refuses root."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert binaries, "found no PostgreSQL; expected Debian's package postgresql"
    root = os.getuid() == 0
    user = "postgres" if root else None
    switch = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if root else []
    with own_folder("rnr-postgres-", user) as folder:
        data, word, password = folder / "data", folder / "password", secrets.token_hex(16)
        word.write_text(password, encoding="utf-8")
        init = [*switch, str(binaries[-1] / "initdb"), "--pgdata", str(data), "--encoding=UTF8"]
        init += ["--username=rnr", "--auth=scram-sha-256", f"--pwfile={word}", "--no-sync"]
        done = subprocess.run(init, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        port = free_port()
        command = [*switch, str(binaries[-1] / "postgres"), "-D", str(data), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        database = Database(f"postgresql+psycopg://rnr:{password}@127.0.0.1:{port}/postgres")

        def ready():
            import psycopg

            try:
                return database.ask("select 1") == [(1,)]
            except psycopg.OperationalError:
                return False

        with serving(command, ready, folder / "log.txt", cwd=folder):
            yield database


# S3


@dataclass(frozen=True)
class Store:
    """environment: by which MLflow, boto3 and pyarrow find it and may write."""

    environment: dict[str, str]

    def client(self):
        import boto3

        names = {"AWS_ACCESS_KEY_ID": "aws_access_key_id"}
        names |= {
            "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
            "AWS_ENDPOINT_URL": "endpoint_url",
        }
        known = {to: self.environment[name] for name, to in names.items()}
        return boto3.client("s3", region_name=self.environment["AWS_DEFAULT_REGION"], **known)

    def keys(self, bucket):
        listed = self.client().list_objects_v2(Bucket=bucket)
        return [one["Key"] for one in listed.get("Contents", [])]


SWIFT = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
workers = 0
swift_dir = {folder}
devices = {folder}
mount_check = false
fallocate_reserve = 0
log_level = WARNING
log_udp_host = 127.0.0.1
"""
STORING = "[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n"
PROXY = """[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 30
node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:slo]
use = egg:swift#slo
[filter:tempauth]
use = egg:swift#tempauth
user_rnr_writer = {secret} .admin
"""


# Where things of a kind lie: all on one disk. By Debian's Python, which has Swift.
RINGS = """
import json, sys
from swift.common.ring import RingBuilder
for kind, port in json.loads(sys.argv[1]).items():
    ring = RingBuilder(2, 1, 0)
    here = {"ip": "127.0.0.1", "port": port}
    here |= {"replication_" + name: value for name, value in here.items()}
    ring.add_dev({"region": 1, "zone": 1, "device": "disk", "weight": 1, "meta": "", **here})
    ring.rebalance()
    ring.get_ring().save(kind + ".ring.gz")
"""


@contextlib.contextmanager
def s3():
    """Swift of Debian's packages: a proxy that speaks S3 and the three servers behind it."""
    assert shutil.which("swift-proxy-server"), "found no Swift; expected Debian's swift-proxy"
    user, secret = pwd.getpwuid(os.getuid()).pw_name, secrets.token_hex(16)
    with own_folder("rnr-s3-") as folder, contextlib.ExitStack() as stack:
        (folder / "disk").mkdir()
        ports = {kind: free_port() for kind in ("account", "container", "object")}
        rings = ["/usr/bin/python3", "-c", RINGS, json.dumps(ports)]
        done = subprocess.run(rings, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        ports["proxy"], cache, log = free_port(), free_port(), folder / "log.txt"
        memcached = ["memcached", "-l", "127.0.0.1", "-p", str(cache), "-m", "16", "-u", "nobody"]
        stack.enter_context(serving(memcached, lambda: True, log))
        for kind, port in ports.items():
            settings = {"port": port, "user": user, "folder": folder, "kind": kind}
            written = SWIFT + (PROXY if kind == "proxy" else STORING)
            (folder / f"{kind}.conf").write_text(
                written.format(**settings, secret=secret, cache=cache), encoding="utf-8"
            )
            # The proxy comes last, and all are waited for with it.
            url = f"http://127.0.0.1:{port}/"
            awaited = [*ports.values()] if kind == "proxy" else []
            command = [f"swift-{kind}-server", str(folder / f"{kind}.conf"), "--verbose"]
            stack.enter_context(
                serving(command, lambda asked=awaited: all(map(speaks, asked)), log)
            )
        yield Store(
            {
                "AWS_ACCESS_KEY_ID": "rnr:writer",
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": url,
                "MLFLOW_S3_ENDPOINT_URL": url,
            }
        )


# MLflow


def deployed():
    """(command, environment) of the server in cluster/mlflow.yaml."""
    text = (ROOT / "cluster" / "mlflow.yaml").read_text(encoding="utf-8")
    deployment, _ = yaml.safe_load_all(text)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return container["command"], {one["name"]: one["value"] for one in container["env"]}


@contextlib.contextmanager
def mlflow(database, artifacts, **environment):
    """Address of the server of cluster/mlflow.yaml, but on loopback; it alone knows a password."""
    port, (command, known) = free_port(), deployed()
    command = [sys.executable, "-m", *command, "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    settings = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), **known}
    settings["MLFLOW_SERVER_ALLOWED_HOSTS"] += f",127.0.0.1:{port}"
    settings |= {"MLFLOW_BACKEND_STORE_URI": database.address, **environment}
    settings["MLFLOW_ARTIFACTS_DESTINATION"] = artifacts
    with own_folder("rnr-mlflow-") as folder:
        log = folder / "log.txt"
        with serving(command, lambda: speaks(port), log, cwd=folder, env=settings):
            yield f"http://127.0.0.1:{port}"
