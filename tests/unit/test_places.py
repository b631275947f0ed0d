"""Places: what cannot be written to is one sentence, before anything costs time."""

import os
from pathlib import Path

import pytest

from rnr_dist.commands.cli import guarded
from rnr_dist.commands.start import STAGES
from rnr_dist.config.file import load_config
from rnr_dist.errors import InputError
from rnr_dist.generate.backend import vllm_architectures
from rnr_dist.machine.placement import Node
from rnr_dist.recipes.pipeline import recipe_of
from rnr_dist.run.places import (
    LONGEST_SOCKET,
    cache_folder,
    check_temporary_folder,
    require_cache,
    require_writable,
)
from rnr_dist.weights.checkpoints import checkpoint_here
from tests.unit.command_fakes import rnr

ROOT = Path(__file__).parents[2]
EMBEDDED = "embedded:smollm2-135m-instruct"


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder that nothing can be written into, whoever asks."""
    folder = tmp_path / "closed"
    folder.mkdir()
    asked = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and asked(path, mode))
    return folder


def test_a_place_is_writable_where_its_nearest_folder_is(tmp_path, closed):
    require_writable(tmp_path / "a" / "b" / "c", "it")
    assert list(tmp_path.iterdir()) == [closed]
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place, reason in (
        (closed, "is closed to writing"),
        (closed / "a" / "b", "is closed to writing"),
        (tmp_path / "file" / "a", "file is a file"),
        (tmp_path / "file", "file is a file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(InputError, match=rf"^it: .* cannot be written to \(.*{reason}\)"):
            require_writable(place, "it")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "config.yaml", "--run", "closed/run"),
        ("run", "config.yaml", "--run", "model/config.json/run"),
        ("run", "config.yaml", "--run", "x" * 300),
        ("reveal", "config.yaml", "--set", "name=" + "x" * 150, "--run", "closed"),
        ("export", "run", "--adapter", "closed/adapter"),
        ("export", "run", "--merged", "config.yaml/merged"),
        ("grade", "run", "--sheet", "closed/sheet.csv"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_first(place, closed, refused, arguments):
    (place / "closed").mkdir(exist_ok=True)
    assert " cannot be written to (" in refused(*arguments)


def test_the_cache_is_asked_for_only_where_something_is_to_be_made(tmp_path, closed, monkeypatch):
    monkeypatch.setenv("RNR_CACHE_DIR", str(closed))
    with pytest.raises(InputError, match=r"^RNR_CACHE_DIR: .*closed cannot be written to"):
        require_cache()
    with pytest.raises(InputError, match=r"^RNR_CACHE_DIR: .*closed cannot be written to"):
        checkpoint_here(EMBEDDED)
    with pytest.raises(InputError, match=r"^the cache folder .*closed cannot be written to"):
        vllm_architectures()
    name = next(path.name for path in [_cached(EMBEDDED, tmp_path / "open", monkeypatch)])
    monkeypatch.setenv("RNR_CACHE_DIR", str(closed))
    (closed / name).mkdir()
    assert checkpoint_here(EMBEDDED) == closed / name


def _cached(name, cache, monkeypatch):
    """Where a converted model would lie in this cache."""
    from rnr_dist.weights.embedded import converted_folder

    monkeypatch.setenv("RNR_CACHE_DIR", str(cache))
    return converted_folder(name)


def test_a_cache_below_the_home_folder_is_named_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RNR_CACHE_DIR", "~/kept")
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.setenv("RNR_CACHE_DIR", "~nobody_of_that_name/kept")
    with pytest.raises(InputError, match=r"^RNR_CACHE_DIR: found ~nobody"):
        cache_folder()
    monkeypatch.delenv("RNR_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "rnr_dist"
    monkeypatch.setenv("HOME", "/dev/null/home")
    with pytest.raises(InputError, match=r"^the cache folder: .* cannot be written to"):
        require_cache()


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_over_the_limit_of_sockets_is_refused(
    place, refused, closed, monkeypatch, name
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, str(place / ("t" * 60)))
    assert refused("check", "config.yaml").startswith(f"{name}: found {place}")
    monkeypatch.setenv(name, str(closed))
    assert "cannot be written to" in refused("run", "config.yaml")
    monkeypatch.setenv(name, "/tmp")
    check_temporary_folder()
    monkeypatch.setenv(name, str(place / ("t" * 60)))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # other machines have folders of their own
    nodes = [Node(8, 0, 8)]
    monkeypatch.setattr("rnr_dist.commands.check.nodes_here", lambda config: ("there", nodes))
    assert rnr("check", "config.yaml") == 0


def test_the_limit_is_that_of_rays_own_sockets(monkeypatch):
    """Ray refuses a socket's path of more bytes than the check leaves it."""
    from ray._private.utils import validate_socket_filepath

    validate_socket_filepath("x" * LONGEST_SOCKET)
    with pytest.raises(OSError, match="AF_UNIX path length"):
        validate_socket_filepath("x" * (LONGEST_SOCKET + 1))


@pytest.mark.parametrize("number", [13, 30, 36])
def test_a_place_that_closes_on_the_way_is_one_sentence(capsys, number):
    def closing():
        raise OSError(number, os.strerror(number), "/some/where")

    assert guarded(closing) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rnr: /some/where: {os.strerror(number)}; what is finished is kept")


@pytest.mark.parametrize("name", ["demo", "icu", "icu_small", "icu_table", "toxicity_small"])
def test_every_command_leads_to_a_stage_of_the_recipe_or_is_refused(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    refused = []
    for command, wanted in STAGES.items():
        try:
            recipe, stage = recipe_of(config, wanted)
        except InputError as error:
            refused.append(command)
            assert f"has no stage {wanted}; expected one of" in str(error)
        else:
            assert [one.name for one in recipe.until(stage)][-1] == stage
    icu = config.way == "epochs"
    assert refused == (["reveal", "release"] if icu else ["icu", "sweep"])
