"""Trained cells on a tiny base with random weights, made without training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from string import ascii_lowercase
from typing import Any, Final
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.injection import inject
from bench.common.errors import InputError
from bench.engines.engine import engine_of, heads_of
from bench.examples.tokens import tokenizer_of
from bench.export.check import Answer
from bench.export.formats import FORMATS, SNIPPET, missing_library
from bench.export.snippets import answers
from bench.export.snippets.answers import read_config
from bench.export.trained import Base, Trained
from bench.plan.job import Job
from bench.plan.metrics import WORDS
from minbert.data.problems import PROBLEMS
from minbert.data.tasks import Examples, Task
from minbert.data.words import padded
from minbert.files import sha256_of
from minbert.model.checkpoint import load_encoder, save_checkpoint
from minbert.model.classifier import BertClassifier, Classifier, initialise
from minbert.model.config import BertConfig
from tests import encoders
from tests.adapters.small import disturb
from tests.bench.synthetic_rows import cell, planned_row
from tests.bench.tiny_cells import job_of
from tests.components import need

CLASSES: Final = ("wrong", "right", "maybe")  # not in the order of the alphabet
TAGS: Final = ("O", "B-film", "I-film")
HUB: Final = "someone/small"
MAX_LENGTH: Final = 16
UNIT: Final = (3.0, 1.5)
CONFIG: Final = BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    vocab_size=80, max_position_embeddings=24, initializer_range=0.2,
)  # fmt: skip
_WORDS: Final = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", ",", "!", "?", "the",
    "not", "##ly", "##ing",
)  # fmt: skip
_TEXTS: Final = (
    "The film", "good", "", "not a bad film, but boring!", "Café? naïve", "x" * 30,
    "badly acted and badly cut and far too long for what it has to say", "the the the not",
    "日本語 and a tab\there", "a\u2028b \x00c", "good! " * 12, "filming", "🙂 ok", "?!",
    "  spaces  ",
)  # fmt: skip


def base_folder(folder: Path, layers: int = 2) -> Path:
    """A checkpoint with a vocabulary of letters and a few words."""
    words = [*_WORDS, *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = replace(CONFIG, num_hidden_layers=layers)
    model = BertClassifier(config, 3, pooling="pooler", dropout=0.1)
    initialise(model, 0)
    save_checkpoint(model.bert, folder)
    return folder


def base_of(folder: Path, on_hub: bool = True) -> Base:
    """The base in a folder, as if the hub had it or not."""
    file = "model.safetensors"
    return Base(
        name=HUB if on_hub else folder.name, on_hub=on_hub, revision="1f" * 20 if on_hub else None,
        file=file, sha256=sha256_of(folder / file), licence="apache-2.0", folder=folder,
    )  # fmt: skip


def examples(kind: str, pairs: bool) -> Examples:
    if kind == WORDS:
        texts = [" ".join(text.split()) for text in _TEXTS if text.strip()]
        tags = [[n % len(TAGS) for n, _ in enumerate(text.split(" "))] for text in texts]
        return Examples(tuple(texts), None, padded(tags))
    count = len(_TEXTS)
    labels: dict[str, NDArray[Any]] = {
        "classification": np.arange(count) % len(CLASSES),
        "multi_label": (np.arange(count * len(CLASSES)).reshape(count, -1) % 2).astype(np.int8),
        "regression": np.linspace(1, 5, count),
    }
    return Examples(_TEXTS, _TEXTS[4:] + _TEXTS[:4] if pairs else None, labels[kind])


def trained(
    folder: Path, mode: str = "lora", layers: str | None = "attn-only", *,
    pooling: str = "pooler", head: str = "linear", kind: str = "classification",
    pairs: bool = False, on_hub: bool = True,
) -> Trained:  # fmt: skip
    """A cell on the base in a folder, every parameter that trains moved at random."""
    rank, layers = (4, layers) if mode in ("lora", "dora") else (None, None)
    of = cell(
        mode, rank, layers, "off", model=HUB, pooling=pooling, head=head, task="small",
        max_length=MAX_LENGTH,
    )  # fmt: skip
    task = _task(kind)
    config, heads = BertConfig.from_folder(folder), heads_of(task, [""])
    model = BertClassifier(config, heads, pooling=pooling, dropout=0.1, head=head)
    new_pooler = load_encoder(model.bert, folder)
    initialise(model, 0)
    inject(model, mode=mode, layers=layers, rank=rank, alpha=16.0, new_pooler=new_pooler, seed=0)
    return _trained(job_of(of, folder), folder, task, model, kind, pairs, on_hub)


def trained_by_library(
    folder: Path, mode: str = "lora", layers: str | None = "attn-only", *,
    kind: str = "classification", pairs: bool = False, on_hub: bool = True, **changes: Any,
) -> Trained:  # fmt: skip
    """The same of engine transformers; checkpoint and changes as of `tests.encoders.job`."""
    task = _task(kind)
    job = encoders.job(folder, mode, layers, task="small", max_length=MAX_LENGTH, **changes)
    with mock.patch("bench.engines.transformers.task_of", return_value=task):
        model = engine_of(job.cell).build(job)
    return _trained(job, folder, task, model, kind, pairs, on_hub)


@torch.no_grad()
def _trained(
    job: Job, folder: Path, task: Task, model: Classifier, kind: str, pairs: bool, on_hub: bool
) -> Trained:
    disturb(model)
    return Trained(
        row=planned_row(job.cell), job=job, base=base_of(folder, on_hub), task=task,
        model=model.eval(), tokenizer=tokenizer_of(job.cell.engine, folder),
        dev=examples(kind, pairs), unit=UNIT if kind == "regression" else (0.0, 1.0),
        refitted=False,
    )  # fmt: skip


def _task(kind: str) -> Task:
    classes = {"regression": (), WORDS: TAGS}.get(kind, CLASSES)
    name = kind if kind in PROBLEMS else "single_label"
    return Task("small", classes, is_own=True, problem_name=name)


def expected_logits(cell: Trained) -> NDArray[np.float32]:
    return cell.exact_logits(cell.dev)


def answer_here(
    folder: Path, texts: list[Any], *, snippet: Path | None = None, base: Base | None = None,
    batch_size: int = 32, **_: object,
) -> Answer:  # fmt: skip
    """As `run_fresh`, in this process, which takes a second."""
    try:
        script = run_path(str(snippet or folder / SNIPPET))
        loaded = script["load"](folder, None if base is None else str(base.folder))
        starts = range(0, len(texts), batch_size)
        predict = answers.predictor(folder, script["logits"], script.get("tokens"))
        batches = [predict(loaded, texts[n : n + batch_size]) for n in starts]
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines()
        raise InputError(f"{folder}: fails in a fresh process: {lines[-1]}") from error
    rows = np.concatenate(batches)
    named = rows.shape[1] == len(read_config(folder)["id2label"])
    return Answer(rows, answers.labels(folder, rows) if named else [], [1e3], [1e3], {})


def exported(cell: Trained, name: str, folder: Path) -> Path:
    need_libraries(name)
    folder.mkdir(parents=True)
    FORMATS[name].write(cell, folder)
    FORMATS[name].copy_scripts(folder)
    return folder


def need_libraries(name: str) -> None:
    """Skip the test, or fail it where they are required, without the libraries of a format."""
    missing = missing_library(FORMATS[name])
    need(missing is None, missing or "", component=FORMATS[name].extra)


def with_json(name: str, **values: Any) -> Callable[[Path], object]:
    """A function that changes values in a JSON file of a folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change
