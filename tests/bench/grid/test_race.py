"""Races of a grid: rounds, the pick on all examples, and going on after a stop."""

import csv
import json
import re
import shutil
from types import SimpleNamespace
from unittest import mock

import pytest

from bench.analysis.groups import groups
from bench.analysis.racing import replay
from bench.grid import plans
from bench.recommend import main as recommend
from bench.report.pages import sentences
from bench.report.recommendation import in_brief
from bench.results.predictions import values_from
from bench.results.rescoring import read_results
from bench.stats import racing

GRID = """
[settings]
epochs = 2
batch_size = 16
[settings.learning_rates]
full = 0.003
adapter = 0.01
base = 0.003
head = 0.01
[[cells]]
mode = ["full", "head"]
amp = ["off"]
[[cells]]
mode = ["lora"]
rank = [4]
layers = ["all-lin-only"]
amp = ["off"]
"""
WORDS = ("film", "story")


def write_race(folder, count=1200):
    """A grid, and texts whose class is which of two words they have."""
    with (folder / "data.csv").open("w", newline="") as file:
        rows = [(f"the {WORDS[n % 2]} of {n % 97} to {n}", WORDS[n % 2]) for n in range(count)]
        csv.writer(file).writerows([("text", "label"), *rows])
    (folder / "race.toml").write_text(GRID)


@pytest.fixture
def race(grid):
    write_race(grid.folder)

    def run(*options, race=True, **others):
        return grid.run(
            *(["--race"] if race else []), "--data", str(grid.folder / "data.csv"), *options,
            grid=str(grid.folder / "race.toml"), quick=("--device", "cpu"), **others,
        )  # fmt: skip

    return run


def trainings(rows):
    return [(row.race, row.mode, row.seed) for row in rows]


def test_a_race_leaves_out_what_is_worse_and_goes_on_where_it_stopped(race, grid, capsys):
    plan = json.loads(race("--dry-run", "--json").stdout)
    assert plan["total"]["covers"] == "race, round 1 of 5"
    assert plan["total"]["race_at_most_s"] == pytest.approx(5 * plan["total"]["predicted_s"])
    assert " min for this round (race, round 1 of 5), at most " in race("--dry-run").stdout
    done = race()
    assert done.returncode == 0, done.stderr
    assert "race, round 4 of 5: 0/2 cells  0:0" in done.stderr
    rows = grid.rows()
    later = [("on", mode, seed) for seed in (1, 2, 3) for mode in ("full", "lora")]
    final = [(None, "full", seed) for seed in range(3)]
    first = [("on", mode, 0) for mode in ("full", "head", "lora")]
    assert trainings(rows) == [*first, *later, *final], "the head left after the first round"
    assert [row.fold for row in rows] == [0, 0, 0, 1, 1, 2, 2, 3, 3, None, None, None]
    answer = "in a race among 3 settings it was the cheapest that was shown, after 4 rounds"
    assert answer in done.stdout.lower()
    page = (grid.reports / "report.md").read_text()
    assert answer in page.lower()
    index = (grid.reports / "index.html").read_text()
    assert "2 settings of the race have scores of its rounds alone, on other examples" in index
    assert "9 trainings of the 15" in page
    [dev] = {row.dev_score for row in rows if row.race is None}
    assert dev == 1.0
    assert "\nOn dev, after training on all training examples, it scores 1.000" in done.stdout

    whole = grid.csv.read_bytes().splitlines(keepends=True)
    grid.csv.write_bytes(b"".join(whole[:10]))  # without those on all examples
    with pytest.raises(SystemExit):
        recommend(["--runs", str(grid.csv)])
    open_end = capsys.readouterr().out
    assert "not yet trained on all examples" in open_end
    assert "On dev" not in open_end
    grid.csv.write_bytes(b"".join(whole))

    kept = grid.csv.read_bytes().splitlines(keepends=True)[:5]  # in the second round
    grid.csv.write_bytes(b"".join(kept))
    for row in rows[4:]:
        [folder] = grid.csv.with_suffix("").glob(f"*-{row.cell_id}-*")
        shutil.rmtree(folder)
    again = race()
    assert again.returncode == 0, again.stderr
    assert trainings(grid.rows()) == trainings(rows)
    document = json.loads(race("--json").stdout)["recommendation"]["race"]
    assert (document["rounds"], document["trainings"], document["over"]) == (4, 9, True)
    with pytest.raises(SystemExit):
        recommend(["--runs", str(grid.csv), "--margin", "0.0001"])
    other = capsys.readouterr().out
    assert "its rounds were run for the usual margin and cost" in other
    assert "same command" not in other
    assert "bench.grid" not in other
    left = {one["label"]: one["left_after_round"] for one in document["settings"]}
    assert left["head, fp32"] == 1
    assert set(left.values()) == {1, None}
    heading = next(line for line in done.stdout.splitlines() if line.startswith("Use "))
    assert heading.partition(":")[0] in again.stdout
    check_costs_of_rounds(grid)


