"""Plugins: the distribution in tests/plugins/scale, installed; missing ones, and broken ones."""

import importlib
import json
import os
import re
import shutil
import sys
from dataclasses import asdict, replace
from subprocess import Popen
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from adapters import methods
from bench.common.errors import InputError, RefusedError
from bench.engines.engine import engine_of
from bench.launch.checks import check_class_settings, check_loss
from bench.plan import metrics
from bench.plan.columns import row_of, values_of
from bench.plan.gridfile import Settings
from bench.recommend import main as recommend
from bench.report.__main__ import main as report
from bench.report.figures import COLOURS, LINES, MARKERS
from bench.results import scores
from bench.results.facts import read_facts
from bench.results.outcomes import Outcome
from bench.results.predictions import read_folder
from bench.results.protocol import PREDICTIONS
from bench.results.rowfile import read_rows
from minbert.data.problems import PROBLEMS, SingleLabel
from minbert.data.tasks import base, prepared
from minbert.data.tasks.base import Examples, Task, TaskData
from minbert.data.tasks.prepared import Prepared, read_prepared
from minbert.registry import Registry
from minbert.training.losses import mean_loss
from tests.bench.conftest import narrow
from tests.bench.plugins import PROJECT, ROOT, declare, environment, run
from tests.bench.synthetic_rows import synthetic_rows, write_rows

GRID = 'cells = [{ mode = ["full", "scale"], layers = ["attn-only"] }]'
NAME = "minbert-bench-scale"
WITHOUT_TORCH = """
import sys
import bench.grid.__main__
from adapters.methods import METHODS
from bench.executors.executor import EXECUTORS
from bench.export.formats import FORMATS
from bench.plan.metrics import METRICS
from minbert.data.problems import PROBLEMS

print(*(list(each.usable())[-1] for each in (METHODS, PROBLEMS, METRICS, EXECUTORS, FORMATS)),
      "torch" in sys.modules)
"""
CELL = "scale-attn-only-fp32-s0"
GRIDS = ("tests.bench.grids", "--model", "tiny", "--max-train", "32", "--max-dev", "24", "--epochs",
         "1", "--max-steps", "1", "--device", "cpu", "--executor", "wrapped", "--wrapper",
         "nice -n 1", "--grid")  # fmt: skip


