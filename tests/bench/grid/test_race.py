"""Races of a grid, `--label-curve` and `--confirm`, with their going on after a stop."""

import json
import random
import re
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from bench.analysis.groups import groups
from bench.analysis.racing import Raced, replay
from bench.report.pages import sentences
from bench.report.recommendation import in_brief
from bench.results.facts import read_facts
from bench.results.origins import folder_of
from bench.results.predictions import values_from
from bench.results.rescoring import read_results
from tests.bench.grid.test_bad_input import refused
from tests.bench.report.test_recommendation import recommend_command
from tests.bench.synthetic_rows import write_rows

GRID = """
cells = [
  { mode = ["full", "head"], amp = ["off"] },
  { mode = ["lora"], rank = [4], layers = ["all-lin-only"], amp = ["off"] },
]
[settings]
epochs = 2
batch_size = 48
learning_rates = { full = 0.005, adapter = 0.02, base = 0.005, head = 0.01 }
"""
OWN = """
data = { path = "train.csv", label = "topic" }
settings = { epochs = 2, batch_size = 16, max_length = 8, learning_rates = { full = 1e-2 } }
cells = [{ mode = ["full"] }]
"""


def leave_first(place, count):
    """Leave the first rows and the folders of their cells, as after a stop."""
    rows = place.rows()
    for row in rows[count:]:
        shutil.rmtree(folder_of(place.csv, row))
    write_rows(place.csv, rows[:count])


@pytest.fixture
def race(grid):
    """Runs a race on texts whose class is which of two words they have."""
    words = [("film", "story")[n % 2] for n in range(800)]
    rows = [f"the {word} of {n % 97} to {n},{word}\n" for n, word in enumerate(words)]
    (path := grid.folder / "data.csv").write_text("".join(["text,label\n", *rows]))
    (grid.folder / "race.toml").write_text(GRID)

    def run(*options, **others):
        return grid.finish("--race", "--data", str(path), *options, file="race.toml", **others)

    return run


