"""A grid in three processes that know nothing of each other, merged, against one run of it."""

import json
import re

from bench.plan.rows import DECLARED
from bench.results.facts import FACTS
from bench.results.merge import SHARDS, Shards, merge
from bench.results.predictions import kept_predictions, values_from
from bench.results.store import cells_folder, read_plan, read_rows
from tests.bench.grids import GridRuns
from tests.experiments.shards import strike

SELECT = ("--select", "mode=full,head,lora amp=off")
SEEDS = ("--select", "mode=head,full amp=off", "--seeds", "3")
COSTS = {name for name, of in DECLARED.items() if of["group"] in ("time", "memory", "energy")}


def test_what_no_shard_can_be_of_is_refused_in_a_line(grid):
    for words, reason in (
        (("--race",), "excludes a race: add --no-race"),
        (("--lr", "auto"), "excludes --lr auto"),
        (("--confirm", "3"), "excludes --confirm"),
        (("--label-curve",), "excludes --label-curve"),
        (("--select", "mode=head amp=off"), "can be divided into 1 shards at most"),
    ):
        done = grid.run("--shard", "0/3", *words)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert reason in done.stderr
        assert done.stderr.count("error: ") == 1
    assert "excludes a race" in grid.run("--shard", "0/3", grid="quick").stderr
    done = grid.run("--shard", "0/2", *SEEDS, forecast=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: --shard: the costs of \S+ can't be counted .*\n", done.stderr)
    assert not grid.csv.exists()


def planned(grid, index, *more):
    done = grid.finish("--shard", f"{index}/2", "--dry-run", "--json", *SEEDS, *more)
    return [cell["cell_id"] for cell in json.loads(done.stdout)["cells"]]


def test_a_shard_is_the_same_whatever_has_run(grid):
    before = [planned(grid, index) for index in (0, 1)]
    assert not {*before[0]} & {*before[1]}
    assert sorted(map(len, before)) == [3, 3]
    assert grid.run("--select", "mode=head amp=off").returncode == 0
    assert [planned(grid, index) for index in (0, 1)] == before
    assert [planned(grid, index, "--fresh") for index in (0, 1)] == before


def test_three_shards_are_one_run(tmp_path, tiny_checkpoint):
    places = []
    for shard in ("", "0/3", "1/3", "2/3"):
        place = GridRuns(tmp_path / f"of{shard[:1]}", tiny_checkpoint, workers_here=True)
        place.folder.mkdir()
        done = place.finish(*SELECT, *(["--shard", shard] if shard else []))
        notes = f"note: shard {shard} of plan " in done.stderr, "1 of 3 cells" in done.stderr
        assert notes == (bool(shard), bool(shard))
        places.append(place)
    one, *shards = places
    to = tmp_path / "runs.csv"
    counts, notes = merge([shard.csv for shard in shards], to)
    assert (counts["rows"], counts["renumbered"], notes) == (3, 0, [])
    merged, whole = ({r.cell_id: r for r in read_rows(path)} for path in (to, one.csv))
    assert len(merged) == 3
    ours, theirs = (values_from(kept_predictions(path)) for path in (to, one.csv))
    # without costs and times, and their predictions, which only shards have here
    others = {"flags", "message", "started_at", "finished_at", "flops_per_token", *COSTS}
    others |= {name for name in DECLARED if name.endswith(("_ms", "_s", "_mhz", "_w"))}
    for cell_id, row in merged.items():
        assert row | dict.fromkeys(others) == whole[cell_id] | dict.fromkeys(others)
        assert (ours([row]) == theirs([whole[cell_id]])).all()
    assert {row.cell_id for row in read_plan(to)} == {*whole}
    files = [{p.name for p in cells_folder(path).iterdir()} for path in (to, one.csv)]
    assert {n for n in files[0] if "-" in n} == {n for n in files[1] if "-" in n}
    [shards] = SHARDS.read(to).values()
    assert shards == Shards(count=3, begun=(0, 1, 2))
    assert FACTS.read(to) == FACTS.read(one.csv)
    again = one.run(*SELECT, "--runs", str(to), "--dry-run", forecast=False)
    assert "3 cells: 0 to run, 3 not" in again.stdout


def test_killed_shards_and_merges_lose_nothing(tmp_path):
    """A few of the kills of `python -m tests.experiments.shards`."""
    counts, wrong = strike(6, 1, tmp_path)
    assert wrong == []
    assert counts["shard"]
