"""`--confirm N`: further trainings of the recommended setting alone, and its withdrawal."""

import json
import random
from dataclasses import replace

from bench.plan.columns import NAMES
from bench.results.rowfile import encode, record
from tests.bench.grids import GridRuns
from tests.bench.report.test_recommendation import recommend_command

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


def test_the_recommended_setting_is_trained_alone_and_withdrawn_if_it_collapses(
    tmp_path, tiny_checkpoint, monkeypatch
):
    place = GridRuns(tmp_path / "place", tiny_checkpoint, workers_here=True)
    place.folder.mkdir()
    write_examples(place.folder / "train.csv")
    (place.folder / "own.toml").write_text(GRID, encoding="utf-8")
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place.folder)
    assert place.run(**PLACE).returncode == 0

    # the head alone, and two more seeds, as if they had run
    [first] = place.rows()
    head = {"mode": "head", "learning_rate": None, "learning_rate_head": 1e-3}
    heads = [scored(first, 0.1, **head, seed=seed) for seed in range(3)]

    def write(*rows):
        place.csv.write_bytes(record(NAMES) + b"".join(map(encode, (*rows, *heads))))

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
