"""Several models in one run of the grid command."""

import json
import re
from pathlib import Path

import pytest

from bench.examples.tokens import tokenizer_of
from bench.plan.job import Job
from bench.references.client import encoder_of
from bench.results.facts import Reference, read_facts
from bench.results.store import cells_folder
from tests.encoders import Checkpoints, need_transformers

HEAD = ("--select", "mode=head amp=off")


@pytest.fixture
def engines(monkeypatch):
    """Engines whose tokenizers were asked for."""
    need_transformers()
    asked = []
    monkeypatch.setattr(
        "bench.grid.inputs.tokenizer_of",
        lambda engine, folder: asked.append(engine) or tokenizer_of(engine, folder),
    )
    return asked


def test_another_architecture_decides_the_engine_of_all(grid, tmp_path, monkeypatch, engines):
    """Unless cells of engine minbert are selected. Neither process that a grid starts for each of
    its models runs here: what builds it, and what finds its reference points."""

    def references(job, names, count, *_):
        values = {"about": "", "train": count, "scores": {"accuracy": (0.5, 0.4, 0.6)}}
        known = [Reference(name=n, **values, **encoder_of(n, job.cell)) for n in names]
        return known, "ok", ""

    monkeypatch.setattr("bench.references.client._run", references)
    monkeypatch.setattr("bench.launch.checks.check_models", lambda *_: None)
    checkpoints = Checkpoints(tmp_path)
    bert, other = checkpoints("bert"), checkpoints("albert")
    grid.model = other
    refused = grid.finish("--select", "mode=head,full compile=off", grid="engines", code=2)
    assert not grid.csv.exists()
    assert "grid engines has cells of engine minbert: " in refused.stderr
    assert "leave them out with --select engine=transformers" in refused.stderr
    grid.model = f"{bert},{other}"
    done = grid.finish(*HEAD, "--max-length", "auto", references=True)
    assert "note: engine transformers of all models, so that costs are compara" in done.stderr
    rows = {row.model: row for row in grid.rows()}
    assert rows.keys() == {bert.name, other.name}
    assert {row.engine for row in rows.values()} == {"transformers"}
    for name in rows:
        assert f"{name}: max_length auto: " in done.stderr
        assert f"reference points of {name}: " in done.stderr
    for job in map(Job.read, cells_folder(grid.csv).glob("head-*")):
        assert Path(job.checkpoint).name == job.cell.model
    assert f"{bert.name} head-fp32-s0" in done.stderr
    assert "## Encoders: " in (grid.reports / "report.md").read_text()
    again = grid.run(*HEAD, "--max-length", "auto", "--dry-run", "--json", forecast=False)
    assert {cell["action"] for cell in json.loads(again.stdout)["cells"]} == {"done"}
    [facts] = read_facts(grid.csv).values()
    frozen = [one for one in facts.references if one.name == "frozen"]
    assert {one.model_digest for one in frozen} == {r.model_digest for r in rows.values()}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_what_minbert_can_not_load_runs_in_transformers(grid, tmp_path, monkeypatch, engines, kind):
    monkeypatch.setattr("bench.launch.checks.check_models", lambda *_: None)
    folder = grid.model = Checkpoints(tmp_path)(kind, hidden_act="silu")
    why = "hidden_act 'silu' is not supported"
    refused = grid.finish(*HEAD, "--engine", "minbert", code=2)
    assert why in refused.stderr
    assert "take --engine transformers" in refused.stderr
    plan = (*HEAD, "--max-length", "auto", "--dry-run", "--json")
    named = grid.finish(*plan, "--engine", "transformers", forecast=False)
    assert engines == ["transformers"], "its tokenizer"
    assert "note: engine transformers" not in named.stderr
    auto = grid.finish(*plan, forecast=False)
    assert f"note: engine transformers: {folder}" in auto.stderr
    assert why in auto.stderr
    assert [cell["engine"] for cell in json.loads(auto.stdout)["cells"]] == ["transformers"]


def test_an_encoder_like_bert_runs_in_minbert_with_its_own_tokenizer(grid, tmp_path, engines):
    folder = grid.model = Checkpoints(tmp_path)("roberta")
    done = grid.finish(*HEAD, "--max-length", "auto")
    [length] = re.findall(r"^note: max_length auto: (\d+), cuts 0\.\d% of", done.stderr, re.M)
    [row] = grid.rows()
    assert (row.engine, row.engine_version, row.own_kernels) == ("minbert", None, None)
    assert row.max_length == int(length)
    assert int(length) % 8 == 0
    assert row.tokens_cut < 0.02
    assert engines == ["minbert"]
    path = tmp_path / "mine.toml"
    path.write_text("[[cells]]\nmode = ['lora']\nrank = [2]\nlayers = ['query+q_lin']\n")
    no_layer = grid.finish("--dry-run", grid=str(path), code=2)
    line = f"layers 'query+q_lin': {folder.name} has no linear layer whose name ends in q_lin; the"
    assert line in no_layer.stderr
