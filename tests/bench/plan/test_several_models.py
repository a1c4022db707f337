"""Several models in one grid: their cells, names, rates and bad input; and a checkpoint of a
stand-in for the hub."""

from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.plan import gridfile
from bench.plan.learning_rates import Search
from bench.plan.models import check_models, find_models
from bench.plan.planning import Resolved, expand, plan
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import HERE, planned_row
from tests.components import need
from tests.minbert.stand_in_hub import Hub, serve

SMALL = Resolved("small", "a" * 16, "mean", "d" * 16, "bf16", "grid", auto_length=40)
LARGE = Resolved("large", "b" * 16, "cls", "d" * 16, "bf16", "grid", auto_length=56)


def test_every_model_has_every_cell_and_neighbours_are_of_no_one_model():
    grid = gridfile.load("full")
    cells = expand(grid, SMALL, LARGE)
    alone = [expand(grid, one) for one in (SMALL, LARGE)]
    assert {c.cell_id for c in cells} == {c.cell_id for each in alone for c in each}
    assert len(cells) == 2 * 68
    changes = sum(a.model != b.model for a, b in pairwise(cells))
    assert 40 < changes < 95, "as if shuffled"
    assert sum(a.name == b.name for a, b in pairwise(cells)) < 5
    assert cells == expand(grid, SMALL, LARGE)
    assert {(c.model, c.pooling) for c in cells} == {("small", "mean"), ("large", "cls")}
    text = '[settings]\nmax_length = "auto"\n[[cells]]\nmode = ["head"]\n'
    lengths = expand(gridfile.parse(text, "x.toml", "x"), SMALL, LARGE)
    assert {cell.model: cell.max_length for cell in lengths} == {"small": 40, "large": 56}


def test_names_in_a_plan_have_what_distinguishes_its_cells():
    grid = gridfile.load("smoke")
    both, one = (plan(expand(grid, *of), [], HERE) for of in ((SMALL, LARGE), (SMALL,)))
    assert len(both) == 2 * len(one)
    assert {item.name for item in both} == {
        f"{model} {item.name}" for item in one for model in ("small", "large")
    }
    ours = [item.cell for item in one]
    theirs = [replace(cell, engine="transformers", engine_version="5") for cell in ours]
    names = {item.name for item in plan([*ours, *theirs], [], HERE)}
    assert {name.split()[0] for name in names} == {"minbert", "transformers"}
    text = '[settings]\nmodel = {}\n[[cells]]\nmode = ["head"]\n'
    for names, models in (('"a"', ["a"]), ('["a", "b"]', ["a", "b"])):
        assert gridfile.parse(text.format(names), "x.toml", "x").settings.models == models
    for wrong in ("[]", '["a", 7]', '[""]'):
        with pytest.raises(InputError, match=r"model: should be the name or folder of a model"):
            gridfile.parse(text.format(wrong), "x.toml", "x")


def test_each_model_is_given_rates_of_its_own():
    cells = [c for c in expand(gridfile.load("smoke"), SMALL, LARGE) if c.mode == "head"]
    best = {"small": 1e-3, "large": 3.16e-3}
    rows = {}
    search = Search(cells, "e" * 16, lambda cell: rows.get(cell.cell_id))
    for candidates in search.rounds():
        for cell in candidates:
            score = 0.5 - abs(cell.learning_rate_head - best[cell.model])
            rows[cell.cell_id] = planned_row(cell) | {"status": "ok", "dev_score": score}
    assert {c.model: search.tuned(c).learning_rate_head for c in cells} == best


def test_folders_of_one_name_are_distinguished_and_the_same_model_is_refused(
    tiny_checkpoint, deep_checkpoint, tmp_path
):
    copies = [tmp_path / parent / "copy" for parent in ("a", "b")]
    models = find_models([str(tiny_checkpoint), str(deep_checkpoint)], "pretrained", "auto")
    assert set(models) == {tiny_checkpoint.name, deep_checkpoint.name}
    assert all(model.name == name for name, model in models.items())
    cells = expand(gridfile.load("smoke"), replace(SMALL, model=tiny_checkpoint.name))
    with pytest.raises(InputError, match=f"positions of {tiny_checkpoint.name}"):
        check_models([replace(c, max_length=1024) for c in cells], models, pairs=False)
    for copy, checkpoint in zip(copies, (tiny_checkpoint, deep_checkpoint), strict=True):
        copy.mkdir(parents=True)
        for file in checkpoint.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    alike = find_models(list(map(str, copies)), "pretrained", "auto")
    assert set(alike) == {f"copy@{model.digest[:6]}" for model in models.values()}
    with pytest.raises(InputError, match="are the same model"):
        find_models([str(tiny_checkpoint), str(copies[0])], "pretrained", "auto")


@pytest.fixture
def hub(tiny_checkpoint, tmp_path, monkeypatch):
    """A hub that the library takes for the real one, with one model at a tag."""
    need(find_spec("huggingface_hub") is not None, "huggingface_hub", component="transformers")
    files = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    with serve(Hub({"user/tiny": {"main": {}, "v1": files}})) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield served


@pytest.mark.usefixtures("hub")
def test_a_grid_is_planned_on_a_checkpoint_from_the_hub(tmp_path):
    """The training of a model in a folder is in tests/bench/grid."""
    grid = GridRuns(tmp_path, Path("user/tiny@v1"))
    done = grid.run_apart("--select", "mode=head amp=off", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert '"model": "user/tiny@v1"' in done.stdout
