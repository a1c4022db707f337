"""`--confirm N`: further trainings of the recommended setting alone, and its withdrawal; and
`--label-curve`: the answer trained on a tenth and a third of the training examples, too."""

import json
import random
import shutil
from dataclasses import replace
from unittest import mock

import pytest

from bench.grid import plans
from bench.stats import racing
from tests.bench.grid.test_bad_input import refused
from tests.bench.grid.test_race import race as race
from tests.bench.grid.test_race import write_race
from tests.bench.grids import GridRuns
from tests.bench.report.test_recommendation import recommend_command
from tests.bench.synthetic_rows import write_rows

GRID = """
[data]
path = "train.csv"
label = "topic"

[settings]
epochs = 2
batch_size = 16
max_length = 8
learning_rates = { full = 1e-2 }

[[cells]]
mode = ["full"]
"""
PLACE = {"grid": "own.toml", "quick": ("--device", "cpu")}


def write_examples(path, count=1200):
    """Texts whose first word decides the class of three in four."""
    chance, lines = random.Random(0), ["text,topic"]  # noqa: S311
    for number in range(count):
        is_good, is_odd = chance.random() < 0.5, number % 4 == 0
        lines.append(f"{'good' if is_good else 'bad'} film {number},{int(is_good != is_odd)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def scored(row, score, **values):
    """A row as if its cell, with other values, had another score."""
    row = replace(row, **values)
    row = replace(row, cell_id=row.cell.cell_id, dev_score=score, flags=None)
    return replace(row, dev_ci_low=score - 0.01, dev_ci_high=score + 0.01)


def test_the_recommended_setting_is_trained_alone_and_withdrawn_if_it_collapses(place):
    write_examples(place.folder / "train.csv")
    assert place.run(**PLACE).returncode == 0

    # the head alone, and two more seeds, as if they had run
    [first] = place.rows()
    head = {"mode": "head", "learning_rate": None, "learning_rate_head": 1e-3}
    heads = [scored(first, 0.1, **head, seed=seed) for seed in range(3)]

    def write(*rows):
        write_rows(place.csv, (*rows, *heads))

    write(*(scored(first, first.dev_score, seed=seed) for seed in range(3)))
    done = place.run("--seeds", "3", "--confirm", "4", **PLACE)
    assert done.returncode == 0, done.stderr
    assert "4 cells: 4 ok" in done.stdout
    assert "Of its 4 trainings none collapsed, which excludes, with 95% confidence" in done.stdout
    assert [row.seed for row in place.rows() if row.mode == "full"] == [0, 1, 2, 3]
    assert place.run("--seeds", "3", "--confirm", "4", **PLACE).returncode == 0
    assert len(place.rows()) == 7, "nothing ran again"

    # a fifth training scores as the first did, and the others as if they had scored more
    write(*(scored(first, 0.95, seed=seed) for seed in range(4)))
    done = place.run("--seeds", "3", "--confirm", "5", "--json", **PLACE)
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)["recommendation"]
    assert (answer["decided"], answer["obstacles"]) == (False, ["collapse"])
    assert answer["withdrawn"]["collapsed_seeds"] == [4]
    again = recommend_command("--runs", place.csv)
    assert again.return_value == 1
    line = f"full, fp32 is withdrawn: of its 5 trainings, seed 4 scored {first.dev_score:.3f}."
    assert line in again.stdout
    assert line in (place.reports / "report.md").read_text(encoding="utf-8")

    # another setting is recommended than the command has cells of
    cheap = {"mode": "bitfit", "learning_rate_head": 1e-3, "peak_rss_mib": 1.0}
    others = [scored(first, 0.95, **cheap, seed=seed) for seed in range(3)]
    write(*(scored(first, 0.95, seed=seed) for seed in range(3)), *others)
    done = place.run("--confirm", "4", **PLACE)
    assert (done.returncode, len(place.rows())) == (2, 9)
    assert done.stderr.startswith("error: --confirm: bitfit, fp32 is recommended, and no cell of")


@pytest.fixture
def place(tmp_path, tiny_checkpoint, monkeypatch):
    runs = GridRuns(tmp_path / "place", tiny_checkpoint, workers_here=True)
    runs.folder.mkdir()
    (runs.folder / "own.toml").write_text(GRID, encoding="utf-8")
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(runs.folder)
    return runs


