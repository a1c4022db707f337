"""The check of an exported model: its answers in a fresh process against this project's own."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.export.formats import format_in
from bench.export.fresh import Answer, run_fresh
from bench.export.trained import Trained
from bench.plan.adapter_configs import check_adapters
from minbert.data.tasks import Examples, Task

TOLERANCE: Final = 1e-4
"""The most by which a logit may differ; of a regression, in units of the labels' std if that is
more, plus the rounding of the labels' mean in fp32."""
_FAILED: Final = "the exported model failed its check and was not kept"

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
