"""The check of an exported model: its answers, from a fresh process with plain libraries, against
this project's own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.files import below
from bench.export.formats import ANSWERS, SNIPPET, format_in
from bench.export.trained import Base, Trained
from bench.plan.adapter_configs import check_adapters
from minbert.data.tasks import Examples, Task

_HARNESS: Final = Path(__file__).with_name("harness.py")
_HIDDEN: Final = ("adapters", "bench", "minbert")  # packages that the process can't import
_CACHES: Final = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE")
"""Environment variables that would lead past HF_HUB_CACHE."""
BATCH_SIZE: Final = 32
TOLERANCE: Final = 1e-4
"""The most by which a logit may differ; of a regression, in units of the labels' std if that is
more, plus the rounding of the labels' mean in fp32."""
_FAILED: Final = "the exported model failed its check and was not kept"


@dataclass(frozen=True)
class Answer:
    """The answers of an exported model to N texts or pairs."""

    logits: NDArray[np.float32]  # [N, C], of a regression in the unit of the labels
    labels: list[Any]  # for each text, as the snippet names them: a class, classes, or a number
    one_ms: list[float]  # latency of one text, tokenising included, when timed
    batch_ms: list[float]  # and of a batch of 32
    libraries: dict[str, str]  # versions of those that made them
    entities: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # as of the harness