@pytest.fixture(scope="module")
def installed(minilm, tmp_path_factory):
    """A folder with the results of a grid, and the interpreter that sees the plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    narrow(1, folder / "tiny", minilm, spread=0.2)
    (folder / "mine.toml").write_text(GRID)
    project = shutil.copytree(PROJECT, folder / "project")  # building writes there
    python, env = environment(folder / "venv", project), {"MINBERT_BENCH_LOCKS": str(folder)}
    with run(python, "-m", "tests.bench.plugins", how=Popen, stdin=-1, cwd=folder, env=env) as to:

        def command(*words, real=False):
            """What a command prints; if `real`, what it starts are processes of their own."""
            print(json.dumps([real, *map(str, words)]), file=to.stdin, flush=True)
            out, err = json.loads(to.stdout.readline())
            assert "error: " not in err, err
            return out

        command(*GRIDS, "mine.toml", "--metric", "kappa", "--save-weights", real=True)
        yield SimpleNamespace(folder=folder, python=python, run=command)


def test_a_grid_runs_with_a_plugin(installed):
    rows = read_rows(installed.folder / "runs.csv")
    known = {(row.mode, row.plugin, row.status) for row in rows}
    assert known == {("full", None, "ok"), ("scale", f"{NAME} 0.1.0", "ok")}
    assert {row.executor for row in rows} == {f"wrapped of {NAME} 0.1.0: nice -n 1"}
    text = (installed.folder / "reports" / "report.md").read_text()
    assert all(part in text for part in ("scale on attn-only, fp32", "Cohen's kappa"))
    answer = installed.run("bench.recommend", "--metric", "kappa", "--json")
    assert json.loads(answer)["metric"] == "kappa"
    shown = run(installed.python, "-c", WITHOUT_TORCH).stdout
    assert shown == "scale ordinal kappa wrapped numpy False\n"
    for new in (3, 0):
        line = installed.run("bench.track", "--runs", "runs.csv", "--to", "lines:sent.jsonl")
        assert line == f"lines:sent.jsonl has 2 cells; new in it are {new} runs\n"
    sent = map(json.loads, (installed.folder / "sent.jsonl").read_text().splitlines())
    [row] = [row for row in rows if row.mode == "scale"]
    [numbers] = [run["numbers"] for run in sent if run["name"].startswith(CELL)]
    assert numbers["dev_score"] == pytest.approx(row.dev_score)
    plan = json.loads(installed.run(*GRIDS, "mine.toml", "--dry-run", "--json"))["cells"]
    assert {(cell["cell_id"], cell["action"]) for cell in plan} == {
        (row.cell.cell_id, "done") for row in rows
    }  # fmt: skip
    newer = replace(row.cell, plugin=f"{NAME} 0.1.1")
    assert newer.cell_id != row.cell.cell_id, "another version runs the cell again"


def test_a_folder_is_exported_in_the_plugins_format(installed):
    answer = json.loads(installed.run(
        "bench.export", CELL, "--format", "numpy", "--allow-low-score", "--to", "out", "--json",
        real=True,
    ))  # fmt: skip
    assert answer["format"] == "numpy"
    measured = [form["name"] for form in answer["figures"]["forms"] if not form["missing"]]
    assert measured == ["merged"]
    assert "encoder.safetensors" in (installed.folder / "out" / "README.md").read_text()
    script = run(sys.executable, installed.folder / "out" / "predict.py", "a fine film")
    assert script.stdout.startswith("a fine film -> ")
    predicted = script.stdout.partition("-> ")[2].partition("very negative=")[0].strip()
    (installed.folder / "texts.txt").write_text("a fine film\n")
    assert f"\n1,{predicted}," in installed.run("bench.predict", "out", "texts.txt")


def test_a_plugins_problem_is_trained_scored_and_exported(installed, tmp_path, monkeypatch):
    folder = installed.folder
    rows = [f"a film of {n} of 40 minutes,{n % 4 + 1}\n" for n in range(40)]
    (folder / "stars.csv").write_text("text,label\n" + "".join(rows))
    (folder / "stars.toml").write_text('[[cells]]\nmode = ["full"]\n')
    installed.run(
        *GRIDS, "stars.toml", "--data", "stars.csv", "--problem", "ordinal",
        "--runs", "ordinal.csv", "--save-weights",
    )  # fmt: skip
    [own] = read_rows(folder / "ordinal.csv")
    assert (own.status, own.dev_metric) == ("ok", "accuracy")
    facts = read_facts(folder / "ordinal.csv")[own.data_digest]
    assert (facts.problem, facts.source) == ("single_label", "stars.csv")
    own_problem = f"ordinal of {NAME} 0.1.0"
    assert facts.plugin == own_problem
    assert f"single label ({own_problem})" in (folder / "reports" / "index.html").read_text()
    text = (folder / "reports" / "report.md").read_text()
    assert re.search(r"python -m bench\.grid --grid stars\.toml .*--problem ordinal", text)

    monkeypatch.syspath_prepend(PROJECT)
    [path] = folder.rglob(f"*-{own.cell_id}-*/{PREDICTIONS}")
    outcome = read_folder(path.parent, "accuracy")[""]
    loss = "cross-entropy minbert_bench_scale.distance:loss"
    assert own.dev_loss == pytest.approx(mean_loss(loss, outcome.logits, outcome.labels))
    usual = mean_loss("cross-entropy", outcome.logits, outcome.labels)
    assert own.dev_loss != pytest.approx(usual, rel=0.1)
    answer = json.loads(installed.run(
        "bench.export", own.name, "--runs", "ordinal.csv", "--allow-low-score", "--to", "stars",
        "--json",
    ))  # fmt: skip
    assert answer["format"] == "transformers"
    assert not (folder / "stars" / "train.py").exists()
    card = (folder / "stars" / "README.md").read_text()
    assert f"stars (stars.csv), {own_problem};" in card
    assert f"the problem {own_problem}" in card
    (folder / "texts.txt").write_text("a fine film\n")
    assert "\n1," in installed.run("bench.predict", "stars", "texts.txt")


def test_rows_stay_readable_without_the_plugin(installed, tmp_path, undrawn):
    runs = installed.folder / "runs.csv"
    assert "scale" not in methods.MODES, "this process has no plugin"
    arguments = ["--runs", str(runs), "--reports", str(tmp_path)]
    assert "2 rows" in CliRunner().invoke(report, arguments, catch_exceptions=False).output
    page = (tmp_path / "index.html").read_text()
    assert "scale (plugin not installed) on attn-only, fp32" in page
    outcome = CliRunner().invoke(recommend, ["--runs", str(runs), "--json"], catch_exceptions=False)
    assert "scale (plugin not installed)" in outcome.stdout
    [row] = [row for row in read_rows(runs) if row.mode == "scale"]
    with pytest.raises(InputError, match=f"mode scale is of {NAME} 0.1.0, and no plugin with it"):
        engine_of(row.cell)


def test_a_mode_of_no_plugin_is_no_mode_and_one_without_its_plugin_comes_last(tmp_path):
    [row] = synthetic_rows(1, failures=False)
    values = {**values_of(row), "cell_id": "5ca1e", "mode": "scale", "layers": "attn"}
    row = row_of(values | {"plugin": "mine 1.0"})
    path = tmp_path / "runs.csv"
    write_rows(path, [row])
    [read] = read_rows(path)
    assert (read.mode, read.plugin) == ("scale", "mine 1.0")
    with pytest.raises(ValueError, match="mode: 'scale' is not one of full, "):
        row_of(values)
    path.write_bytes(path.read_bytes().replace(b"mine 1.0", b"mine;import os"))
    with pytest.raises(InputError, match=r"plugin: .* is no distribution with a version"):
        read_rows(path)
    assert methods.in_order(["scale", "lora", "full"]) == ["full", "lora", "scale"]
    assert COLOURS["scale"] not in {COLOURS[mode] for mode in methods.MODES}
    assert (MARKERS["scale"], LINES["scale"]) == ("o", ":")


BROKEN = "import missing_module\n"
FINE = """
from adapters.methods import Method

