"""The tables of README, docs/results.md and docs/tokens.md have what the committed rows say."""

import re
from pathlib import Path

import numpy as np
import pytest

import bench
from tests.experiments import words as tables

ROOT = Path(__file__).parents[1]
COSTS = ("peak_rss_mib", "ms_per_1k_tokens")
BASE = "mode == 'full' and amp == 'off'"


def trainings(file):
    """The complete trainings of the grid `full`, without those of a search of rates."""
    rows = bench.load(ROOT / file).to_pandas()
    complete = rows["counts"] & (rows["status"] == "ok") & rows["max_steps"].isna()
    return rows[complete & (rows["grid"] == "full") & (rows["learning_rate_source"] != "candidate")]


def lines(page, heading):
    """The lines of the table under a heading: the setting's words, and the fields after it."""
    part = (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    table = re.findall(r"^\| (.+) \|$", part.partition("\n## ")[0], re.M)
    return {first: fields for first, *fields in (line.split(" | ") for line in table[1:])}


def filter_of(words):
    """Which rows a line is about, as a query: modes, ranks, layer sets and precisions."""
    mode = re.search(r"full|head|LoRA|DoRA", words)[0].lower()
    query = f"mode == '{mode}' and amp == '{'off' if 'fp32' in words else 'bf16'}'"
    if rank := re.search(r"rank (\d+)", words):
        query += f" and rank == {rank[1]}"
    if layers := re.search(r"`([\w-]+)`", words):
        query += f" and layers == '{layers[1]}'"
    return query


def measured(rows, query):
    """For every setting: mean score over seeds, and geometric means of its costs as ratios to those
    of full fine-tuning in fp32, over the seeds that both have."""
    base = rows.query(BASE).set_index("seed")
    settings = []
    for _, setting in rows.query(query).groupby(["rank", "layers"], dropna=False):
        seeds = setting.set_index("seed")
        logs = np.log(seeds[[*COSTS]].astype(float) / base[[*COSTS]].astype(float)).dropna()
        assert len(logs)
        settings.append([*np.exp(logs.mean()), setting["dev_score"].mean()])
    assert settings, query
    return np.array(settings).T


def shown(values, digits):
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@pytest.mark.parametrize(
    ("file", "page", "heading"),
    [
        ("runs.csv", "README.md", "What a run says"),
        ("docs/one-epoch.csv", "docs/results.md", "The full grid at one epoch"),
    ],
)
def test_a_table_of_settings_has_what_the_rows_say(file, page, heading):
    rows = trainings(file)
    compared = 0
    for words, fields in lines(page, heading).items():
        if "no training" in words or set(words) <= set("-| "):
            continue
        memory, time, score = measured(rows, filter_of(words))
        assert fields == [shown(score, 3), shown(memory, 2), shown(time, 2)], words
        compared += 1
    assert compared >= 6


def test_the_tables_on_words_have_what_the_rows_say():
    text = tables.PAGE.read_text(encoding="utf-8")
    assert tables.page(text) == text, "python -m tests.experiments.words"
    changed = text.replace("0.454 at", "0.455 at")
    assert tables.page(changed) == text != changed
