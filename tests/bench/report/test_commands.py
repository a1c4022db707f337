"""The commands with which a report can be repeated, and the cells that they plan."""

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.analysis.groups import Group, groups
from bench.grid.__main__ import command, override
from bench.plan import gridfile
from bench.plan.cell import Cell
from bench.plan.columns import NAMES, format_value, parse_value, row_of
from bench.plan.planning import Resolved, expand
from bench.plan.rows import Row
from bench.plan.selection import AXES, parse_selection, select
from bench.report.commands import Repeat, commands
from bench.report.render import report
from bench.report.selections import point
from bench.results.store import read_rows
from tests.bench.synthetic_rows import new_row, synthetic_rows

PAPER = Path(__file__).parents[3] / "docs" / "paper.csv"
SETTINGS = ("seeds", "epochs", "max_steps", "max_train", "max_dev", "model", "init", "task")
MINE = """
[settings]
seeds = 2

[[cells]]
mode = ["full", "head"]
amp = ["off", "on"]
batch_size = [16, 64]
learning_rate = [5e-6, 3.3333333333e-5]

[[cells]]
mode = ["lora", "dora"]
rank = [1, 8]
layers = ["attn", "all-lin"]
amp = ["off", "on"]
unfreeze = ["all", "iterative"]
batch_size = [16, 64]
learning_rate = [5e-6, 3.3333333333e-5]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """The working folder of commands, with a user's grid."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path


def cells(grid: gridfile.Grid, amp_on: str = "bf16") -> list[Cell]:
    return expand(grid, Resolved("minilm", "m", "mean", "d", amp_on, "grid"))