METHOD = Method(name="fine", layer="fine:Layer", colour="#000000", marker="o")
OTHER = Method(name="other", layer="fine:Layer", colour="#000000", marker="o")
LORA = Method(name="lora", layer="fine:Layer", colour="#000000", marker="o")
WRONG = object()
"""
POINTS = "[minbert_bench.methods]\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose distributions and modules this process sees."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("fine", "broken"):
        sys.modules.pop(name, None)


def registry():
    importlib.invalidate_caches()
    own = methods.METHODS.own.values()
    return Registry(methods.Method, "minbert_bench.methods", own, taken=("full",))


@pytest.mark.parametrize(("points", "name", "reason"), [
    ("broken = broken:METHOD", "broken", "ModuleNotFoundError: No module named 'missing_mod"),
    ("absent = fine:ABSENT", "absent", "AttributeError: module 'fine' has no attribute"),
    ("wrong = fine:WRONG", "wrong", "fine:WRONG is no adapters.methods.Method"),
    ("mine = fine:OTHER", "mine", "it calls itself 'other'"),
    ("lora = fine:LORA", "lora", "this project has one of that name"),
    ("full = fine:OTHER", "full", "this project has one of that name"),
    ("Na/me = fine:OTHER", "Na/me", "its name has to be of lower-case letters"),
])  # fmt: skip
def test_a_broken_plugin_is_a_line_with_its_distribution(folder, capsys, points, name, reason):
    points = f"{POINTS}{points}\nfine = fine:METHOD"
    declare(folder, "some-plugin", points, fine=FINE, broken=BROKEN)
    found = registry()
    assert found.usable().keys() == {*methods.METHODS, "fine"}
    assert found.usable()["lora"] is methods.METHODS["lora"]
    line = f"warning: some-plugin 1.0: its method {name!r} can't be used: {reason}"
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith(line)
    assert found.plugin("fine") == "some-plugin 1.0"
    assert found.known(name) is found.own.get(name)
    if name in found and name not in found.own:
        with pytest.raises(InputError, match=r"some-plugin 1\.0: its method"):
            found[name]


@pytest.mark.parametrize(("mode", "code"), [("lora", 0), ("broken", 2)])
def test_what_does_not_need_a_broken_plugin_goes_on(tmp_path, mode, code):
    declare(tmp_path, "some-plugin", f"{POINTS}broken = broken:METHOD", broken=BROKEN)
    (tmp_path / "a.toml").write_text(f'[[cells]]\nmode=["{mode}"]\nrank=[1]\nlayers=["attn"]\n')
    words = "tests.bench.grids --grid a.toml --dry-run --init random --model bert-tiny"
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = run(sys.executable, "-m", *words.split(), cwd=tmp_path, stderr=-1, env=env)
    line = "some-plugin 1.0: its method 'broken' can't be used: ModuleNotFoundError"
    assert done.returncode == code, done.stderr
    assert done.stderr.count(f"warning: {line}") == 1
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == (code > 0)
    assert all(line in error for error in errors)


PROBLEM = """
from minbert.data.problems import MultiLabel

