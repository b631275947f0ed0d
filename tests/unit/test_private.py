"""Folders in shared places: this user's alone, or refused."""

import os
import stat

import pytest

from rnr_dist.errors import InputError
from rnr_dist.run.private import private_folder


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_closed_whatever_the_umask_and_found_again(tmp_path):
    before = os.umask(0)
    try:
        path = private_folder(tmp_path / "new" / "rnr")
    finally:
        os.umask(before)
    assert mode(path) == 0o700
    (path / "kept").touch()
    assert private_folder(path) == path and (path / "kept").exists()


def test_one_that_others_could_only_read_is_closed(tmp_path):
    path = tmp_path / "rnr"
    path.mkdir()
    path.chmod(0o755)
    assert mode(private_folder(path)) == 0o700


def test_what_others_made_or_could_have_written_to_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "rnr"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(InputError, match=r"rnr: found a folder that others may write to; expected"):
        private_folder(path)
    path.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(InputError, match=r"link: found something that is no folder"):
        private_folder(link)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(InputError, match=rf"rnr: found a folder of the user {uid}; expected"):
        private_folder(path)
