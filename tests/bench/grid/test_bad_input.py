"""Bad input is one line on stderr and exit code 2, with nothing run and nothing written."""

import json
import shutil

import pytest

from tests.cs224n import write_folder


def refused(runs, /, *extra, **options):
    """The line, having checked that it is one, and that nothing was written."""
    before = contents(runs.folder)
    result = runs.run(*extra, **options)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert contents(runs.folder) == before
    return result.stderr


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("extra", "message"), [
    (("--select", "seed=7"), "no cell"), (("--task", "poems"), "poems"),
    (("--task", "sst"), "--data"), (("--runs", "/proc/runs.csv"), "--runs"),
    (("--device", "cuda:9"), "--device cpu runs on the CPU"),
    (("--executor", "slurm", "--device", "all"), "the one device that Slurm gives it"),
    (("--executor", "slurm", "--device", "cuda:0,cuda:1"), "--device cuda:0,cuda:1: each"),
    (("--executor", "slurm", "--jobs", "2"), "--jobs is for this machine: leave it out"),
    (("--executor", "slurm", "--budget", "5"), "--budget is for this machine: leave it out"),
    (("--slurm", "partition=main"), "--slurm is for a cluster: leave it out, or take"),
    (("--max-running", "4"), "--max-running is for a cluster: leave it out, or take"),
    (("--check-nodes",), "--check-nodes is for a cluster: leave it out, or take"),
    (("--jobs", "999"), "--jobs 999: 999 workers need a core each"),
    (("--timeout", "inf"), "inf is not a number of seconds"), (("--budget", "0"), "budget"),
    (("--max-length", "8.5"), "should be auto or a whole number from 3 to 8192"),
    (("--model", "no/such/folder"), "no/such/folder"), (("--model", "bert-base"), "--init random"),
    (("--lr", "auto", "--max-train", "1"), "--max-train"), (("--reports", "/proc/r"), "--reports"),
])  # fmt: skip
def test_a_wrong_flag(grid, extra, message):
    assert message in refused(grid, *extra)


@pytest.mark.parametrize(("text", "extra", "message"), [
    ("[[cells]]\nmode=['full']", ("--select", "mode=head"), "mine has mode=head; add a table"),
    ("[settings]\nheld_out=0.1\n[[cells]]\nmode=['full']", ("--max-train", "4"),
     "held_out 0.1 of 4 training examples is none"),
    ("[[cells]]\nmode=['full']\nlearning_rate=[1e-4]", ("--lr", "auto"), "learning_rate as"),
    ("[[cells]]\nmode=['lora']\nrank=[33]\nlayers=['attn']", (), "rank 33 is above the width"),
    ("[[cells]]\nmode=['full']\nmax_length=[64, 600]", (), "is above the 512 positions"),
    ("[[cells]]\nmode=['full']\namp=['fp16']", (), "needs a GPU"),
])  # fmt: skip
def test_a_grid_file_that_cannot_be_run(grid, text, extra, message):
    path = grid.folder / "mine.toml"
    path.write_text(text)
    assert message in refused(grid, *extra, grid=str(path))


def test_a_checkpoint_and_data_of_which_something_is_missing(grid, tmp_path_factory):
    grid.csv.write_text("a,b\r\n1,2\r\n")
    assert "runs.csv" in refused(grid)
    grid.csv.unlink()
    outside = tmp_path_factory.mktemp("outside")
    assert "ids-sst-train.csv" in refused(grid, "--task", "sst", "--data", str(outside))
    shutil.copytree(grid.model, outside / "one")
    grid.model = outside / "one"
    config = json.loads((grid.model / "config.json").read_text())
    (grid.model / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    data = write_folder(outside / "sts", ("sts",))
    assert "token type" in refused(grid, "--task", "sts", "--data", str(data))
    path = grid.model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors" in refused(grid, "--engine", "minbert")
