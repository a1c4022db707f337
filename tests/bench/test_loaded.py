"""Results in Python: `bench.load`, and the notebook that shows it."""

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from nbclient import NotebookClient

import bench
from bench.analysis.groups import ordered_groups
from bench.common.errors import InputError
from bench.compare.__main__ import command as compare
from bench.plan.columns import BY_NAME, NAMES
from bench.recommend import main as recommend
from bench.results.predictions import values_from
from bench.results.rescoring import read_results
from bench.results.store import read_rows
from tests.bench.synthetic_rows import synthetic_rows, write_rows
from tests.reference_run import copy_reference

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return copy_reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def results(runs):
    return bench.load(runs)


def printed(command, *words):
    return CliRunner().invoke(command, [*map(str, words)], standalone_mode=False).stdout


def test_rows_are_typed_and_as_in_the_file_and_settings_as_in_the_report(results, runs, tmp_path):
    frame, rows = results.to_pandas(), read_rows(runs)
    assert list(frame.columns) == [*NAMES, "counts"]
    for name in NAMES:
        if name in ("started_at", "finished_at"):
            assert str(frame[name].dtype) == "datetime64[us, UTC]"
            continue
        kind = {str: "string", int: "Int64", float: "float64"}[BY_NAME[name].kind]
        assert str(frame[name].dtype) == kind
        known = [None if pd.isna(value) else value for value in frame[name]]
        assert known == [row[name] for row in rows]
    [row] = synthetic_rows(1)
    write_rows(tmp_path / "runs.csv", [row, row | {"attempt": row.attempt + 1}])
    assert [*bench.load(tmp_path / "runs.csv").to_pandas()["counts"]] == [False, True]

    frame, read = results.settings(), read_results([runs], None)
    [first, *_] = groups = ordered_groups(read.rows, (), values_from(read.predictions_of))
    assert len(frame) == sum(len(group.settings) for group in groups)
    own = frame[frame["group"] == 0].set_index("setting")
    for setting in first.settings:
        score = setting.estimate("dev_score")
        values = own.loc[setting.label]
        names = ["dev_score", "dev_score_low", "dev_score_high"]
        assert [*values[names]] == [score.value, *score.ends()]
        assert values["train_s"] == setting.estimate("train_s").value
        assert values["seeds"] == len({row.seed for row in setting.ok})


def test_answers_are_those_of_the_commands(undrawn, results, runs, tmp_path):
    where = "memory<=1600MiB score>=0.6"
    answer = results.recommend(where=where, prefer="time", margin="1pt")
    words = ("--runs", runs, "--where", where, "--prefer", "time", "--margin", "1pt")
    assert printed(recommend, *words) == f"{answer}\n"
    assert json.dumps(answer.values, indent=1) == printed(recommend, *words, "--json").rstrip()
    assert answer._repr_html_().startswith("<p>")
    assert "memory&lt;=" in answer._repr_html_()
    other = ROOT / "docs" / "xeon.csv"
    compared = results.compare(bench.load(other))
    page = ("--reports", tmp_path / "reports")
    assert str(compared).splitlines() == printed(compare, runs, other, *page).splitlines()[:-1]
    want = json.loads(printed(compare, runs, other, *page, "--json"))
    got = json.loads(json.dumps(compared.values))
    for side in ("base", "new"):
        assert got.pop(side)["rows"] == want.pop(side)["rows"]
    assert got == want


def test_what_can_not_be_read_is_an_error_of_a_line_and_text_is_no_html(results, tmp_path):
    with pytest.raises(InputError, match=r"no\.csv: no such file of results$"):
        bench.load(tmp_path / "no.csv")
    with pytest.raises(InputError):
        results.recommend(where="memory<=much")
    write_rows(tmp_path / "other.csv", [r | {"model": "<script>x"} for r in synthetic_rows(3)])
    other = bench.load(tmp_path / "other.csv")
    with pytest.raises(InputError, match="nothing to compare"):
        results.compare(other)
    page = other._repr_html_()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    (tmp_path / "empty.csv").touch()
    assert bench.load(tmp_path / "empty.csv")._repr_html_() == "<p>no results</p>"


def test_the_notebook_runs_and_shows_the_report_s_table_and_figures(results, runs):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    load = next(cell for cell in notebook.cells if cell.id == "load")
    assert '"one-epoch.csv"' in load.source
    load.source = load.source.replace("one-epoch.csv", str(runs))
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = {cell.id: cell.outputs[0].data for cell in notebook.cells if cell.cell_type == "code"}
    page = shown["load"]["text/html"]
    assert page.count("<svg") == 2
    assert page.count("<tr") == 1 + sum(results.settings()["group"] == 0)
    for id_ in ("rows", "table"):
        assert "<table" in shown[id_]["text/html"]
    assert "lora" in shown["values"]["text/plain"]
    for id_ in ("answer", "compare"):
        assert shown[id_]["text/html"].startswith("<p>")