def run_fresh(
    folder: Path,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    *,
    snippet: Path | None = None,
    base: Base | None = None,
    weights: str | None = None,
    timed: bool = False,
    piped: int = 0,
    threads: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Answer:
    """Run the snippet of an exported model, or another one, on texts or pairs, in a process that
    can't import this project. InputError with the last line that it wrote, if it fails.

    The base of adapters comes from its folder here, under its name on the hub if the hub has it;
    without one the snippet gets it by itself. `weights` is the file of the weights, if the format
    has several. `timed`, latencies are measured, whose batches have a size of their own. In the
    first `piped` texts, entities are compared with those of transformers' pipeline. Libraries use
    as many threads as they choose, unless a number is given.
    """
    options = {} if weights is None else {"weights": weights}
    environment = {key: value for key, value in os.environ.items() if key not in _CACHES}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    with TemporaryDirectory(prefix=".fresh-", dir=folder.parent) as place:
        request, answer = Path(place, "request.json"), Path(place, "answer.json")
        if base is not None and base.on_hub:
            environment["HF_HUB_CACHE"] = str(hub_cache(base, Path(place, "hub")))
        elif base is not None:
            options["base"] = str(base.folder.resolve())
        values = {
            "folder": str(folder.resolve()),
            "snippet": str((snippet or folder / SNIPPET).resolve()),
            "answers": str(ANSWERS if snippet else (folder / ANSWERS.name).resolve()),
            "texts": texts,
            "options": options,
            "timed": timed,
            "piped": piped,
            "threads": threads,
            "batch_size": batch_size,
            "hidden": _HIDDEN,
        }
        request.write_text(json.dumps(values), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-E", "-P", "-B", _HARNESS, request, answer],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise InputError(f"{folder}: fails in a fresh process: {lines[-1]}")
        logits: NDArray[np.float32] = np.load(f"{answer}.npy")
        return Answer(logits, **json.loads(answer.read_text(encoding="utf-8")))


def hub_cache(base: Base, folder: Path) -> Path:
    """A cache folder of the hub's library that holds the base alone, as a link to its files."""
    commit = base.revision or "0" * 40
    model = below(folder, f"models--{base.name.replace('/', '--')}")
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    (model / "snapshots").mkdir()
    below(model / "snapshots", commit).symlink_to(base.folder.resolve(), target_is_directory=True)
    return folder


_Logits = NDArray[np.float32]


def check(trained: Trained, folder: Path, expected: _Logits) -> Answer:
    """Compare an exported folder with the model that it was made from, by its logits [N, C] in fp32
    in the unit of the labels, on all dev examples, an empty text and one that is cut; returns the
    answers to the former. InputError if it does not load, or logits or names of classes differ."""
    count = len(expected)
    hard = _hard_texts(trained)
    expected = np.concatenate([expected, trained.exact_logits(hard)])
    texts = texts_of(trained.dev) + texts_of(hard)
    run = partial(run_fresh, folder, base=trained.base)
    check_adapters(folder, adapts=format_in(folder).is_adapter)
    try:
        answer = run(texts)
    except InputError as error:
        raise InputError(f"{_FAILED}: {str(error).removeprefix(f'{folder}: ')}") from error
    if answer.logits.shape != expected.shape:
        raise InputError(
            f"{_FAILED}: it returns {answer.logits.shape[-1]} logits for a text, the cell's model "
            f"{expected.shape[-1]}: the head is missing or wrong"
        )
    if wrong := _wrong(answer.logits, expected, _tolerance(trained)):
        cause = _cause(trained, texts, answer.logits, expected, run)
        most = np.abs(answer.logits - expected).max()
        raise InputError(
            f"{_FAILED}: {cause}; logits differ by up to {most:.2g} in {len(wrong)} of "
            f"{len(expected)} dev {'words' if trained.dev.by_word else 'examples'}, first in "
            f"number {wrong[0] + 1}"
        )
    for label, own in zip(answer.labels, labels_of(trained.task, answer.logits), strict=True):
        if label != own:
            raise InputError(
                f"{_FAILED}: it says {label!r} where the model says {own!r}: class names differ, "
                "or their order does"
            )
    names = json.loads((folder / format_in(folder).config).read_text(encoding="utf-8"))["id2label"]
    if list(names.values()) != list(trained.task.classes or (trained.task.name,)):
        raise InputError(f"{_FAILED}: class names differ, or their order does")
    return replace(answer, logits=answer.logits[:count], labels=answer.labels[:count])


def _hard_texts(trained: Trained) -> Examples:
    """An empty text and one that is cut, in case that dev has none."""
    texts = ("", "word " * trained.job.cell.max_length)
    if trained.dev.by_word:
        words = "word " * trained.job.cell.max_length
        return Examples(
            (words[:-1],), None, np.zeros((1, words.count(" ")), dtype=trained.dev.labels.dtype)
        )
    pairs = None if trained.dev.text_b is None else texts[::-1]
    return Examples(texts, pairs, trained.dev.labels[:1].repeat(len(texts), axis=0))


def texts_of(examples: Examples) -> list[Any]:
    """Texts, pairs of texts, or lists of words, as snippets take them."""
    if examples.by_word:
        return [text.split(" ") for text in examples.text_a]
    if examples.text_b is None:
        return list(examples.text_a)
    return list(zip(examples.text_a, examples.text_b, strict=True))


def labels_of(task: Task, logits: _Logits) -> list[Any]:
    """The class of each row of logits, the list of its classes, or its number."""
    if task.kind == "regression":
        return [float(row[0]) for row in logits]
    if task.kind == "multi_label":
        return [
            [name for name, logit in zip(task.classes, row, strict=True) if logit > 0]
            for row in logits
        ]
    return [task.classes[row.argmax()] for row in logits]


def _tolerance(trained: Trained) -> float:
    mean, std = trained.unit
    return TOLERANCE * max(1.0, std) + 2 * float(np.spacing(np.float32(abs(mean))))


def _wrong(logits: _Logits, expected: _Logits, tolerance: float) -> list[int]:
    right = np.abs(logits - expected) <= tolerance  # false where one is not a number
    return list(np.flatnonzero(~right.all(axis=1)))


def _cause(
    trained: Trained,
    texts: Sequence[Any],
    logits: _Logits,
    expected: _Logits,
    run: Callable[..., Answer],
) -> str:
    tolerance = _tolerance(trained)
    if _wrong(run(texts).logits, logits, tolerance):
        return "a part of the weights, such as the head, is missing: it is random in every process"
    wrong = _wrong(logits, expected, tolerance)
    if trained.dev.by_word:
        return "pooling, adapter scale or weights differ, or words are split into other tokens"
    right = [number for number in range(len(texts)) if number not in set(wrong)]
    first, second = (texts, None) if trained.dev.text_b is None else zip(*texts, strict=True)
    lengths = trained.tokenizer.encode(first, second, trained.job.cell.max_length).lengths  # [N]
    if right and (longest := lengths[right].max()) < lengths[wrong].min():
        return f"texts over {longest} tokens are truncated differently"
    if not _wrong(run(texts, batch_size=1).logits, expected, tolerance):
        return "padding changes the logits: the attention mask is not used"
    nearest = np.abs(logits[:, :, None] - expected[:, None, :]).max(axis=0).argmin(axis=1)  # [C]
    if not _wrong(logits, expected[:, nearest], tolerance):
        return "the classes are in another order"
    if all(map(_is_linear, logits.T, expected.T)):
        return "the logits are scaled or shifted"
    return "pooling, adapter scale or weights differ"


def _is_linear(logits: _Logits, expected: _Logits) -> bool:
    """Whether values [N] are others, multiplied and shifted."""
    columns = np.stack([expected, np.ones_like(expected)], axis=1).astype(np.float64)
    fit, *_ = np.linalg.lstsq(columns, logits.astype(np.float64), rcond=None)
    spread = np.abs(logits - logits.mean()).max()
    return bool(np.abs(columns @ fit - logits).max() < TOLERANCE * max(1.0, spread))
