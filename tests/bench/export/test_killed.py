"""An export that was killed leaves nothing behind once another one has run in that place."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.export.exporting import _new_folder

ROOT = Path(__file__).parents[3]
EXPORT = """
import sys, time
from pathlib import Path
from bench.export.exporting import _new_folder

with _new_folder(Path(sys.argv[1])) as folder:
    (folder.parent / "texts").touch()
    print("ready", flush=True)
    time.sleep(600)
"""


def make_old(folder):
    os.utime(folder, (time.time() - 7200,) * 2)


def test_files_of_killed_exports_are_removed_and_those_of_others_are_not(tmp_path):
    argv = [sys.executable, "-c", EXPORT, str(tmp_path / "model")]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with _new_folder(tmp_path / "running"):
        left = sorted(tmp_path.glob(".export-*"))
        assert len(left) == 2
        assert {path.stat().st_mode & 0o777 for path in left} == {0o700}
        with _new_folder(tmp_path / "early") as folder:
            (folder / "file").touch()
        assert sorted(tmp_path.glob(".export-*")) == left, "they may be new"
        for path in left:
            make_old(path)
        with _new_folder(tmp_path / "other") as folder:
            (folder / "file").touch()
        assert len(list(tmp_path.glob(".export-*"))) == 1, "one is still written"
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def test_folders_of_other_users_stay(tmp_path):
    if os.getuid() != 0:
        pytest.skip("giving a folder to another user takes root")
    (tmp_path / ".export-x").mkdir()
    os.chown(tmp_path / ".export-x", 65534, 65534)
    make_old(tmp_path / ".export-x")
    with _new_folder(tmp_path / "model"):
        pass
    assert (tmp_path / ".export-x").is_dir()
