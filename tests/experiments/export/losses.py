"""Losses of an exported folder's train.py and of the worker's cell, compared for many settings: two
tables, whose largest values docs/export.md has."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from adapters.names import LAYER_SETS
from bench.export.formats import FORMATS
from bench.export.formats.contents import write_tokenizer, write_training
from bench.export.trained import Base, Trained
from bench.plan.metrics import MULTI_LABEL, REGRESSION, SINGLE_LABEL, WORDS
from minbert.data.tasks import Examples, TaskData
from minbert.data.tasks.prepared import Prepared, lines, write
from minbert.data.tokenizer import Tokenizer
from minbert.data.words import padded
from minbert.files import WEIGHTS, sha256_of
from tests.bench.conftest import narrow
from tests.bench.tiny_cells import cell, ended, job_of
from tests.experiments.export import plain_training
from tests.experiments.pages import markdown_table

STEPS = 20
TOLERANCE = 1e-4  # of losses in fp32, relative
METHODS = [("full", ""), ("head", ""), *product(("lora", "dora"), LAYER_SETS)]
HEADS = list(product(("pooler", "mean"), ("linear", "nonlinear")))
FEW = [("full", ""), ("lora", "all-lin"), ("dora", "attn-only")]
CHANGES = [
    {"class_weights": "balanced"}, {"label_smoothing": 0.2}, {"optimizer": "adamax"},
    {"optimizer": "radam"}, {"schedule": "halving"}, {"layer_decay": 0.5},
    {"lora_plus_ratio": 8.0}, {"batching": "shuffled"}, {"batch_size": 1, "max_steps": STEPS},
    {"kernels": "reference"}, {"seed": 3}, {"amp": "bf16"}, {"contrastive": 0.5},
]  # fmt: skip
WINDOWS = {"max_length": 16, "window_stride": 5, "max_steps": STEPS}
_CLASSES = ("awful", "dull", "fair", "good")
_WORDS = (
    "a", "good", "film", "about", "nothing", "that", "nobody", "will", "see", "twice", "unless",
    "it", "rains",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A cell to train on both sides, with `changes` to the settings of `prepare`."""

    mode: str = "full"
    layers: str = ""
    problem: str = SINGLE_LABEL
    pairs: bool = False
    changes: dict = field(default_factory=dict)

    @property
    def name(self):
        problem, pairs = self.problem * (self.problem != SINGLE_LABEL), "pairs" * self.pairs
        changes = [f"{name}={value}" for name, value in self.changes.items()]
        return " ".join(filter(None, [self.mode, self.layers, problem, pairs, *changes]))


def examples(problem, pairs, count, seed):
    """Made-up texts of 1 to 40 words, whose labels follow from the words."""
    rng = np.random.default_rng(seed)

    def texts():
        lengths = (1 + int(rng.integers(40) ** 2 / 40) for _ in range(count))
        return tuple(" ".join(rng.choice(_WORDS, length)) for length in lengths)

    first, second = texts(), texts() if pairs else None
    scores = np.array([a.count("good") + 3 * ("film" in a) + a.count("rains") for a in first])
    labels = np.array([0, 1, 1, 2, 3, 3])[np.minimum(scores, 5)]
    if problem == REGRESSION:
        labels = scores + 0.5
    if problem == WORDS:
        films = [[int(word == "film") + 2 * (word == "it") for word in a.split()] for a in first]
        labels = padded(films)  # it after film goes on with the entity
    if problem == MULTI_LABEL:
        labels = np.array([[f" {w} " in a for w in ("good", "film", "it", "a")] for a in first])
        labels = labels.astype(np.int8)
    return Examples(first, second, labels)