class Focal(MultiLabel):
    name = "focal"
    loss_function = "fine:loss"

PROBLEM = Focal()
"""


def test_a_plugins_problem_is_part_of_the_data_and_refuses_other_losses(folder, monkeypatch):
    made = Prepared("mine", "focal", ("a",), "0", plugin="focal of some-loss 1.0")
    (folder / "task.json").write_text(json.dumps(asdict(made)))
    line = "the problem is focal of some-loss 1.0, and no plugin with it is installed; install that"
    with pytest.raises(InputError, match=line):
        read_prepared(folder)
    examples = Examples(("one", "two"), None, np.eye(2, dtype=np.int8))
    digests = set()
    for version in ("1.0", "1.1"):
        declare(folder, "some-loss", "[minbert_bench.problems]\nfocal = fine:PROBLEM", fine=PROBLEM)
        info = folder / "some-loss-1.0.dist-info"
        info.joinpath("METADATA").write_text(f"Name: some-loss\nVersion: {version}\n")
        importlib.invalidate_caches()
        known = Registry(SingleLabel, "minbert_bench.problems", PROBLEMS.own.values())
        for module in (base, prepared):
            monkeypatch.setattr(module, "PROBLEMS", known)
        if version == "1.0":
            assert read_prepared(folder).task.problem.stored_as == "multi_label"
        else:
            with pytest.raises(InputError, match=r"and focal of some-loss 1\.1 is installed"):
                read_prepared(folder)
        for name in ("focal", "multi_label"):
            task = Task("mine", ("a", "b"), problem_name=name, is_own=True)
            digests.add(TaskData(task, examples, examples).digest)
        shutil.rmtree(info)
    assert len(digests) == 3
    data = TaskData(Task("mine", problem_name="focal"), examples, examples)
    with pytest.raises(InputError, match=r"task mine has the loss of focal of some-loss 1\.1"):
        check_class_settings([Settings(class_weights="balanced")], data)
    with pytest.raises(InputError, match=r"task mine has the problem focal of some-loss 1\.1"):
        check_loss([Settings(regression_loss="pearson")], [], data)


def test_what_is_no_problem_no_loss_or_of_two_distributions_is_refused(folder):
    for values in ({}, {"loss_function": "f"}, {"loss_function": "m:f", "metric": "f1"}):
        with pytest.raises(ValueError, match="Odd has to have a loss_function as module:function"):
            type("Odd", (SingleLabel,), {"name": "odd", **values})
    declare(folder, "vector", "", fine=f"loss = lambda logits, labels: logits[:, 0]\n{FINE}")
    with pytest.raises(ValueError, match="the loss fine:loss of a plugin gives no tensor of one"):
        mean_loss("mse fine:loss", np.ones((2, 1)), np.ones(2))
    for name in ("one", "two"):
        declare(folder, name, f"{POINTS}fine = fine:METHOD")
    with pytest.raises(InputError, match=r"one 1.0 and two 1.0: .* several distributions"):
        registry()["fine"]


METRIC = """
from bench.plan.metrics import Metric

value = lambda labels, predicted: 1.0
influence = lambda labels, predicted: [1.0]
METRIC = Metric(
    name="odd", label="odd", problems=("single_label",), value="fine:value",
    influence="fine:influence",
)
"""


def test_a_metric_that_fails_names_its_distribution(folder, monkeypatch):
    declare(folder, "odd-one", "[minbert_bench.metrics]\nodd = fine:METRIC", fine=METRIC)
    importlib.invalidate_caches()
    known = Registry(metrics.Metric, "minbert_bench.metrics", metrics.METRICS.own.values())
    for module in (metrics, scores):
        monkeypatch.setattr(module, "METRICS", known)
    outcome = Outcome(np.array([0, 1, 1]), np.array([0, 1, 0]), "")
    with pytest.raises(RefusedError, match=r"odd-one 1\.0: its metric 'odd' fails: fine:influence"):
        scores.numbers("odd", outcome)
    every = scores.every_score("single_label", outcome)
    assert every["odd"] is None is not every["mcc"]
