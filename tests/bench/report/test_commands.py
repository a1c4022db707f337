"""The commands that repeat a report, and the cells that they plan; and every command that is
printed, with hostile text in every text, run by a shell with stubs."""

import html
import json
import random
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from unittest import mock

import pytest

from bench import recommend
from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.common.messages import command_line
from bench.compare.__main__ import command as compare
from bench.grid.__main__ import command
from bench.grid.inputs import override
from bench.grid.session import how_to_go_on
from bench.plan import gridfile
from bench.plan.cell import ON
from bench.plan.columns import BY_NAME, NAMES, format_value
from bench.plan.dataset import DataSpec
from bench.plan.planning import Resolved, expand
from bench.plan.selection import parse_selection, select
from bench.report.__main__ import main as report
from bench.report.commands import commands
from bench.results.facts import FACTS, NO_FACTS, DataFacts
from bench.results.rowfile import record
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import cell, new_row, result_row
from tests.hostile import check_line

SETTINGS = ("seeds", "epochs", "max_steps", "max_train", "max_dev", "model", "init", "task", "race")
AXES = ("mode", "rank", "layers", "amp", "batch_size", "seed")
HOSTILE = "a'\";touch PWNED;'$(touch PWNED)`touch PWNED`\ntouch PWNED\n|touch PWNED>PWNED\u202e #"
ROWS = [
    result_row(cell(*of, amp, seed), random.Random(seed))  # noqa: S311
    for of in (("full", None, None), ("head", None, None), ("lora", 8, "attn"))
    for amp in ("off", "bf16")
    for seed in (0, 1, 2)
]
MINE = """
[settings]
seeds = 2
[[cells]]
mode = ["full", "head"]
amp = ["off", "on"]
batch_size = [16, 64]
learning_rate = [5e-6, 3e-5]
[[cells]]
mode = ["lora", "dora"]
rank = [1, 8]
layers = ["attn", "all-lin"]
amp = ["off", "on"]
unfreeze = ["all", "iterative"]
batch_size = [16, 64]
learning_rate = [5e-6, 3e-5]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The working folder of commands, with a user's grid."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path


def cells(grid, amp_on="bf16"):
    return expand(grid, Resolved("minilm", "m", "mean", "d", amp_on, "grid"))


def planned(line, amp_on="bf16"):
    """The cells that a command of a report plans, as the command itself parses it."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "bench.grid"]
    given = command.make_context("bench.grid", words[3:]).params
    changes = {name: given[name] for name in SETTINGS if given[name] is not None}
    grid = override(gridfile.load(given["grid_name"]), changes)
    return select(cells(grid, amp_on), parse_selection(given["selection"]))


def rows_of(picked, grid="mine"):
    """Rows of cells that ended ok."""
    return [
        new_row(**cell.columns(), conditions_id="c", grid=grid, status="ok", attempt=1)
        for cell in picked
    ]


def test_a_group_of_a_users_grid_has_its_grid_and_one_cell():
    found = groups(rows_of(cells(gridfile.load("mine.toml"), amp_on="fp16")))
    assert len(found) == 2, "one for each batch size"
    for group in found:
        whole, one, report = commands(group, ["a b.csv"], NO_FACTS)
        assert "--select" not in whole
        ids = {row["cell_id"] for row in group.rows}
        assert ids <= {cell.columns()["cell_id"] for cell in planned(whole, "fp16")}
        (cell,) = planned(one, "fp16")
        assert {n: cell.columns()[n] for n in AXES} == {n: group.first[n] for n in AXES}
        assert one.endswith("--rerun ok")
        assert report == "python -m bench.report --runs 'a b.csv' --reports reports/"


@pytest.mark.parametrize(("spec", "expected"), [
    ({"path": "in/mine.csv", "validation": "dev set.csv", "text": "my text", "label": "y"},
     "--data in/mine.csv --text 'my text' --label y --validation 'dev set.csv'"),
    ({"path": "hub:me/mine", "config": "en"}, "--data hub:me/mine --data-config en"),
    ({"path": "/home/ann/mine.csv", "problem": "regression", "test": "t.csv"},
     "--data mine.csv --problem regression"),
    ({"path": "x.csv", "classes": ("a, b", "c"), "drop_leaks": True},
     "--data x.csv --classes '\"a, b\",c' --drop-leaks"),
    (None, "--data FILE"),
])  # fmt: skip
def test_data_of_ones_own_and_the_settings_of_flags_are_repeated(spec, expected):
    every = select(cells(gridfile.load("full")), parse_selection("mode=full,head amp=off"))
    own = [replace(cell, task="mine", max_length=48, early_stopping=2) for cell in every]
    (group,) = groups(row | {"dev_metric": "macro_f1"} for row in rows_of(own, "full"))
    digest = str(group.shared("data_digest"))
    described = DataSpec(**spec).given if spec else {}
    facts = {digest: DataFacts(task="x", problem="single_label", given=described, train=9, dev=1)}
    whole, one, report = commands(group, [], facts=facts)
    assert f" {expected} " in whole
    for line in (whole, one):
        given = command.make_context("bench.grid", shlex.split(line)[3:]).params
        assert (given["task"], given["max_length"], given["early_stopping"]) == ("mine", 48, 2)
        assert given["metric"] == "macro_f1"
        read = {name: given[name] for name in DataSpec.model_fields if given.get(name)}
        assert DataSpec(**read).given == (described or {"path": "FILE"})
    assert report.endswith("--metric macro_f1")
    assert parse_selection(given["selection"])["max_length"] == {"48"}


