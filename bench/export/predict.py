"""Predictions of an exported model for a file of texts.

FILE has a text on each line (.txt), or a column of texts (CSV, TSV, JSON lines, Parquet); - is
stdin, with a text on each line. A row without a text has an empty prediction.

Examples:
  python -m bench.predict my-model texts.txt
  python -m bench.predict my-model reviews.csv --text review --to predictions.csv
  echo "a fine film" | python -m bench.predict my-model - --json
"""

import csv
import json
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TextIO

import click
import numpy as np

from bench.common.command import FILE, described, options_in
from bench.common.csvfile import check_csv, csv_error, harmless
from bench.common.errors import DiskFullError, InputError, cause_of
from bench.common.files import atomic_file
from bench.common.messages import count, one_line, printable
from bench.common.progress import Console, note_to_stderr
from bench.examples.columns import choose_texts
from bench.examples.reading import Words, table_of_texts, texts_in
from bench.examples.textfiles import typed_texts
from bench.export.formats import BASE, Format, format_in
from bench.export.snippets import answers
from bench.export.snippets.answers import words_in
from bench.plan.adapter_configs import check_adapters
from minbert.files import CONFIG, check_config, read_json

_STDIN: Final = "-"
_CHUNK: Final = 1024  # rows that are predicted before the next ones are read
_PATIENCE_S: Final = 2.0
_MARK: Final = "|"  # between the classes of a text that has several, unless it is in a class's name

Answer = tuple[Any, Sequence[Any]]
"""The prediction for a text, and the probability of each class; or the text and its entities."""
Predict = Callable[[Sequence[Any]], list[Answer]]
Write = Callable[[int, Answer | None], None]
"""Writes the answer to a row, by its number from 1; None: it has no text."""


@described(__doc__)
@click.argument("folder", metavar="MODEL", type=FILE)
@click.argument("file", metavar="FILE|-")
@options_in(__file__, "predict.toml")
def command(
    folder: Path, file: str, text: str | None, text_pair: str | None, window_stride: int | None,
    to: Path | None, as_json: bool, base: Path | None, weights: str | None,
) -> int:  # fmt: skip
    if to is not None:
        if folder.resolve() in to.resolve().parents:
            raise InputError(f"--to {to}: is in the model's folder; name a file elsewhere")
        check_csv(to, [] if file == _STDIN else [Path(file)], "--to")
    exported = format_in(folder)
    classes, takes_pairs = _read_outputs(folder / exported.config)
    by_word = answers.by_word(folder)
    if window_stride is not None and not by_word:
        raise InputError(f"--window-stride: {folder} labels texts, not their words; leave it out")
    is_typed = file == _STDIN
    table = typed_texts(sys.stdin.buffer, "stdin") if is_typed else table_of_texts(Path(file))
    columns = choose_texts(table, text, text_pair, pairs=takes_pairs, by_word=by_word)
    rows = (texts_in(fields, by_word=by_word) for _, fields in table.read(columns))
    chunks = iter(lambda: [*islice(rows, _CHUNK)], [])
    first = next(chunks, None)
    if first is None:
        raise InputError(f"{table.name}: holds no text")
    note_to_stderr(*table.notes)
    left_out, unread = Counter[str](), Counter[str]()
    with warnings.catch_warnings(action="ignore"), _output(to) as stream, _progress() as show:
        predict = _load(folder, exported, base, weights, window_stride, unread)
        if by_word:
            write = _span_writer(stream, as_json)
        else:
            write = (_json_writer if as_json else _csv_writer)(stream, classes)
        done = 0
        for chunk in chain([first], chunks):
            left_out.update(row for row in chunk if isinstance(row, str))
            predicted = _in_order(predict, [row for row in chunk if not isinstance(row, str)])
            for number, row in enumerate(chunk, start=done + 1):
                write(number, None if isinstance(row, str) else next(predicted))
            done += len(chunk)
            show(done)
        if left_out.total() == done:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items())
            raise InputError(f"{table.name}: none of {done:,} rows can be predicted ({reasons})")
    for reason, number in left_out.items():
        note_to_stderr(f"{count(number, 'row is', 'rows are')} without a prediction, {reason}")
    if unread["words"]:
        are = count(unread["words"], "word is", "words are")
        note_to_stderr(
            f"{are} beyond the model's length or without a token, and not read; "
            "--window-stride N reads long texts in windows"
        )
    return 0


