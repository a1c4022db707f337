"""An export that was killed leaves nothing once another one has run in that place."""

import os
import time

import pytest

from bench.export.exporting import _LOCK, _PART, _new_folder


def left(place, name, age_s=7200):
    """A temporary folder as a killed export leaves it, which was written so long ago."""
    folder = place / f"{_PART}{name}"
    folder.mkdir()
    (folder / _LOCK).touch()
    os.utime(folder, (time.time() - age_s,) * 2)
    return folder


def test_folders_of_killed_exports_are_removed_and_those_of_others_are_not(tmp_path):
    killed, early = left(tmp_path, "killed"), left(tmp_path, "early", age_s=10)
    with _new_folder(tmp_path / "running"):
        [running] = {*tmp_path.glob(f"{_PART}*")} - {killed, early}
        assert running.stat().st_mode & 0o777 == 0o700
        os.utime(running, (time.time() - 7200,) * 2)
        with _new_folder(tmp_path / "other") as folder:
            (folder / "file").touch()
        assert {*tmp_path.glob(f"{_PART}*")} == {early, running}
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def test_folders_of_other_users_stay(tmp_path):
    if os.getuid() != 0:
        pytest.skip("giving a folder to another user takes root")
    folder = left(tmp_path, "theirs")
    os.chown(folder, 65534, 65534)
    with _new_folder(tmp_path / "model"):
        assert folder.is_dir()
