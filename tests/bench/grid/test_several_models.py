"""Several models in one run of the grid command."""

import json
from pathlib import Path

from bench.plan.job import Job
from bench.results.store import cells_folder
from tests.bench.grids import GridRuns
from tests.encoders import Checkpoints, need_transformers

HEAD = '[[cells]]\nmode = ["head"]\n'


def test_each_cell_loads_its_own_model_and_a_rerun_has_nothing_to_do(
    grid: GridRuns, deep_checkpoint: Path
) -> None:
    grid.model = f"{grid.model},{deep_checkpoint}"
    arguments = ("--select", "mode=head amp=off")
    done = grid.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["cells"] == {"ok": 2}
    rows = {row.model: row for row in grid.rows()}
    assert rows.keys() == {"tiny", "deep"}
    assert rows["tiny"].params_total < rows["deep"].params_total
    jobs = {job.cell.model: job for job in map(Job.read, cells_folder(grid.csv).glob("head-*"))}
    assert {name: Path(job.checkpoint).name for name, job in jobs.items()} == {
        "tiny": "tiny", "deep": "deep",
    }  # fmt: skip
    assert "tiny head-fp32-s0" in done.stderr
    assert "## Encoders: " in (grid.reports / "report.md").read_text()
    again = grid.run(*arguments, "--dry-run", "--json")
    assert {cell["action"] for cell in json.loads(again.stdout)["cells"]} == {"done"}
    other = grid.run(*arguments, "--select", "model=deep amp=off mode=head", "--dry-run", "--json")
    assert [cell["model"] for cell in json.loads(other.stdout)["cells"]] == ["deep"]


def test_an_encoder_of_another_architecture_decides_the_engine_of_all(
    grid: GridRuns, tmp_path: Path
) -> None:
    need_transformers()
    checkpoints = Checkpoints(tmp_path)
    bert, roberta = checkpoints("bert"), checkpoints("roberta")
    file = tmp_path / "two.toml"
    file.write_text(f'[settings]\nmax_length = "auto"\n{HEAD}')
    grid.model = f"{bert},{roberta}"
    done = grid.run("--select", "mode=head amp=off", grid=str(file), references=True)
    assert done.returncode == 0, done.stderr
    note = "note: engine transformers of all models, so that costs are comparable: "
    assert note in done.stderr
    rows = {row.model: row for row in grid.rows()}
    assert rows.keys() == {bert.name, roberta.name}
    assert {row.engine for row in rows.values()} == {"transformers"}
    assert all(f"{name}: max_length auto: " in done.stderr for name in rows)
    for name in rows:
        assert f"reference points of {name}: " in done.stderr
    (facts,) = json.loads(grid.csv.with_name("runs.data.json").read_text()).values()
    frozen = [one for one in facts["references"] if one["name"] == "frozen"]
    assert {one["model_digest"] for one in frozen} == {r.model_digest for r in rows.values()}
    assert all(one["scores"] for one in frozen)
