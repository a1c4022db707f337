"""Races of a grid: rounds, the pick on all examples, and going on after a stop."""

import csv
import json
from unittest import mock

import pytest

from bench.export.__main__ import main as export
from bench.grid.session import Session
from bench.recommend import main as recommend

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


@pytest.fixture
def race(grid):
    """A command on texts whose class is which of two words they have."""
    with (grid.folder / "data.csv").open("w", newline="") as file:
        rows = [(f"the {WORDS[n % 2]} of {n % 97} to {n}", WORDS[n % 2]) for n in range(1200)]
        csv.writer(file).writerows([("text", "label"), *rows])
    (grid.folder / "race.toml").write_text(GRID)

    def run(*options):
        return grid.run(
            "--race", "--data", str(grid.folder / "data.csv"), *options,
            grid=str(grid.folder / "race.toml"), quick=("--device", "cpu"),
        )  # fmt: skip

    return run


def test_a_race_ends_with_the_cheapest_on_all_examples(race, grid):
    done = race("--json")
    print(done.stderr, done.stdout)
    for row in grid.rows():
        print(row.race, row.mode, row.seed, row.fold, row.status, row.dev_score, row.peak_rss_mib)
    assert 0
