"""An export on a hub: a server here stands for it, the hub's own client speaks to it."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rnr_dist.errors import InputError
from rnr_dist.weights.hub import push, require_pushable

ROOT = Path(__file__).parents[2]
TOKEN = "hf_a-planted-token"


@contextlib.contextmanager
def hub(refuses=False):
    """(address, requests as (method, path, token, body)) of a hub that takes, or refuses, all."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size).decode()
            asked.append((self.command, self.path, self.headers.get("Authorization"), body))
            self.reply(403 if refuses else 200, self.content(body))

        def content(self, body):
            here = f"http://127.0.0.1:{server.server_port}"
            if refuses:
                return {"error": f"{TOKEN} may not write here"}
            if "preupload" in self.path:
                files = json.loads(body)["files"]
                return {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in files
                    ]
                }
            if "commit" in self.path:
                told = {"success": True, "commitOid": "0" * 40, "hookOutput": ""}
                return {**told, "commitUrl": f"{here}/me/mine/commit/{'0' * 40}"}
            return {"url": f"{here}/me/mine", "sha": "0" * 40, "errors": [], "warnings": []}

        def reply(self, status, content):
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_HEAD = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def pushed(folder, endpoint):
    """`push` in a process that may ask a hub."""
    code = (
        "import sys; from pathlib import Path; from rnr_dist.errors import InputError\n"
        "from rnr_dist.weights.hub import push\n"
        "try:\n    print(push(Path(sys.argv[1]), 'me/mine'))\n"
        "except InputError as error:\n    sys.exit(str(error))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True
    )


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# card")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_all_files_go_up_in_one_commit_to_a_private_repository(exported):
    with hub() as (endpoint, asked):
        done = pushed(exported, endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{endpoint}/me/mine"
    assert {token for _, _, token, _ in asked} <= {f"Bearer {TOKEN}", None}
    [made] = [json.loads(body) for _, path, _, body in asked if path == "/api/repos/create"]
    assert (made["name"], made["organization"]) == ("mine", "me")
    assert made.get("visibility") == "private" or made["private"] is True
    [commit] = [body for _, path, _, body in asked if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    files = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
    assert set(files) == {"README.md", "adapter_model.safetensors"}
    assert base64.b64decode(files["adapter_model.safetensors"]["content"]) == b"weights"


def test_a_hub_that_refuses_is_one_sentence_without_the_token(exported):
    with hub(refuses=True) as (endpoint, _):
        done = pushed(exported, endpoint)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("--push-to")]
    assert "the hub took nothing" in line and "can be pushed again" in line
    assert TOKEN not in done.stderr + done.stdout


@pytest.mark.parametrize("name", ["mine", "a/b/c", "../x", "me/", "me/my model"])
def test_a_repository_has_an_owner_and_a_name(name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        require_pushable(name)


def test_without_a_token_nothing_is_asked(exported, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InputError, match="found no HF_TOKEN in the environment"):
        push(exported, "me/mine")