def prepare(setting, checkpoint, folder):
    """Train a cell, and write what its export has for a training; the loss of each step."""
    sides = [examples(setting.problem, setting.pairs, *side) for side in ((75, 0), (16, 1))]
    classes = {REGRESSION: (), WORDS: ("O", "B-film", "I-film")}.get(setting.problem, _CLASSES)
    prepared = Prepared("made-up", setting.problem, classes, "")
    data = TaskData(prepared.task, *sides)
    source = write(folder / "data", replace(prepared, digest=data.digest), data)
    values = {
        "task": "made-up", "data_digest": data.digest[:16], "max_train": None, "max_dev": None,
        "epochs": 2, "dropout": 0.0, "weight_decay": 0.1, "rank": 4 if setting.layers else None,
        **setting.changes,
    }  # fmt: skip
    of = cell(checkpoint, setting.mode, setting.layers, **values)
    job = replace(job_of(of, checkpoint), data=str(source))
    run = ended(job, folder / "cell")
    weights = checkpoint / WEIGHTS[0]
    base = Base("tiny", False, None, weights.name, sha256_of(weights), None, checkpoint)
    split = run.train[""]
    trained = Trained(
        row=None, job=job, base=base, task=data.task, model=run.model, dev=data.dev,
        tokenizer=Tokenizer.from_folder(checkpoint), unit=(split.mean, split.std), refitted=False,
    )  # fmt: skip
    write_training(trained, folder)
    form = FORMATS["peft" if setting.layers else "transformers"]
    if form.cannot(job.cell) is None:
        form.copy_scripts(folder)
    (folder / "base").symlink_to(checkpoint)
    write_tokenizer(trained, folder)
    for side, each in zip(("train", "dev"), sides, strict=True):
        shutil.copy(source / f"{side}.jsonl", folder)
        if setting.problem == WORDS:  # as python -m bench.data --write does
            (folder / f"{side}.jsonl").write_text("".join(lines(each, classes)), encoding="utf-8")
    return [float(loss) for loss in run.losses]


def train(folders):
    """The losses of train.py in folders, all in one fresh process; none where it has stopped."""
    command = [sys.executable, "-I", plain_training.__file__, *map(str, folders)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    files = [folder / "losses.jsonl" for folder in folders]
    every = [file.read_text().splitlines() if file.is_file() else [] for file in files]
    return [[json.loads(line)["loss"] for line in each] for each in every]


def difference(ours, theirs):
    expected, actual = np.array(ours), np.array(theirs)
    assert expected.shape == actual.shape == (STEPS,)
    return float(np.max(np.abs(actual - expected) / np.abs(expected)))


def checkpoints(folder, vocabulary):
    """A tiny checkpoint of two layers with weights that say something, and one without pooler."""
    whole = narrow(2, folder / "tiny", vocabulary, spread=0.1)
    lacking = shutil.copytree(whole, folder / "without-pooler")
    kept = {name: t for name, t in load_file(whole / WEIGHTS[0]).items() if "pooler" not in name}
    save_file(kept, lacking / WEIGHTS[0], metadata={"format": "pt"})
    return whole, lacking


def matrix():
    """Row and column of a table, the setting, and whether its base lacks a pooler."""
    for mode, layers in METHODS:
        name = f"{mode} {layers}".rstrip()
        for pooling, head in HEADS:
            setting = Setting(mode, layers, changes={"pooling": pooling, "head": head})
            yield name, f"{pooling}, {head} head", setting, False
        yield name, "new pooler, linear head", Setting(mode, layers), True
    others = {
        "several labels": {"problem": MULTI_LABEL},
        "a regression": {"problem": REGRESSION},
        "pairs": {"pairs": True},
        "a regression on pairs": {"problem": REGRESSION, "pairs": True},
        "tags of words": {"problem": WORDS},
        "tags of words in windows": {"problem": WORDS, "changes": WINDOWS},
    }
    others |= {Setting("", changes=changes).name: {"changes": changes} for changes in CHANGES}
    for (name, what), (mode, layers) in product(others.items(), FEW):
        yield name, f"{mode} {layers}".rstrip(), Setting(mode, layers, **what), False


def main():
    from minbert.assets.embedded import fetch

    torch.set_num_threads(1)
    vocabulary = fetch("minilm")
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        os.environ["MINBERT_ASSETS"] = str(vocabulary.parent)
        os.environ["MINBERT_CACHE"] = str(home / "cache")
        whole, lacking = checkpoints(home, vocabulary)
        chosen, expected = list(matrix()), []
        folders = [home / str(number) for number in range(len(chosen))]
        for (*_, setting, lacks), folder in zip(chosen, folders, strict=True):
            sys.stderr.write(f"{setting.name}\n")
            folder.mkdir()
            expected.append(prepare(setting, lacking if lacks else whole, folder))
        values = map(difference, expected, train(folders))
        tables = {True: {}, False: {}}
        for (row, column, *_), value in zip(chosen, values, strict=True):
            tables["head" in column][row, column] = value
    for of in tables.values():
        frame = pd.Series(of).unstack(sort=False).map("{:.0e}".format)
        print(markdown_table(["", *frame], [[row, *frame.loc[row]] for row in frame.index]))


if __name__ == "__main__":
    main()
