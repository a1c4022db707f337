"""This project against what people use to classify texts, with the same wall time and encoder:
`python -m tests.experiments.alternatives --help`. A run is one way of ways.toml with one seed."""

import random
import tomllib
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save

from bench.common.csvfile import write_csv
from bench.common.files import write_atomically
from bench.stats.intervals import spread
from minbert.data.tasks import load_data
from tests.experiments.pages import DOCS, with_tables
from tests.experiments.rates import divided, write_rows

HERE = Path(__file__).parent
ROWS = DOCS / "alternatives.csv"  # finished runs; which predictions were right is beside it
PAGE = ROWS.with_suffix(".md")
WAYS = tomllib.loads((HERE / "ways.toml").read_text("utf-8"))
OURS = ("quick", "race")
TASKS = {"movies": 2500, "nyt": 1500, "quora": 4000}  # and how many examples are the test part
LABELS = ("all", "1000", "100")
SEEDS = ("0", "1", "2")
MINUTES = 20.0
MARGIN = 0.01  # by which our answer may be worse than the best without being called a loss
COLUMNS = (
    "task", "labels", "way", "seed", "minutes", "status", "reason", "score", "examples",
    "wall_s", "peak_mib", "model_mb", "lines", "other_cores", "note", "command", "versions",
    "measurement_version",
)  # fmt: skip


@cache
def split(task, data):
    """A header and rows to train on, and those of the test part, the same ones each time. What
    belongs together, such as equal texts, is in one part."""
    rows = load_data(task, data if task == "quora" else None)
    head, test, train = divided(rows, TASKS[task])
    return [head, *train], [head, *test]


def write_files(parts, labels, seed, folder):
    """Write a training CSV with a number of labels that a seed draws, nine tenths for all, since
    not every way has a seed of its own; and the texts to predict, whose labels are returned."""
    (head, *rows), test = parts
    random.Random(int(seed)).shuffle(rows)  # noqa: S311
    some = rows[: 9 * len(rows) // 10 if labels == "all" else int(labels)]
    write_rows(folder / "train.csv", [head, *some])
    write_rows(folder / "new.csv", [row[:-1] for row in test])
    return [row[-1] for row in test[1:]]


def read_csv(path):
    if not path.is_file():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def key_of(row):
    return row["seed"], row["task"], row["labels"], row["way"]


def keep(path, row, right):
    """Add a row, after the right answers of its predictions, a bit each."""
    if right is not None:
        bits = _read_bits(path) | {"/".join(key_of(row)): np.packbits(right)}
        write_atomically(path.with_suffix(".safetensors"), save(bits))
    write_csv(path, COLUMNS, sorted([*read_csv(path), row], key=key_of))


def _read_bits(path):
    path = path.with_suffix(".safetensors")
    return load_file(path) if path.is_file() else {}


def right_answers(path):
    bits, done = _read_bits(path), [row for row in read_csv(path) if row["status"] == "ok"]
    keys = {key_of(row): int(row["examples"]) for row in done}
    return {key: np.unpackbits(bits["/".join(key)], count=n) > 0 for key, n in keys.items()}


def hours_left(missing, rows, minutes):
    """Of missing runs: each like those of its way and labels that have run, or the limit."""
    known = defaultdict(list)
    for row in rows:
        known[key_of(row)[2:]].append(float(row["wall_s"] or 0) / 3600)
    return float(sum(np.mean(known.get(key[2:], minutes / 60)) for key in missing))


def figures(path):
    rows, right, tables = read_csv(path), right_answers(path), []
    for task, labels in product(TASKS, LABELS):
        own = [row for row in rows if (row["task"], row["labels"]) == (task, labels)]
        if own:
            ways = {way: [row for row in own if row["way"] == way] for way in WAYS}
            shown = [_figures(way, some, right) for way, some in ways.items() if some]
            gaps = [gap for name in OURS if (gap := _gap(name, task, labels, right))]
            tables.append({"task": task, "labels": labels, "ways": shown, "gaps": gaps})
    return {
        "tables": tables, "runs": len(rows), "margin": MARGIN,
        "planned": len(SEEDS) * len(TASKS) * len(LABELS) * len(WAYS),
        "hours": sum(float(row["wall_s"] or 0) for row in rows) / 3600,
        "other_cores": max((float(row["other_cores"] or 0) for row in rows), default=0.0),
        "versions": {row["way"]: row["versions"] for row in rows if row["versions"]},
        "commands": {row["way"]: row["command"] for row in rows if row["command"]},
    }  # fmt: skip


def _figures(way, rows, right):
    done = [row for row in rows if row["status"] == "ok"]
    other = [row for row in rows if row["status"] != "ok"]
    score = np.array([right[key_of(row)] for row in done], float)
    return {
        "way": way, "seeds": len(done), "score": spread(score).interval() if done else None,
        "costs": {name: np.mean([float(row[name]) for row in done]) if done else None
                  for name in ("wall_s", "peak_mib", "model_mb", "lines")},
        "others": sorted({f"{row['status']}: {row['reason']}".rstrip(": ") for row in other}),
        "missing": len(other),
    }  # fmt: skip


def _gap(name, task, labels, right):
    """From one of ours to the best of the others, over common seeds and examples, if any."""
    gaps = {}
    for other in [way for way in WAYS if way not in OURS]:
        pairs = [[right.get((s, task, labels, way)) for way in (name, other)] for s in SEEDS]
        both = [a.astype(float) - b for a, b in pairs if a is not None and b is not None]
        if both:
            gaps[other] = spread(np.array(both)).interval()
    best = min(gaps, key=lambda other: gaps[other].value, default=None)
    return best and {"ours": name, "best": best, "gap": gaps[best]}


def page(text, path=ROWS):
    return with_tables(text, __file__, **figures(path))