def test_a_race_leaves_out_what_is_worse_and_goes_on_where_it_stopped(race, grid):
    plan = json.loads(race("--dry-run", "--json").stdout)
    assert plan["total"]["covers"] == "race, round 1 of 5"
    assert plan["total"]["race_at_most_s"] == pytest.approx(5 * plan["total"]["predicted_s"])
    assert " min for this round (race, round 1 of 5), at most " in race("--dry-run").stdout
    done = race()
    assert "race, round 4 of 5: 0/2 cells  0:0" in done.stderr
    assert "note: a training has only 30 steps, in which it learns little" in done.stderr
    rows = grid.rows()
    later = [("on", mode, seed) for seed in (1, 2, 3) for mode in ("full", "lora")]
    cost = {row.mode: (row.peak_rss_mib, row.ms_per_1k_tokens) for row in rows[:3]}
    cheaper = min("full", "lora", key=cost.get)  # of two as good, which depends on the machine
    final = [(None, cheaper, seed) for seed in range(3)]
    first = [("on", mode, 0) for mode in ("full", "head", "lora")]
    trainings = [(row.race, row.mode, row.seed) for row in rows]
    assert trainings == [*first, *later, *final], "the head left after the first round"
    assert [row.fold for row in rows] == [0, 0, 0, 1, 1, 2, 2, 3, 3, None, None, None]
    answer = "in a race among 3 settings it was the cheapest that was shown, after 4 rounds"
    assert answer in done.stdout.lower()
    page = (grid.reports / "report.md").read_text()
    assert answer in page.lower()
    index = (grid.reports / "index.html").read_text()
    assert "2 settings of the race have scores of its rounds alone, on other examples" in index
    assert "9 trainings of the 15" in page
    assert {row.dev_score for row in rows if row.race is None} == {1.0}
    assert "\nOn dev, after training on all training examples, it scores 1.000" in done.stdout

    write_rows(grid.csv, rows[:9])  # without those on all examples
    open_end = recommend_command("--runs", grid.csv).stdout
    assert "not yet trained on all examples" in open_end
    assert f"mode={cheaper} " in open_end.splitlines()[-3], "the command that trains the pick"
    assert "On dev" not in open_end
    write_rows(grid.csv, rows)

    leave_first(grid, 8)  # in the fourth round
    *_, purpose, line = recommend_command("--runs", grid.csv).stdout.splitlines()
    assert purpose == "To export the best so far:", "for those who do not go on"
    assert re.match("  python -m bench.export (full|lora-r4-all-lin-only)-fp32-s0 ", line)
    again = race("--label-curve")  # the pick, on parts of the training examples too
    assert "More labels: twice as many" in again.stdout
    assert "more steps" not in again.stdout
    rows = grid.rows()
    assert [(row.race, row.mode, row.seed) for row in rows[:12]] == trainings
    [most] = {one.train for one in read_facts(grid.csv).values()}
    curve = [(cheaper, seed, part) for part in (most // 10, most // 3) for seed in range(3)]
    assert [(row.mode, row.seed, row.max_train) for row in rows[12:]] == curve
    assert {row.race for row in rows[12:]} == {None}
    document = json.loads(recommend_command("--runs", grid.csv, "--json").stdout)["race"]
    assert (document["rounds"], document["trainings"], document["over"]) == (4, 9, True)
    other = recommend_command("--runs", grid.csv, "--margin", "0.0001").stdout
    assert "its rounds were run for the usual margin and cost" in other
    assert "bench.grid" not in other
    left = {one["label"]: one["left_after_round"] for one in document["settings"]}
    assert {name: after for name, after in left.items() if after} == {"head, fp32": 1}
    heading = next(line for line in done.stdout.splitlines() if line.startswith("Use "))
    assert heading.partition(":")[0] in again.stdout

    # what the rounds of another pick than full fine-tuning cost is compared with those of that
    results = read_results([grid.csv], None)
    raced = [row for row in results.rows if row.race]
    lora = groups([row for row in raced if row.mode == "lora"], [])[0]
    raced = replay(groups(raced, [], values_from(results.predictions_of))[0], "parameters")
    pick = raced.settings[raced.race.shown]
    assert pick.mode == "lora"
    known = SimpleNamespace(group=lora, settings=[pick], value=lambda *_: 0.9)
    times = r"\S+× the memory and \S+× the time of full fine-tuning in fp32, "
    assert re.match(times, in_brief(known, 0, raced=raced))
    assert "full" not in in_brief(known, 0)


def test_what_stays_of_an_undecided_race_is_named(race, grid, monkeypatch):
    for module in ("bench.stats.best", "bench.grid.plans"):
        monkeypatch.setattr(f"{module}.ROUNDS", 1)
    done = race()
    assert len(grid.rows()) == 3
    assert "Undecided: 2 of 3 settings may be the answer.\n" in done.stdout
    assert "A race among 3 settings ends undecided after 1 round" in done.stdout
    best = (r"Possible bests are full, fp32, the best by score; lora rank 4 on all-lin-only.*fp32, "
            r"with \S+× the memory and \S+× the time of full, fp32\. More")  # fmt: skip
    assert re.search(best, done.stdout)
    purpose, command, *export = done.stdout.strip().splitlines()[-4:]
    assert purpose == "To train the best so far on all training examples (3 seeds):"
    assert "--seeds 3" in command
    assert "--select 'mode=full unfreeze=all amp=off " in command
    assert command.endswith(" --no-race")
    assert export[0] == "To export the best so far:"
    assert export[1].startswith("  python -m bench.export full-fp32-s0 ")
    # once that has run, it need not be trained again, and the name is that of one of its cells
    options = ("--data", str(grid.folder / "data.csv"), "--no-race", "--seeds", "3")
    again = grid.finish(*options, "--select", "mode=full", file="race.toml")
    assert "[1/3] full-fp32-s0  ok" in again.stderr
    assert again.stdout.strip().splitlines()[-2:] == export

    leave_first(grid, 3)  # the best on parts, and on all
    done = race("--label-curve")
    rows = grid.rows()
    assert [row.race for row in rows] == ["on"] * 3 + [None] * 3
    assert {row.mode for row in rows[3:]} == {"full"}
    tenth, third, whole = (row.max_train for row in rows[3:])
    assert tenth < third
    assert whole is None
    assert "A race among 3 settings ends undecided after 1 round" in done.stdout
    assert "examples (--label-curve shows what they would bring), or" in done.stdout
    assert "More labels: twice as many would bring about" in done.stdout
    race("--label-curve")
    assert len(grid.rows()) == 6


def test_the_best_so_far_is_by_complete_rounds_and_the_head_alone_only_without_others():
    scored = {"head": [0.9, 0.9], "full": [0.8, 0.6], "lora": [0.5, 0.7, 0.9]}
    settings = [SimpleNamespace(mode=m, scores=dict(enumerate(s))) for m, s in scored.items()]
    race = SimpleNamespace(best={0, 1, 2}, rounds=[None] * 2)
    group = SimpleNamespace(scoring=SimpleNamespace(gain=float))
    assert Raced(group, settings, race).best == 1, "the third round is under way"
    race.best = {0}
    assert Raced(group, settings, race).best == 0
    race.rounds = []
    assert Raced(group, settings, race).best is None


def test_an_undecided_race_may_have_possible_picks_and_no_best():
    """As where the only possible best failed in its last round."""
    race = SimpleNamespace(rounds=[1], shown=None, is_over=True, live=[1], picks=[1], margin=0.02)
    label = SimpleNamespace(label="the other", mode="full")
    none = {"best": None, "group": None}
    raced = SimpleNamespace(race=race, settings=[None, label], open=[label], trainings=3, **none)
    facts = SimpleNamespace(raced=raced, limits=(), is_usual=True)
    words = partial(sentences, "race", r=facts, rounds=5, size=str, ratios=lambda *_: "")
    assert "Possible picks are the other. More training examples" in words()[0]
    assert "The commands below" not in words()[0]
    raced.best, raced.open = 1, [label, SimpleNamespace(label="head", mode="head")]
    assert "other, the best by score of those that train the encoder; head. More" in words()[0]


def test_a_grid_may_be_a_race_unless_a_flag_says_otherwise(grid):
    quick = {"grid": "quick", "quick": ("--device", "cpu"), "forecast": False}
    plan = json.loads(grid.run("--dry-run", "--json", **quick).stdout)
    assert plan["total"]["covers"] == "race, round 1 of 5"
    two = ("--no-race", "--seeds", "2", "--max-train", "499", "--dry-run", "--json")
    plan = json.loads((done := grid.run(*two, **quick)).stdout)
    auto = "batch_size auto: 16, contrastive auto: 0.9, with fewer than 500 training examples"
    assert auto in done.stderr
    given = {(cell["mode"], cell["batch_size"], cell["contrastive"]) for cell in plan["cells"]}
    assert given == {("full", 16, 0.9), ("lora", 16, 0.9), ("head", 16, 0.0)}
    done = grid.run(*two[:3], "--max-train", "500", *two[5:], **quick)
    given = {(cell["batch_size"], cell["contrastive"]) for cell in json.loads(done.stdout)["cells"]}
    assert given == {(64, 0)}
    assert {cell["race"] for cell in plan["cells"]} == {None}
    assert len(plan["cells"]) == 8
    line = "leave out --seeds 2, or seeds in the grid file, or give --no-race"
    assert line in refused(grid, "--seeds", "2", grid="quick")


def test_limits_leave_settings_out_by_their_forecast(race, grid, monkeypatch):
    same = SimpleNamespace(rss_mib=300.0, anon_mib=None)  # this process grows
    monkeypatch.setattr("bench.worker.probes.memory.resident_now", lambda: same)
    plan = json.loads(race("--dry-run", "--json").stdout)["cells"]
    needed = {cell["mode"]: cell["predicted_peak_mib"] for cell in plan}
    [first, second, most] = sorted(needed.values())
    limit = f"memory<={(second + most) / 2:.3f}MiB"
    done = race("--where", limit, "--dry-run", "--json")
    assert f"--where {limit}: 1 of 3 settings are left out by their forecast" in done.stderr
    assert {cell["mode"] for cell in json.loads(done.stdout)["cells"]} == {"head", "lora"}
    for wrong, message in {
        f"memory<={first / 2:.0f}MiB": "0 of 3 settings is left",
        "size<=1MB": "a race is limited by memory and time alone",
    }.items():
        assert message in race("--where", wrong, forecast=True, code=2).stderr
    assert grid.run("--where", limit).stderr.startswith("error: --where limits a race")
    assert not grid.csv.exists()


def write_examples(path, count=600):
    """Texts whose first word decides the class of three in four."""
    words = random.Random(0).choices(("bad", "good"), k=count)  # noqa: S311
    rows = [f"{word} film {n},{int((word == 'good') != (n % 4 == 0))}\n"
            for n, word in enumerate(words)]  # fmt: skip
    path.write_text("".join(["text,topic\n", *rows]), encoding="utf-8")


def scored(row, score, **values):
    """A row as if its cell, with other values, had another score."""
    row = replace(row, **values)
    row = replace(row, cell_id=row.cell.cell_id, dev_score=score, flags=None)
    return replace(row, dev_ci_low=score - 0.01, dev_ci_high=score + 0.01)


def test_the_recommended_setting_is_trained_alone_and_withdrawn_if_it_collapses(place):
    write_examples(place.folder / "train.csv")
    place.finish(file="own.toml")
    # the head alone, and two more seeds, as if they had run
    [first] = place.rows()
    head = {"mode": "head", "learning_rate": None, "learning_rate_head": 1e-3}
    heads = [scored(first, 0.1, **head, seed=seed) for seed in range(3)]

    def write(*rows):
        write_rows(place.csv, (*rows, *heads))

    write(*(scored(first, first.dev_score, seed=seed) for seed in range(3)))
    done = place.finish("--seeds", "3", "--confirm", "4", file="own.toml")
    assert "4 cells: 4 ok" in done.stdout
    assert "Of its 4 trainings none collapsed, which excludes, with 95% confidence" in done.stdout
    assert [row.seed for row in place.rows() if row.mode == "full"] == [0, 1, 2, 3]
    place.finish("--seeds", "3", "--confirm", "4", file="own.toml")
    assert len(place.rows()) == 7, "nothing ran again"

    # a fifth training scores as the first did, and the others as if they had scored more
    write(*(scored(first, 0.95, seed=seed) for seed in range(4)))
    done = place.finish("--seeds", "3", "--confirm", "5", "--json", file="own.toml", code=1)
    answer = json.loads(done.stdout)["recommendation"]
    assert (answer["decided"], answer["obstacles"]) == (False, ["collapse"])
    assert answer["withdrawn"]["collapsed_seeds"] == [4]
    again = recommend_command("--runs", place.csv)
    assert again.return_value == 1
    line = f"full, fp32 is withdrawn: of its 5 trainings, seed 4 scored {first.dev_score:.3f}."
    assert line in again.stdout

    # another setting is recommended than the command has cells of
    cheap = {"mode": "bitfit", "learning_rate_head": 1e-3, "peak_rss_mib": 1.0}
    others = [scored(first, 0.95, **cheap, seed=seed) for seed in range(3)]
    write(*(scored(first, 0.95, seed=seed) for seed in range(3)), *others)
    done = place.finish("--confirm", "4", file="own.toml", code=2)
    assert len(place.rows()) == 9
    assert done.stderr.startswith("error: --confirm: bitfit, fp32 is recommended, and no cell of")


@pytest.fixture
def place(grid, tmp_path_factory, monkeypatch):
    (grid.folder / "own.toml").write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(grid.folder)
    return grid


def test_the_best_is_trained_on_nested_parts_and_more_labels_are_extrapolated(place):
    write_examples(place.folder / "train.csv", 240)
    options = ("--seeds", "2", "--max-steps", "26")
    done = place.finish(*options, "--label-curve", file="own.toml")
    assert "6 cells: 6 ok" in done.stdout
    rows = place.rows()
    most = read_facts(place.csv)[rows[0].data_digest].train
    sizes = [None, None, most // 10, most // 10, most // 3, most // 3]
    assert [(row.max_train, row.seed) for row in rows] == [*zip(sizes, [0, 1] * 3, strict=True)]

    again = place.run(*options, "--label-curve", "--json", file="own.toml")
    curve = json.loads(again.stdout)["label_curve"]
    means = [sum(row.dev_score for row in rows[i : i + 2]) / 2 for i in (2, 4, 0)]
    assert [point["value"] for point in curve["points"]] == pytest.approx(means)
    assert [point["examples"] for point in curve["points"]] == [most // 10, most // 3, most]
    assert all(point["low"] < point["value"] < point["high"] for point in curve["points"])
    added = curve["twice_adds"]
    assert added["value"] == pytest.approx(0.4 * (means[2] - means[1]), rel=0.01)
    assert added["low"] < added["value"] < added["high"]
    assert len(place.rows()) == 6, "nothing ran again"
    page = (place.reports / "report.md").read_text(encoding="utf-8")
    assert "figures/labels.svg" in page
    assert "A training ends after 26 steps, in which it sees 416 examples; twice as many" in page
    assert "Group 2" not in page
    assert f"{2 * most:,} would bring" in done.stdout

    leave_first(place, 4)  # after the tenth
    place.finish(*options, "--label-curve", file="own.toml")
    assert [row.max_train for row in place.rows()] == sizes

    # the answer stays that of all examples where no plan says so
    (place.csv.with_suffix("") / "plan.json").unlink()
    best = json.loads(recommend_command("--runs", place.csv, "--json").stdout)["best"]
    assert best["cells"][0] in [row.cell_id for row in rows[:2]]

    # another dev set, as if a file of the same name had had other examples
    for row in rows[2:]:
        (folder_of(place.csv, row) / "predictions.safetensors").unlink()
    again = place.run(*options, "--json", file="own.toml")
    assert json.loads(again.stdout)["label_curve"] is None


@pytest.mark.parametrize(("rows", "extra", "message"), [
    ([("good", 30), ("bad", 30)], (), "a tenth of the 54 training examples is 5, fewer than"),
    ([("good", 300), ("bad", 300), ("odd", 6)], (), "has none of class 'odd'; give more"),
    ([("good", 300), ("bad", 300)], ("--folds", "3"), "leave it out with folds"),
])  # fmt: skip
def test_what_has_no_curve_is_refused(place, rows, extra, message):
    lines = [f"{label} film {n},{label}" for label, count in rows for n in range(count)]
    text = "\n".join(["text,topic", *lines, ""])
    (place.folder / "train.csv").write_text(text, encoding="utf-8")
    line = refused(place, "--label-curve", *extra, file="own.toml")
    assert line.startswith("error: --label-curve: ")
    assert message in line