def check_costs_of_rounds(grid):
    """Of a pick other than full fine-tuning, what its rounds cost is compared with those of full
    fine-tuning, which has no training on all examples."""
    results = read_results([grid.csv], None)
    rows = [row for row in results.rows if row.race]
    raced = replay(groups(rows, [], values_from(results.predictions_of))[0], "parameters")
    pick = raced.settings[raced.race.shown]
    assert pick.mode == "lora"
    without_full = groups([row for row in rows if row.mode == "lora"], [])[0]
    known = SimpleNamespace(group=without_full, settings=[pick], value=lambda *_: 0.9)
    assert re.match(r"\S+× the memory and \S+× the time of full fine-tuning in fp32, ",
                    in_brief(known, 0, raced=raced))  # fmt: skip
    assert "full" not in in_brief(known, 0)


def test_what_stays_of_an_undecided_race_is_named(race, grid):
    with mock.patch.object(racing, "ROUNDS", 1), mock.patch.object(plans, "ROUNDS", 1):
        done = race()
    assert done.returncode == 0, done.stderr
    assert len(grid.rows()) == 3
    assert "Undecided: 2 of 3 settings may be the answer.\n" in done.stdout
    assert "A race among 3 settings ends undecided after 1 round" in done.stdout
    assert (
        "Possible bests are full, fp32, the best by score; lora rank 4 on all-lin-only"
        in done.stdout
    )
    assert re.search(
        r"fp32, with \S+× the memory and \S+× the time of full, fp32\. More", done.stdout
    )
    purpose, command, *export = done.stdout.strip().splitlines()[-4:]
    assert purpose == "To train the best so far on all training examples (3 seeds):"
    assert "--seeds 3" in command
    assert "--select 'mode=full unfreeze=all amp=off " in command
    assert command.endswith(" --no-race")
    assert export[0] == "To export the best so far:"
    assert export[1].startswith("  python -m bench.export full-fp32-s0 ")
    # once that has run, it need not be trained again, and the name is that of one of its cells
    options = ("--no-race", "--seeds", "3", "--select", "mode=full")
    with mock.patch.object(racing, "ROUNDS", 1), mock.patch.object(plans, "ROUNDS", 1):
        again = race(*options, race=False)
    assert again.returncode == 0, again.stderr
    assert "[1/3] full-fp32-s0  ok" in again.stderr
    assert again.stdout.strip().splitlines()[-2:] == export
    assert "To train the best so far" not in again.stdout


def test_an_undecided_race_may_have_possible_picks_and_no_best():
    """As where the only possible best failed in its last round."""
    race = SimpleNamespace(rounds=[1], shown=None, is_over=True, live=[1], picks=[1], margin=0.02)
    label = SimpleNamespace(label="the other")
    raced = SimpleNamespace(
        race=race, settings=[None, label], best=None, open=[label], trainings=3, group=None
    )
    facts = SimpleNamespace(raced=raced, limits=(), is_usual=True)
    first, _ = sentences("race", r=facts, rounds=5, size=str, ratios=None)
    assert "Possible picks are the other. More training examples" in first
    assert "The commands below" not in first


def test_a_grid_may_be_a_race_unless_a_flag_says_otherwise(grid):
    plan = json.loads(
        grid.run("--dry-run", "--json", grid="quick", quick=("--device", "cpu")).stdout
    )
    assert plan["total"]["covers"] == "race, round 1 of 5"
    options = ("--no-race", "--seeds", "2", "--dry-run", "--json")
    plan = json.loads(grid.run(*options, grid="quick", quick=("--device", "cpu")).stdout)
    assert {cell["race"] for cell in plan["cells"]} == {None}
    assert len(plan["cells"]) == 8
    refused = grid.run("--seeds", "2", grid="quick")
    assert refused.returncode == 2
    assert "leave out --seeds 2, or seeds in the grid file, or give --no-race" in refused.stderr


def test_limits_leave_settings_out_by_their_forecast(race, grid):
    plan = json.loads(race("--dry-run", "--json").stdout)["cells"]
    needed = {cell["mode"]: cell["predicted_peak_mib"] for cell in plan}
    [first, second, most] = sorted(needed.values())
    limit = f"memory<={(second + most) / 2:.3f}MiB"
    done = race("--where", limit, "--dry-run", "--json")
    assert f"--where {limit}: 1 of 3 settings are left out by their forecast" in done.stderr
    left = {cell["mode"] for cell in json.loads(done.stdout)["cells"]}
    assert left == {mode for mode, mib in needed.items() if mib < most}
    for wrong, message in {
        f"memory<={first / 2:.0f}MiB": "0 of 3 settings is left",
        "size<=1MB": "a race is limited by memory and time alone",
        "memory>3": "is not a limit such as",
    }.items():
        refused = race("--where", wrong, forecast=True)
        assert refused.returncode == 2
        assert message in refused.stderr
    refused = grid.run("--where", limit)
    assert refused.stderr.startswith("error: --where limits a race")
    assert not grid.csv.exists()
