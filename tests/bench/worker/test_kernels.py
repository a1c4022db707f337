"""The setting kernels: a cell that is computed in torch's own operators, from plan to row."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.plan.columns import row_of
from bench.plan.job import Job
from bench.results.store import read_rows
from bench.worker.progress import Progress
from bench.worker.run import CellRun
from minbert.kernels.reference import is_reference, kernels
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import HERE
from tests.bench.tiny_cells import cell, job_of

GRID = """
[[cells]]
mode = ["dora"]
rank = [2]
layers = ["all-lin"]
[[cells]]
mode = ["dora"]
rank = [2]
layers = ["all-lin"]
settings = { kernels = "reference" }
"""


def losses(job: Job, folder: Path) -> torch.Tensor:
    folder.mkdir()
    run = CellRun(job, folder, Progress(None))
    run.run()
    assert not is_reference(), "what was entered is left"
    return torch.stack(run.losses)


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize(("mode", "layers"), [("full", ""), ("lora", "attn"), ("dora", "all-lin")])
def test_a_cell_learns_the_same_on_both(
    tiny_checkpoint: Path, tmp_path: Path, mode: str, layers: str, amp: str
) -> None:
    held = None if mode == "full" or amp == "off" else "fp32"
    of = cell(tiny_checkpoint, mode, layers or "attn", amp=amp, dropout=0.0, frozen_dtype=held)
    fast, reference = (
        losses(job_of(replace(of, kernels=name), tiny_checkpoint), tmp_path / name)
        for name in ("fast", "reference")
    )
    near = {"rtol": 1e-4, "atol": 1e-5} if amp == "off" else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(fast, reference, **near)
    assert amp == "off" or not torch.equal(fast, reference)


def test_a_cell_runs_on_the_kernels_it_names(grid: GridRuns) -> None:
    path = grid.folder / "mine.toml"
    path.write_text(GRID)
    ended = grid.run("--device", "cpu", grid=str(path))
    assert ended.returncode == 0, ended.stderr
    rows = {str(row["kernels"]): row for row in read_rows(grid.csv)}
    assert rows.keys() == {"fast", "reference"}
    assert rows["fast"]["cell_id"] != rows["reference"]["cell_id"]
    kept = [float(rows[name]["activations_mib"] or 0) for name in ("fast", "reference")]
    assert kept[1] > 1.2 * kept[0], "autograd keeps more than the kernels do"


def test_older_rows_ran_on_the_fast_kernels(tiny_checkpoint: Path) -> None:
    of = cell(tiny_checkpoint)
    older = {name: value for name, value in (HERE | of.columns()).items() if name != "kernels"}
    assert row_of(older)["kernels"] == "fast"
    assert replace(of, kernels="reference").cell_id != of.cell_id == row_of(older)["cell_id"]


def test_there_are_no_others() -> None:
    with pytest.raises(ValueError, match="'odd'; there are fast, reference"), kernels("odd"):
        pass
