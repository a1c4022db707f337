"""The grid command, end to end, with real workers."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.bench.grids import GridRuns, workers_of
from tests.components import need

TWO = ("--select", "mode=head")
"""Two cells: enough for one to be done while the other is stopped."""


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def fill(descriptor: int) -> None:
    while True:
        os.write(descriptor, b"\0" * 4096)


def test_a_grid_runs_reports_and_has_nothing_left_to_do(grid: GridRuns) -> None:
    grid.csv = grid.folder / "not" / "there" / "yet" / "runs.csv"
    first = grid.run("--select", "mode=full,dora")
    assert first.returncode == 0, first.stderr
    rows = grid.rows()
    assert len(rows) == 4
    for row in rows:
        assert row["status"] == "ok"
        assert row["dev_metric"] == "accuracy"
        for name in (
            "step_ms_median",
            "ms_per_1k_tokens",
            "ms_per_1k_tokens_ci_low",
            "steps_timed",
            "peak_rss_mib",
            "peak_anon_mib",
            "imports_anon_mib",
            "activations_mib",
            "weights_mib",
            "optimizer_mib",
            "gradients_mib",
            "dev_score",
            "dev_ci_low",
            "dev_loss",
            "train_loss",
            "majority_score",
            "wall_s",
            "startup_s",
            "train_s",
            "eval_s",
            "params_total",
            "params_trainable",
            "tokens_total",
            "flops_per_token",
            "predicted_s",
            "predicted_peak_mib",
        ):
            assert row[name] is not None, name
        assert 0 < float(row["startup_s"]) < float(row["wall_s"])
        assert row["params_trainable"] <= row["params_total"]
        assert row["peak_cuda_allocated_mib"] is None
        assert row["imports_anon_mib"] < row["peak_anon_mib"] < row["peak_rss_mib"]
        assert str(grid.folder) not in json.dumps(row)
    index = (grid.reports / "index.html").read_text()
    assert "dora" in index
    assert str(grid.folder) not in index
    assert "Prediction: " in (grid.reports / "report.md").read_text()

    again = grid.run("--select", "mode=full,dora")
    assert again.returncode == 0, again.stderr
    assert grid.rows() == rows


def test_a_cell_folder_holds_all_that_is_needed_to_repeat_it(grid: GridRuns) -> None:
    assert grid.run("--select", "mode=lora amp=off", "--keep").returncode == 0
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    present = {path.name for path in folder.iterdir()}
    assert {
        "adapter",
        "cell.json",
        "command.txt",
        "epochs.csv",
        "machine.json",
        "panel.csv",
        "predictions.safetensors",
        "result.json",
        "row.json",
        "stderr.txt",
        "stdout.txt",
        "steps.csv",
    } <= present
    predictions = load_file(folder / "predictions.safetensors")
    assert predictions["logits"].shape == (32, 5)
    accuracy = (predictions["logits"].argmax(1) == predictions["labels"]).mean()
    (row,) = grid.rows()
    assert row["dev_score"] == pytest.approx(accuracy)
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    first = json.loads((folder / "result.json").read_text())["columns"]
    losses = [line.rpartition(",")[2] for line in (folder / "steps.csv").read_text().splitlines()]
    command = (folder / "command.txt").read_text()
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL)  # noqa: S602
    second = json.loads((folder / "result.json").read_text())["columns"]
    for name in ("dev_loss", "dev_score", "train_loss", "tokens_total"):
        assert second[name] == first[name], name
    again = [line.rpartition(",")[2] for line in (folder / "steps.csv").read_text().splitlines()]
    assert again == losses


def test_dry_run_prints_the_plan_and_writes_nothing(grid: GridRuns) -> None:
    table = grid.run("--dry-run")
    assert table.returncode == 0
    assert "8 cells: 8 to run" in table.stdout
    assert "no basis yet" in table.stdout
    told = json.loads(grid.run("--dry-run", "--json").stdout)
    items = told["cells"]
    assert len(items) == 8
    assert {item["action"] for item in items} == {"run"}
    assert told["total"]["predicted_s"] == pytest.approx(sum(i["predicted_s"] for i in items))
    assert told["total"]["predicted_peak_mib"] == max(i["predicted_peak_mib"] for i in items)
    assert list(grid.folder.iterdir()) == []


def test_a_timeout_is_a_row_and_the_grid_goes_on(grid: GridRuns) -> None:
    result = grid.run("--select", "mode=head", "--timeout", "0.2")
    assert result.returncode == 1
    assert grid.statuses() == ["timeout", "timeout"]
    assert workers_of(grid.folder) == []
    kept = grid.run("--select", "mode=head")
    assert kept.returncode == 1
    assert "to run again what ended timeout: python -m bench.grid" in kept.stderr
    assert "--rerun timeout" in kept.stderr
    assert grid.statuses() == ["timeout", "timeout"]
    again = grid.run("--select", "mode=head", "--rerun", "timeout")
    assert again.returncode == 0, again.stderr
    assert grid.statuses() == ["timeout", "timeout", "ok", "ok"]
    assert [row["attempt"] for row in grid.rows()] == [1, 1, 2, 2]


def test_an_interrupt_ends_cleanly_and_says_how_to_go_on(grid: GridRuns) -> None:
    process = grid.start(*TWO)
    wait_for(lambda: len(grid.rows()) == 1 and workers_of(grid.folder))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "to go on: python -m bench.grid --grid smoke" in err
    assert "report:" in out
    assert workers_of(grid.folder) == []
    assert grid.statuses()[-1] == "interrupted"
    done = grid.statuses().count("ok")
    assert grid.run(*TWO).returncode == 0
    ids = [row["cell_id"] for row in grid.rows() if row["status"] == "ok"]
    assert len(ids) == len(set(ids)) == 2
    assert done >= 1


def test_a_killed_parent_leaves_no_worker_and_loses_nothing(grid: GridRuns) -> None:
    process = grid.start(*TWO)
    wait_for(lambda: len(grid.rows()) == 1 and workers_of(grid.folder))
    process.kill()
    process.wait()
    before = grid.rows()
    wait_for(lambda: not workers_of(grid.folder), 5)
    assert grid.run(*TWO).returncode == 0
    rows = grid.rows()
    assert rows[: len(before)] == before
    ids = [row["cell_id"] for row in rows]
    assert len(ids) == len(set(ids)) == 2


def test_rates_are_searched_on_training_data_and_used(grid: GridRuns) -> None:
    one = ("--lr", "auto", "--select", "mode=head amp=off")
    plan = json.loads(grid.run(*one, "--dry-run", "--json").stdout)["cells"]
    assert len(plan) == 5
    assert {item["learning_rate_source"] for item in plan} == {"candidate"}
    done = grid.run(*one)
    assert done.returncode == 0, done.stderr
    rows = grid.rows()
    tries = [row for row in rows if row["learning_rate_source"] == "candidate"]
    (row,) = [row for row in rows if row["learning_rate_source"] == "search"]
    assert len(tries) >= 5
    assert {each["data_digest"] for each in tries} != {row["data_digest"]}
    best = max(tries, key=lambda each: (each["dev_score"], -each["dev_loss"]))
    assert row["learning_rate_head"] == best["learning_rate_head"]
    text = (grid.reports / "report.md").read_text()
    assert "Learning rates: 1 search, each at its own best" in text
    assert "1 of 1 cells ended ok" in text or "1 of 1 cell ended ok" in text
    again = grid.run(*one)
    assert again.returncode == 0
    assert grid.rows() == rows


def test_two_grids_at_once_share_the_work_and_the_device(grid: GridRuns) -> None:
    processes = [grid.start(*TWO) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    rows = grid.rows()
    assert grid.statuses() == ["ok", "ok"]
    assert len({row["cell_id"] for row in rows}) == 2
    assert any("another grid" in text for text in told)
    one, other = sorted((row["started_at"], row["finished_at"]) for row in rows)
    assert one[1] <= other[0]


def test_a_result_whose_row_was_never_written_is_taken_over(grid: GridRuns) -> None:
    assert grid.run("--select", "mode=head amp=off").returncode == 0
    (row,) = grid.rows()
    grid.csv.unlink()
    assert grid.run("--select", "mode=head amp=off").returncode == 0
    assert grid.rows() == [row]
    (kept,) = (grid.folder / "runs").glob("*/row.json")
    kept.unlink()
    grid.csv.unlink()
    result = grid.run("--select", "mode=head amp=off")
    assert result.returncode == 0
    (again,) = grid.rows()
    assert "taking over the result" in result.stderr
    assert again["wall_s"] is None
    assert again["started_at"] <= row["finished_at"]
    unmeasured = ("wall_s", "started_at", "finished_at")
    assert {k: v for k, v in again.items() if k not in unmeasured} == {
        k: v for k, v in row.items() if k not in unmeasured
    }


def test_a_result_of_another_version_of_the_code_is_not_taken_over(grid: GridRuns) -> None:
    assert grid.run("--select", "mode=head amp=off").returncode == 0
    (folder,) = [path for path in (grid.folder / "runs").iterdir() if path.is_dir()]
    job = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps(job | {"code_version": "0.0.1"}))
    (folder / "row.json").unlink()
    grid.csv.unlink()
    again = grid.run("--select", "mode=head amp=off")
    assert again.returncode == 0
    assert "taking over" not in again.stderr
    assert grid.rows()[0]["wall_s"] is not None


def test_random_weights_measure_cost_and_no_quality(grid: GridRuns) -> None:
    named = grid.run("--init", "random", "--model", "bert-tiny", "--select", "mode=lora amp=off")
    assert named.returncode == 0, named.stderr
    (row,) = grid.rows()
    assert row["model"] == "bert-tiny"
    assert row["init"] == "random"
    assert row["dev_score"] is None
    assert row["ms_per_1k_tokens"] is not None


def test_a_loss_that_is_not_finite_is_invalid_and_the_grid_goes_on(
    grid: GridRuns, tmp_path: Path
) -> None:
    huge = tmp_path / "huge"
    shutil.copytree(grid.model, huge)
    weights = load_file(huge / "model.safetensors")
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    save_file({**weights, name: np.full_like(weights[name], 3e38)}, huge / "model.safetensors")
    result = grid.run("--model", str(huge), "--select", "mode=head")
    assert result.returncode == 1
    assert grid.statuses() == ["invalid", "invalid"]
    for row in grid.rows():
        assert "loss" in str(row["message"])
        assert row["dev_score"] is None
        assert row["peak_rss_mib"] is not None
    assert "not finite" in (grid.reports / "report.md").read_text()


def test_a_disk_that_fills_stops_the_run_and_keeps_what_is_done(
    grid: GridRuns, tmp_path: Path
) -> None:
    four = ("--select", "mode=head,lora")  # so that one begins when the disk is full already
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    need(mounted, "mounting a small disk takes root", component="mounts")
    try:
        small = GridRuns(disk, grid.model)
        process = small.start(*four)
        wait_for(lambda: len(small.rows()) == 1)
        with (disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space"):
            fill(file.fileno())
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "what is done is kept" in err
        assert "Traceback" not in err
        rows = small.rows()
        assert rows
        assert {row["status"] for row in rows} <= {"ok", "crashed"}
        (disk / "filler").unlink()
        assert small.run(*four, "--rerun", "crashed").returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)  # noqa: S607
