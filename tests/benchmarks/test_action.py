"""The action in a clone of this repository, with cells that train."""

import subprocess

from tests.action import ROOT, Ended, run_action
from tests.test_action import git

GRID = """
[settings]
model = "bert-tiny"
init = "random"
epochs = 1
max_steps = 8
max_dev = 32
[[cells]]
mode = ["full"]
"""
INPUTS = {
    "grid": "tiny.toml", "base": "HEAD~1", "rounds": "2", "max-slowdown": "900%", "max-memory": "5%"
}  # fmt: skip
BEFORE = "y = self.dense(y, self.activation)"
AFTER = f"{BEFORE} + 0 * self.dense(y, self.activation).exp()"


def test_a_worse_change_is_found(benchmark, tmp_path):
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)  # noqa: S607
    (checkout / "tiny.toml").write_text(GRID)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "A grid of one cell")
    encoder = checkout / "minbert" / "model" / "encoder.py"
    assert BEFORE in encoder.read_text()
    encoder.write_text(encoder.read_text().replace(BEFORE, AFTER))
    ended: Ended = benchmark.pedantic(run_action, args=(checkout, tmp_path, INPUTS, {}), rounds=1)
    assert ended.code == 1, ended.log
    assert "kept for backward" in ended.summary
    assert "regression" in ended.summary