def _read_outputs(path: Path) -> tuple[tuple[str, ...], bool]:
    """The names of an exported model's classes in the order of the logits (none of a regression),
    and whether it takes pairs of texts, by its file of settings."""
    try:
        config = read_json(path)
        names = config["id2label"]
        classes = tuple(str(names[str(i)]) for i in range(len(names)))
        has_classes = config["problem_type"] != "regression"
        return (classes if has_classes else ()), bool(config["text_pairs"])
    except (InputError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: does not describe an exported model ({one_line(str(error))}); export it again"
        ) from error


def _load(
    folder: Path, exported: Format, base: Path | None, weights: str | None, stride: int | None,
    unread: Counter[str],
) -> Predict:  # fmt: skip
    """The model of an exported folder, loaded by this project's own snippet of its format; the
    words that are not read are counted in `unread`."""
    names = sorted(path.name for path in folder.glob("*.onnx"))
    if weights is not None and weights not in names:
        has = " and ".join(names) or "one file of weights"
        raise InputError(f"--weights {weights}: the model has {has}")
    if base is not None and not (folder / BASE).is_file():
        raise InputError(f"--base {base}: {folder} is a whole model and needs none")
    check_adapters(folder, adapts=exported.is_adapter)
    _check_configs(folder)
    exported.check(folder)
    try:
        snippet = exported.script()
        if "transformers" in sys.modules:
            import_module("transformers").logging.disable_progress_bar()
        options = {} if weights is None else {"weights": weights}
        model = snippet.load(folder, None if base is None else str(base), **options)
    except ImportError as error:
        raise InputError(f"{folder}: needs {error.name}: {exported.install}") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{folder}: can't be loaded: {cause_of(error)}") from error

    def entities(rows: Sequence[Any]) -> Iterator[Answer]:
        texts = [" ".join(row) if isinstance(row, Words) else row for row in rows]
        ends = [
            [word.span() for word in re.finditer("[^ ]+", text)]
            if isinstance(row, Words)
            else words_in(text)
            for row, text in zip(rows, texts, strict=True)
        ]
        every = zip(texts, ends, strict=True)
        words = [[text[begin:end] for begin, end in each] for text, each in every if each]
        run = answers.predictor(folder, snippet.logits, snippet.tokens, stride)
        values = run(model, words) if words else np.empty((0, 1))
        unread["words"] += int((~values.any(axis=1)).sum())
        left = iter(values)
        for text, each in zip(texts, ends, strict=True):
            logits = [*islice(left, len(each))]
            yield text, answers.spans(folder, each, np.array(logits)) if each else []

    def predict(texts: Sequence[Any]) -> list[Answer]:
        try:
            if answers.by_word(folder):
                return [*entities(texts)]
            rows = snippet.logits(model, texts)
            labels, shares = answers.labels(folder, rows), answers.probabilities(folder, rows)
        except Exception as error:
            raise InputError(f"{folder}: can't predict: {cause_of(error)}") from error
        return [*zip(labels, shares, strict=True)]

    return predict


def _check_configs(folder: Path) -> None:
    """Refuse each config.json by which a library would read other files, or fetch code."""
    for path in sorted(folder.rglob(CONFIG)):
        check_config(path)
        rest: list[Any] = [read_json(path)]
        for inner in rest:  # grows
            values = inner if isinstance(inner, dict) else {}
            rest += inner if isinstance(inner, list) else values.values()
            for name, value in values.items():
                if name.endswith("_implementation") and value not in (None, "eager", "sdpa"):
                    raise InputError(f"{path}: {name[:60]!r} may name code to fetch; remove it")


