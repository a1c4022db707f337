"""Verification: the search, real trainings of a tiny model, and what is left of a killed one."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.fit import verify
from bench.fit.__main__ import command
from bench.fit.verify import Verified, boundary, larger, verified
from bench.launch.runner import limited
from bench.results.curves import Point
from tests.bench.grids import workers_of
from tests.bench.synthetic_rows import cell
from tests.components import need

ROOT = Path(__file__).parents[3]
TINY = (
    "--init", "random", "--model", "bert-tiny", "--for", "cpu", "--length", "16", "--runs",
    "none.csv", "--select", "mode=lora layers=attn-only amp=off", "--json",
)  # fmt: skip


@pytest.mark.parametrize("most", [0, 1, 2, 9, 10, 60, 90, 99, 100, 101, 109, 110, 111, 500])
@pytest.mark.parametrize("promised", [1, 9, 100])
def test_the_search_goes_on_where_the_forecast_was_wrong(most, promised):
    asked = []

    def fits(batch):
        asked.append(batch)
        return batch <= most

    found, too_large = boundary(fits, promised)
    assert found <= most < too_large
    assert found in asked or found == 0
    assert [larger(batch) for batch in (1, 9, 10, 95, 1000)] == [2, 10, 11, 104, 1100]
    assert too_large in asked
    assert too_large - found <= max(1, 0.12 * too_large)
    assert len(asked) == len(set(asked))
    if found == promised and too_large == larger(promised):
        assert asked == [promised, larger(promised)]


def test_the_search_ends_at_the_most_that_a_grid_takes():
    asked = []
    found, too_large = boundary(lambda batch: not asked.append(batch), 60_000)
    assert (found, asked) == (65_536, [60_000, 65_536])
    assert boundary(lambda _: True, 65_536) == (65_536, too_large)
    shown = entry(promised=65_536, fits=65_536, too_large=too_large)
    assert shown.is_kept
    assert "65,536 fitted, the most that a grid takes, by" in str(shown)


def entry(**changes):
    values = {"model": "m", "setting": "full-fp32", "length": 16, "limit_mib": 900, "promised": 100,
              "by": "measured peaks", "fits": 100, "too_large": 110}  # fmt: skip
    return Verified(**{**values, **changes})


@pytest.mark.parametrize(("changes", "ending"), [
    ({}, "promised 100; 100 fitted, 110 did not, by measured peaks"),
    ({"fits": 80, "too_large": 90}, "; the promise was too large by 25%"),
    ({"fits": 125, "too_large": 137}, "; the promise was too small by 20%"),
    ({"fits": 0, "too_large": 1}, "; the promise was too large by an unknown amount"),
])  # fmt: skip
def test_a_line_says_what_was_shown_and_by_how_much_it_was_wrong(changes, ending):
    assert str(entry(**changes)).endswith(ending)
    assert entry(**changes).is_kept == ("too large" not in ending)


def test_a_limit_ends_what_exceeds_it_and_is_gone_afterwards():
    with limited(100) as group:
        need(group is not None, "control groups that can be made")
        ends = []
        for mib in (40, 300):
            argv = group.argv([sys.executable, "-c", f"x = bytearray({mib} << 20)"])
            ends.append((subprocess.run(argv, check=False).returncode, group.kills()))
        assert ends == [(0, 0), (-signal.SIGKILL, 1)]
    assert not group.folder.exists()


@pytest.mark.parametrize("is_stale", [False, True])
def test_a_group_that_can_not_be_made_or_joined_is_none(tmp_path, monkeypatch, is_stale):
    """A folder elsewhere has the limit's file, made with it, but no process can join."""
    groups = "bench.launch.runner.group_folders"
    monkeypatch.setattr(groups, lambda: iter([tmp_path, tmp_path / "x"]))
    with limited(100) as none:  # in a place without limits
        assert none is None
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / f"minbert-fit-{os.getpid()}"
    made = Path.mkdir
    if is_stale:
        folder.mkdir()

    def with_limit(path, *args, **kwargs):
        made(path, *args, **kwargs)
        (path / "memory.max").touch()
        (path / "cgroup.procs").mkdir(exist_ok=True) if path == folder else None

    monkeypatch.setattr(groups, lambda: iter([tmp_path]))
    monkeypatch.setattr(Path, "mkdir", with_limit)
    monkeypatch.setattr("bench.launch.runner._REMOVE", 'read -r _; rm -r "$1"')
    with limited(100) as none:
        assert none is None
        assert (folder / "memory.max").read_text() == str(100 * 2**20), "it was made anew"


def test_batches_of_a_tiny_model_are_trained_within_a_limit_and_beyond(monkeypatch, capsys):
    def run(memory, *flags):
        argv = [*TINY, "--memory", memory, *flags]
        code = command.main(argv, standalone_mode=False)
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    def two(fits, promised):
        few, many = promised // 4, 9 * promised
        assert fits(few)
        assert not fits(many)
        return few, many

    monkeypatch.setattr(verify, "boundary", two)
    _, answer, _ = run("4GiB")
    limit = round(answer["answers"][0]["memory_mib"]["libraries"]) + 190
    code, answer, err = run(f"{limit}MiB", "--verify")
    [shown] = answer["verified"]
    assert code == 1, "less than what was promised has fitted"
    assert shown["promised"] == answer["answers"][0]["batch"]
    few, many = shown["fits"], shown["too_large"]
    assert 4 * few <= shown["promised"] == many // 9
    assert f"batch {few:,}" in err
    assert shown["by"] in ("the limit of a control group and measured peaks", "measured peaks")
    assert shown["peaks_mib"][str(few)] <= limit
    assert shown["peaks_mib"].get(str(many), limit + 1) > limit


@pytest.mark.parametrize("group", ["a group", None])
def test_what_ends_well_but_over_the_limit_does_not_fit(monkeypatch, group):
    """A group's limit is not quite that of the measured peak."""
    peaks = {10: 101.0, 9: 99.0}
    monkeypatch.setattr(verify, "limited", lambda _: nullcontext(group))
    monkeypatch.setattr(verify, "_train", lambda cell, *_: peaks[cell.batch_size])
    devices = SimpleNamespace(using=lambda *_: nullcontext())
    monkeypatch.setattr(verify, "Locks", lambda *_: nullcontext(devices))
    target = SimpleNamespace(conditions=SimpleNamespace(device="cpu"), device_name="cpu")
    point = Point(setting="full-fp32", mode="full", layers=None, length=16, batch=10,
                  memory_mib={"rest": 1.0}, ms_per_1k_tokens=1.0)  # fmt: skip
    model = SimpleNamespace(name="m")
    full = cell("full", None, None, "off")
    shown = verified(full, point, model, target, 100.0, 10.0, None, lambda _: None)
    assert (shown.fits, shown.too_large, shown.peaks_mib) == (9, 10, peaks)


def test_a_killed_verification_leaves_nothing_running_and_no_limit(tmp_path):
    argv = [sys.executable, "-m", "bench.fit", *TINY, "--memory", "1300MiB", "--verify"]
    places = {"MINBERT_BENCH_LOCKS": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        argv, cwd=ROOT, env={**os.environ, **places}, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert any("batch" in line for line in process.stderr)
        deadline = time.monotonic() + 60
        while not workers_of(tmp_path):
            assert time.monotonic() < deadline
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    named = f"minbert-fit-{process.pid}"
    assert not [path for path in Path("/sys/fs/cgroup").glob(f"**/{named}") if path.is_dir()]
