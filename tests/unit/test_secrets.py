"""Passwords and tokens: what is written down, told to MLflow or shown holds none."""

import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.fault_parts import secrets
from rnr_dist.config.file import validate
from rnr_dist.config.secrets import to_be_kept, without_secrets
from rnr_dist.errors import InputError
from rnr_dist.machine.cluster import ray_session
from rnr_dist.machine.trials import withhold_keys
from rnr_dist.run.directory import RunDir
from rnr_dist.run.progress import say
from rnr_dist.run.tracking import Tracker, ui_command
from tests.unit.command_fakes import rnr
from tests.unit.run_fakes import content

PASSWORD = "plantedPassword1"
SERVER = f"http://anna:{PASSWORD}@127.0.0.1:9/base?token=planted2#planted3"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (SERVER, "http://127.0.0.1:9/base"),
        ("postgresql+psycopg2://anna:a/b?c@d@db:5432/runs", "postgresql+psycopg2://db:5432/runs"),
        (f"failed: {SERVER}) and https://u:p@x.org/a", "failed: http://127.0.0.1:9/base) and "
         "https://x.org/a"),
        ("sqlite:////home/me@work/runs/mlflow.db", "sqlite:////home/me@work/runs/mlflow.db"),
        ("write to a@b.org: is that so? #1", "write to a@b.org: is that so? #1"),
    ],
)  # fmt: skip
def test_an_address_loses_user_password_and_query_and_nothing_else(text, kept):
    assert without_secrets(text) == kept


def test_secrets_of_the_environment_are_hidden_wherever_they_stand(monkeypatch):
    for name, value in {
        "HF_TOKEN": "hf_planted00",
        "AWS_SECRET_ACCESS_KEY": "planted/aws+00",
        "AWS_ACCESS_KEY_ID": "AKIAPLANTED00",
        "OPENAI_API_KEY": "sk-planted00",
        "MY_PASSWORD": "sk-planted00-longer",
        "SOME_TOKEN_FILE": "/run/planted00",
        "MAX_TOKENS": "12345678",
        "SHORT_TOKEN": "false",
    }.items():
        monkeypatch.setenv(name, value)
    told = without_secrets("hf_planted00 planted/aws+00 AKIAPLANTED00 sk-planted00-longer")
    assert told == "*** *** *** ***"
    assert without_secrets("/run/planted00 12345678 false") == "/run/planted00 12345678 false"


def test_a_config_is_kept_as_it_is_but_for_its_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted00")
    held = {
        "engines": {"extra": {"hf_token": "literal", "max_tokens": 3, "note": "is hf_planted00"}},
        "task": {"prompts": ["see http://x.org/?q=1", "http://x.org/?q=1"], "api_key": ""},
    }
    assert to_be_kept(held) == {
        "engines": {"extra": {"hf_token": "***", "max_tokens": 3, "note": "is ***"}},
        "task": {"prompts": ["see http://x.org/?q=1", "http://x.org/"], "api_key": ""},
    }
    plain = validate(content(), "")
    assert validate(plain.content(), "") == plain


def test_a_tracking_server_s_password_is_nowhere_in_run_directory_or_terminal(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    config = validate(content(tracking={"uri": SERVER}), "")
    assert config.tracking.uri == SERVER
    run = RunDir.open(tmp_path / "run", config.content(), False)
    tracker = Tracker(config.tracking.uri, "rnr", run.path / "mlflow-spool.jsonl")
    with tracker.parent("small", config.content()):
        tracker.metrics({"score": 1.0})
    tracker.close()
    said = capsys.readouterr()
    written = [path.read_text() for path in run.path.rglob("*") if path.is_file()]
    assert json.loads(run.marker.read_text())["tracking"]["uri"] == "http://127.0.0.1:9/base"
    assert "MLflow cannot be reached" in said.err and "127.0.0.1:9" in "".join(written)
    for text in (said.out, said.err, *written):
        assert PASSWORD not in text and "planted" not in text and "anna" not in text


def test_lines_and_refusals_hide_them_too(capsys, place):
    say(f"asking {SERVER}")
    with pytest.raises(InputError) as refused:
        ui_command(SERVER)
    assert rnr("check", place / "config.yaml", "--set", f"tracking.uri=[{SERVER}]") == 2
    assert PASSWORD not in capsys.readouterr().err
    assert PASSWORD not in str(refused.value)


def test_tune_hands_no_keys_to_trials_which_ray_would_log():
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    withhold_keys()
    assert ENV_VARS_TO_PROPAGATE and not [n for n in ENV_VARS_TO_PROPAGATE if "AWS" in n]


def test_ray_s_logs_lie_in_a_folder_of_this_user_alone(tmp_path, monkeypatch):
    import ray

    given = {}

    def init(**options):
        given.update(options)
        return SimpleNamespace(address_info={"session_dir": str(tmp_path / "session")})

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray, "init", init)
    with ray_session(validate(content(), "")):
        pass
    folder = Path(given["_temp_dir"]).parent  # Ray opens its own folder to everybody
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with (
        pytest.raises(InputError, match="others may write to"),
        ray_session(validate(content(), "")),
    ):
        pass


def test_a_planted_secret_is_found_in_any_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log.bin").write_bytes(b"\x00\xff" + secrets.SERVER.encode() + b"\x00")
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "log.bin")
    (tmp_path / "clean.txt").write_text("nothing")
    found = secrets.holding([tmp_path], secrets.MARK.encode())
    assert found == [tmp_path / "deep" / "log.bin"]
    assert all(secrets.MARK in value for value in (secrets.SERVER, *secrets.SECRETS.values()))