def planned(line: str, amp_on: str = "bf16") -> Counter[tuple]:
    """The cells that a command of a report plans, as the command itself parses it."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "bench.grid"]
    given = command.make_context("bench.grid", words[3:]).params
    grid = override(
        gridfile.load(given["grid_name"]), {name: given[name] for name in SETTINGS if given[name]}
    )
    selected = select(cells(grid, amp_on), parse_selection(given["selection"]))
    searched = given["lr"] == "auto"
    return Counter(point(cell, searched=searched) for cell in selected)


def shown(rows: Iterable[Row], searched: bool = False) -> Counter[tuple]:
    return Counter(point(row, searched=searched) for row in rows)


def check(group: Group, repeat: Repeat, amp_on: str = "bf16") -> None:
    """Check that the commands plan exactly the group, and the command for one cell exactly that."""
    *whole, one, last = repeat.lines
    assert sum((planned(line, amp_on) for line in whole), Counter()) == shown(group.rows)
    assert list(planned(one, amp_on)) == list(shown([group.first]))
    assert one.endswith("--rerun ok")
    assert last.startswith("python -m bench.report --runs ")
    assert len(repeat.notes) == 1, "no note on other cells"


def rows_of(picked: Iterable[Cell], grid: str = "mine") -> list[Row]:
    """Rows of cells that ended ok, as read from a file."""
    rows = [
        new_row(**cell.columns(), conditions_id="c", grid=grid, status="ok", attempt=1)
        for cell in picked
    ]
    return [
        row_of({name: parse_value(name, format_value(row[name])) for name in NAMES}) for row in rows
    ]


def test_each_group_of_the_committed_rows_is_repeated_cell_by_cell() -> None:
    found = groups(read_rows(PAPER))
    assert {group.shared("grid") for group in found} == {"paper", "paper-final"}
    for group in found:
        check(group, commands(group, ["paper.csv"]))


def test_commands_of_the_report_on_the_committed_rows() -> None:
    rows = [
        row for row in read_rows(PAPER)
        if (row["grid"], row["task"], row["status"]) == ("paper", "sts", "ok")
    ]  # fmt: skip
    whole, adapters, one, _ = report(rows, [], ["paper.csv"])["commands"]
    assert "--grid paper --model minilm --init pretrained --task sts --epochs 3" in whole
    full = "mode=full batch_size=64 learning_rate=0.0001"
    assert whole.endswith(f"--select '{full}'")
    assert adapters.endswith("--select 'mode=lora,dora rank=1 batch_size=64 learning_rate=0.0001'")
    assert one.endswith(f"--select '{full}' --rerun ok")


@pytest.mark.parametrize("amp_on", ["bf16", "fp16"])
@pytest.mark.parametrize("selections", [
    [""],
    ["seed=1"],
    ["mode=head"],
    ["mode=full amp=on"],
    ["learning_rate=5e-6"],
    ["unfreeze=iterative"],
    ["mode=full learning_rate=5e-6", "rank=1 learning_rate=5e-6"],
    ["mode=full,head", "mode=lora rank=1,8 layers=attn amp=off unfreeze=all", "mode=dora rank=8"],
    ["mode=lora rank=8 layers=attn amp=on unfreeze=all learning_rate=5e-6 seed=0"],
])  # fmt: skip
def test_selections_of_a_users_grid_are_repeated_cell_by_cell(selections, amp_on) -> None:
    every = cells(gridfile.load("mine.toml"), amp_on)
    picked = {c.cell_id: c for text in selections for c in select(every, parse_selection(text))}
    found = groups(rows_of(picked.values()))
    assert len(found) == 2, "one for each batch size"
    for group in found:
        check(group, commands(group, []), amp_on)


def test_all_of_a_grid_needs_no_selection() -> None:
    (group,) = groups(rows_of(cells(gridfile.load("full")), "full"))
    whole, _, _ = commands(group, []).lines
    assert "--select" not in whole
    check(group, commands(group, []))


def test_where_no_selection_is_exact_it_says_how_many_cells_are_more() -> None:
    every = select(cells(gridfile.load("full")), parse_selection("mode=lora,full"))
    rows = [
        row
        for row in rows_of(every, "full")
        if row["rank"] in (None, 1) or (row["rank"], row["layers"]) == (8, "attn")
    ]
    (group,) = groups(rows)
    found = commands(group, [])
    full, lora, one, _ = found.lines
    assert planned(full) + planned(lora) > shown(rows)
    assert (len(rows), (planned(full) + planned(lora)).total()) == (12, 18)
    assert "these plan 18 cells, and 12 are shown" in found.notes[1]
    assert planned(one) == shown([group.first])


def test_a_grid_that_cannot_be_read_has_all_axes_of_a_cell_named(here) -> None:
    (here / "mine.toml").unlink()
    every = cells(gridfile.parse(MINE, "mine.toml", "mine"))
    rows = rows_of(select(every, parse_selection("mode=lora batch_size=64 amp=on seed=1")))
    (group,) = groups(rows)
    found = commands(group, [])
    whole, one, _ = found.lines
    assert "--grid mine.toml" in whole
    assert "--select" not in whole
    assert "are not known here, so its command may plan more than are shown" in found.notes[1]
    terms = shlex.split(one)[shlex.split(one).index("--select") + 1].split()
    assert [term.partition("=")[0] for term in terms] == list(AXES)
    (here / "mine.toml").write_text(MINE)
    assert planned(one) == shown([group.first])


@pytest.mark.parametrize("text", [
    "mode = 1", MINE.replace("[5e-6, 3.3333333333e-5]", "[1e-3]"), "\0", f"{MINE}\nseeds = 3",
])  # fmt: skip
def test_a_grid_that_has_changed_since_is_noted(here, text: str) -> None:
    rows = rows_of(select(cells(gridfile.load("mine.toml")), parse_selection("batch_size=64")))
    (here / "mine.toml").write_text(text)
    (group,) = groups(rows)
    found = commands(group, [])
    assert len(found.notes) == 2
    assert "mine" in found.notes[1]
    assert "learning_rate=" in found.lines[-2]


def test_grids_of_other_folders_are_not_read(here) -> None:
    (here / "below").mkdir()
    (here / "below" / "mine.toml").write_text(MINE)
    (group,) = groups(rows_of(cells(gridfile.load("full"))[:4], "below/mine"))
    assert "are not known here" in commands(group, []).notes[1]


def test_rates_of_a_search_are_not_selected_by() -> None:
    every = select(cells(gridfile.load("full")), parse_selection("mode=lora rank=1"))
    found = [replace(cell, learning_rate_source="search", learning_rate=3.16e-4) for cell in every]
    (group,) = groups(rows_of(found, "full"))
    whole, one, _ = commands(group, []).lines
    assert whole.endswith("--lr auto --select 'mode=lora rank=1'")
    assert planned(whole) == shown(group.rows, searched=True)
    assert planned(one) == shown([group.first], searched=True)


def test_rows_of_two_grids_are_repeated_by_both() -> None:
    every = cells(gridfile.load("full"))
    rows = rows_of(select(every, parse_selection("mode=full,head")), "full")
    (mine,) = (
        replace(cell, learning_rate=5e-6, learning_rate_base=None)
        for cell in select(every, parse_selection("mode=lora rank=1 layers=attn-only amp=off"))
    )
    (group,) = groups([*rows, *rows_of([mine], "other")])
    full, other, one, _ = commands(group, []).lines
    assert planned(full) == shown(rows)
    assert "--grid other.toml" in other
    assert planned(one) == shown([group.first])


def test_a_seed_that_no_grid_has_costs_nothing() -> None:
    (group,) = groups([row | {"seed": 10**12} for row in rows_of(cells(gridfile.load("smoke")))])
    assert len(commands(group, []).notes) == 2


def test_a_note_states_whether_the_commands_repeat_the_whole_report() -> None:
    rows = synthetic_rows(4)
    assert report(rows, [], [])["commands_said"][0].startswith("All of it, one cell, and")
    other = [row | {"conditions_id": "other"} for row in rows]
    note = report([*rows, *other], [], [])["commands_said"][0]
    assert note.startswith("All of the first group, one cell of it, and")


def test_repeats_are_run_again_as_often() -> None:
    rows = rows_of(cells(gridfile.load("full"))[:4], "full")
    (group,) = groups([row | {"repeat": n} for row in rows for n in (1, 3, 2)])
    *whole, one, _ = commands(group, []).lines
    for line in (*whole, one):
        assert command.make_context("bench.grid", shlex.split(line)[3:]).params["repeats"] == 3
    (group,) = groups(rows)
    assert not any("--repeats" in line for line in commands(group, []).lines)