def test_the_best_is_trained_on_nested_parts_and_more_labels_are_extrapolated(place):
    write_examples(place.folder / "train.csv", 400)
    options = ("--seeds", "2", "--max-steps", "44")
    done = place.run(*options, "--label-curve", **PLACE)
    assert done.returncode == 0, done.stderr
    assert "6 cells: 6 ok" in done.stdout
    rows = place.rows()
    facts = json.loads((place.folder / "runs.data.json").read_text())
    most = facts[rows[0].data_digest]["train"]
    sizes = [None, None, most // 10, most // 10, most // 3, most // 3]
    assert [row.max_train for row in rows] == sizes
    assert [row.seed for row in rows] == [0, 1] * 3

    again = place.run(*options, "--label-curve", "--json", **PLACE)
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
    assert "## More labels: twice as many would bring about" in page
    assert "figures/labels.svg" in page
    assert "Group 2" not in page
    capped = "A training ends after 44 steps, in which it sees 704 examples; twice as many labels"
    assert capped in page
    assert f"{2 * most:,} would bring" in done.stdout

    # a stop after the tenth
    place.csv.write_bytes(b"".join(place.csv.read_bytes().splitlines(keepends=True)[:5]))
    for row in rows[4:]:
        [folder] = place.csv.with_suffix("").glob(f"*-{row.cell_id}-*")
        shutil.rmtree(folder)
    assert place.run(*options, "--label-curve", **PLACE).returncode == 0
    assert [row.max_train for row in place.rows()] == sizes

    # the answer stays that of all examples where no plan says so
    (place.csv.with_suffix("") / "plan.json").unlink()
    [best] = json.loads(recommend_command("--runs", place.csv, "--json").stdout)["best"]["cells"][
        :1
    ]
    assert best in [row.cell_id for row in rows[:2]]

    # another dev set, as if a file of the same name had had other examples
    for row in rows[2:]:
        for path in place.csv.with_suffix("").glob(f"*-{row.cell_id}-*/predictions.safetensors"):
            path.unlink()
    again = place.run(*options, "--json", **PLACE)
    assert json.loads(again.stdout)["label_curve"] is None


def test_a_race_without_a_pick_is_followed_by_the_best_on_parts_and_on_all(race, grid):
    write_race(grid.folder, 400)
    with mock.patch.object(racing, "ROUNDS", 1), mock.patch.object(plans, "ROUNDS", 1):
        done = race("--label-curve")
        assert done.returncode == 0, done.stderr
        rows = grid.rows()
        assert [row.race for row in rows] == ["on"] * 3 + [None] * 3
        assert len({row.mode for row in rows[3:]}) == 1
        tenth, third, whole = (row.max_train for row in rows[3:])
        assert tenth < third
        assert whole is None
        assert "A race among 3 settings ends undecided after 1 round" in done.stdout
        assert "examples (--label-curve shows what they would bring), or" in done.stdout
        assert "More labels: twice as many would bring about" in done.stdout
        assert race("--label-curve").returncode == 0
        assert len(grid.rows()) == 6


def test_a_decided_race_is_followed_by_the_pick_on_parts_alone(race, grid):
    options = ("--label-curve", "--select", "mode=full,head")
    done = race(*options)
    assert done.returncode == 0, done.stderr
    facts = json.loads((grid.folder / "runs.data.json").read_text())
    [most] = {one["train"] for one in facts.values()}
    dev = [row for row in grid.rows() if row.race is None]
    assert {row.mode for row in dev} == {"full"}
    assert "More labels: twice as many" in done.stdout
    assert "more steps" not in done.stdout
    assert [row.seed for row in dev] == [0, 1, 2] * 3
    assert [row.max_train for row in dev[::3]] == [None, most // 10, most // 3]

    count = len(grid.rows())
    document = json.loads(race(*options, "--json").stdout)
    assert document["recommendation"]["decided"]
    points = document["label_curve"]["points"]
    assert [point["examples"] for point in points] == [most // 10, most // 3, most]
    assert [point["value"] for point in points] == pytest.approx(
        [sum(row.dev_score for row in dev[i : i + 3]) / 3 for i in (3, 6, 0)]
    )
    assert len(grid.rows()) == count, "nothing ran again"


@pytest.mark.parametrize(
    ("rows", "extra", "message"),
    [
        ([("good", 30), ("bad", 30)], (), "a tenth of the 54 training examples is 5, fewer than"),
        ([("good", 300), ("bad", 300), ("odd", 6)], (), "has none of class 'odd'; give more"),
        ([("good", 300), ("bad", 300)], ("--folds", "3"), "leave it out with folds"),
    ],
)
def test_what_has_no_curve_is_refused(place, rows, extra, message):
    lines = [f"{label} film {n},{label}" for label, count in rows for n in range(count)]
    text = "\n".join(["text,topic", *lines, ""])
    (place.folder / "train.csv").write_text(text, encoding="utf-8")
    line = refused(place, "--label-curve", *extra, **PLACE)
    assert line.startswith("error: --label-curve: ")
    assert message in line