def _in_order(predict: Predict, rows: Sequence[tuple[str, ...]]) -> Iterator[Answer]:
    """The answers to rows, which are predicted in order of length, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    is_text = [len(row) == 1 and not isinstance(row, Words) for row in rows]
    texts = [rows[i][0] if is_text[i] else rows[i] for i in order]
    answers = dict(zip(order, predict(texts) if texts else (), strict=True))
    return (answers[i] for i in range(len(rows)))


def _csv_writer(stream: TextIO, classes: Sequence[str]) -> Write:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "prediction", *(f"p_{name}" for name in classes)])
    is_joined = not any(_MARK in name for name in classes)

    def write(number: int, answer: Answer | None) -> None:
        prediction, shares = answer or ("", ())
        if isinstance(prediction, list):
            prediction = _MARK.join(prediction) if is_joined else json.dumps(prediction)
        text = _harmless(prediction) if isinstance(prediction, str) else f"{prediction:.6g}"
        fields = [f"{share:.6g}" for share in shares][: len(classes)] or [""] * len(classes)
        writer.writerow([number, text, *fields])

    return write


def _span_writer(stream: TextIO, as_json: bool) -> Write:
    """Writes the entities in a row's text: a line of JSON for the row, or of CSV for each."""
    writer = csv.writer(stream, lineterminator="\n")
    if not as_json:
        writer.writerow(["row", "begin", "end", "type", "score", "text"])

    def write(number: int, answer: Answer | None) -> None:
        text, entities = answer or ("", [])
        every = [
            {**one, "score": float(f"{one['score']:.6g}"), "text": text[one["begin"] : one["end"]]}
            for one in entities
        ]
        if as_json:
            record = {"row": number, "entities": every if answer else None}
            stream.write(f"{json.dumps(record, ensure_ascii=False)}\n")
        for one in [] if as_json else every:
            names = harmless(one["type"]), one["score"], harmless(one["text"])
            writer.writerow([number, one["begin"], one["end"], *names])

    return write


def _harmless(text: str) -> str:
    """A class's name that no spreadsheet takes for a formula; numbers stay, negative ones too."""
    try:
        float(text)
    except ValueError:
        return harmless(text)
    return text


def _json_writer(stream: TextIO, classes: Sequence[str]) -> Write:
    def write(number: int, answer: Answer | None) -> None:
        record: dict[str, Any] = {"row": number, "prediction": answer and answer[0]}
        if answer is not None and classes:
            named = zip(classes, answer[1], strict=True)
            record["probabilities"] = {name: float(f"{share:.6g}") for name, share in named}
        stream.write(f"{json.dumps(record, ensure_ascii=False)}\n")

    return write


class _Shown(TextIOWrapper):
    """A terminal, which gets names of classes without control characters."""

    def write(self, text: str) -> int:
        return super().write(printable(text))


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """The stream of the predictions: a file that appears when it is complete, or stdout."""
    if path is None:
        kind = _Shown if sys.stdout.isatty() else TextIOWrapper
        stdout = kind(sys.stdout.buffer, "utf-8", errors="backslashreplace", newline="")
        try:
            yield stdout
            stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):  # its reader has enough, as `head` has
                raise click.exceptions.Exit(0) from error
            raise DiskFullError(f"stdout can't be written ({error.strerror})") from error
        finally:
            stdout.detach()
        return
    try:
        with atomic_file(path) as file:
            stream = TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
            yield stream
            stream.flush()
            stream.detach()
    except OSError as error:
        raise csv_error(path, error, "--to") from error


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A function to call with the number of rows done, which a terminal shows after a while."""
    begun = time.monotonic()
    with Console(stderr=True).status("") as status:
        status.stop()

        def show(done: int) -> None:
            if time.monotonic() - begun > _PATIENCE_S:
                status.update(f"{done:,} rows predicted")
                status.start()

        yield show