def test_commands_repeat_rates_repeats_and_races():
    """A search's rates are not selected by, and a cell of a race is trained alone."""
    every = select(cells(gridfile.load("full")), parse_selection("mode=lora rank=1"))
    searched = [replace(one, learning_rate_source="search", learning_rate=3e-4) for one in every]
    rows = rows_of(every, "full")
    quick = cells(gridfile.load("quick"))
    raced = [replace(cell, race=ON, seed=n, fold=n) for n in range(2) for cell in quick]
    final = [replace(quick[0], seed=n) for n in range(3)]
    check_snapshot("commands", {
        title: commands(groups(of)[0], [], NO_FACTS) for title, of in {
            "once": rows,
            "rates of a search": rows_of(searched, "full"),
            "two grids": [*rows[1:], *rows_of(every[:1], "other")],
            "three repeats": [row | {"repeat": n} for row in rows for n in (1, 3, 2)],
            "quick, a race by itself": rows_of([*raced, *final], "quick"),
            "a race of another grid": rows_of([*raced, *final], "mine"),
            "the finalist of quick alone": rows_of(final, "quick"),
            "the finalist of another grid alone": rows_of(final, "mine"),
        }.items()
    })  # fmt: skip


def write(path, columns):
    """Write the rows with hostile text in some columns, and facts with such text."""
    texts = dict.fromkeys(columns, HOSTILE)
    fields = []
    for number, row in enumerate(ROWS):
        if "cell_id" in texts:  # else they were attempts at one cell
            texts["cell_id"] = f"{HOSTILE}{number}"
        fields.append([texts.get(name, format_value(row[name])) for name in NAMES])
    path.write_bytes(record(NAMES) + b"".join(map(record, fields)))
    facts = DataFacts(
        task=HOSTILE, problem="single_label", source=HOSTILE, train=9, dev=1,
        given=dict.fromkeys((*DataSpec.model_fields, HOSTILE), HOSTILE),
    )  # fmt: skip
    digest = HOSTILE if "data_digest" in columns else ROWS[0].data_digest
    FACTS.path(path).write_text(json.dumps({digest: facts.model_dump(mode="json")}))


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A function that runs the commands in a text, and returns those that the stubs saw."""
    folder = tmp_path_factory.mktemp("shell")
    stubs, seen = folder / "bin", folder / "seen"
    stubs.mkdir()
    for name in ("python", "minbert-bench"):
        (stubs / name).write_text(f'#!/bin/sh\necho "$0 $1 $2" >> {seen}\n')
        (stubs / name).chmod(0o755)
    (stubs / "touch").symlink_to("/usr/bin/touch")
    done = set()

    def run(text):
        inner = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
        plain = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
        lines = html.unescape(re.sub(r"</?(pre|code|p)[^>]*>", "\n", plain)).splitlines()
        strings = re.findall(r'"(?:[^"\\]|\\.)*"', "\n".join(inner))
        for line in (*lines, *map(json.loads, strings)):
            found = re.search(r"\b(python|minbert-bench) .*", line)
            if found and found[0] not in done:
                done.add(found[0])
                subprocess.run(
                    ["/bin/sh", "-c", found[0]], cwd=folder, check=False, env={"PATH": str(stubs)},
                    stdin=subprocess.DEVNULL, capture_output=True,
                )  # fmt: skip
                assert not (folder / "PWNED").exists(), line
        return {line.rpartition("/")[2] for line in seen.read_text().splitlines()}

    return run


def printed(main, *arguments, capsys):
    with mock.patch("sys.argv", ["x", *arguments]):
        main.main([*arguments], standalone_mode=False)
    return "".join(capsys.readouterr())


def test_no_text_of_a_row_runs_in_a_printed_command(tmp_path, monkeypatch, undrawn, capsys, shell):
    monkeypatch.chdir(tmp_path)
    columns = []
    for name in (name for name in NAMES if BY_NAME[name].kind is str):
        write(tmp_path / "one.csv", [name])
        try:
            shell(printed(recommend.main, "--runs", "one.csv", capsys=capsys))
        except InputError as error:
            check_line(str(error), f"one.csv, line 2: {name}")
        else:
            columns.append(name)
    assert {"model", "grid", "message", "machine"} <= {*columns}
    assert not {"device", "task", "cell_id"} & {*columns}
    named = tmp_path / f"{HOSTILE}.csv".replace("/", "-")
    write(named, columns)
    other = shutil.copy(named, tmp_path / f"other {named.name}").name
    text = printed(report, "--runs", named.name, "--code-version", HOSTILE, capsys=capsys)
    text += printed(report, "--runs", named.name, "--history", capsys=capsys)
    text += printed(compare, named.name, other, "--reports", "reports", capsys=capsys)
    text += "\n".join(path.read_text() for path in tmp_path.rglob("*.[hm][td]*"))
    text += "\n".join([command_line("ensemble", HOSTILE), *how_to_go_on([HOSTILE])])
    commands = ("grid", "report", "recommend", "compare", "ensemble")
    assert {f"python -m bench.{name}" for name in commands} <= shell(text)
